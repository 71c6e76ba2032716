"""One picture by the HTTP API, as any client would make it: submit, wait, download."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from PIL import Image
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from ops.launcher.errors import LauncherError

__all__ = ["Order", "make_pictures"]

_SUFFIXES = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WEBP": (".webp",)}  # Pillow's names


@dataclass(frozen=True)
class Order:
    """What `ops/run --prompt` asks for. `out`: a file, or a directory as `folder` is."""

    prompt: str
    model: str
    folder: Path
    size: str | None = None
    n: int | None = None
    out: Path | None = None

    def check(self) -> None:
        """Raise LauncherError if the picture could not be written: better before it is bought."""
        folder = self.path.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise LauncherError(f"--out: {folder} is no directory that this user may write.")

    def body(self) -> dict[str, Any]:
        """The body of the request."""
        body = {"model": self.model, "prompt": self.prompt, "size": self.size, "n": self.n}
        if self.out:
            for form, suffixes in _SUFFIXES.items():
                if self.out.suffix.lower() in suffixes:
                    body["output_format"] = form.lower()
        return {name: value for name, value in body.items() if value is not None}

    @property
    def path(self) -> Path:
        """Where the picture goes if nothing is there; in a directory it is named by the prompt."""
        if self.out and not self.out.is_dir():
            return self.out
        name = re.sub(r"[^a-z0-9]+", "-", self.prompt.lower()).strip("-")[:40].strip("-")
        return (self.out or self.folder) / (name or "picture")


@dataclass
class _Clock:
    """How long each part took, in seconds."""

    parts: list[tuple[str, float]] = field(default_factory=list)
    last: float = field(default_factory=time.monotonic)

    def note(self, part: str) -> None:
        now = time.monotonic()
        self.parts.append((part, now - self.last))
        self.last = now

    def __str__(self) -> str:
        return ", ".join(f"{part} {seconds:.1f} s" for part, seconds in self.parts)


def make_pictures(
    order: Order, address: str, api_key: str, *, start_seconds: float, cancelled: threading.Event
) -> None:
    """Make what is ordered and write it, telling on stdout and, of the progress, on stderr.

    Raises LauncherError when the task fails, cannot be submitted or written.
    """
    clock = _Clock([("start", start_seconds)])
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {api_key}"
        # Only what costs nothing is repeated.
        retry = Retry(total=6, backoff_factor=0.2, status_forcelist=(502, 503, 504))
        session.mount(address, HTTPAdapter(max_retries=retry))
        try:
            task = _answer(
                session.post(f"{address}/v1/images/generations", json=order.body(), timeout=60)
            )
            clock.note("submit")
            print(json.dumps(task, indent=2, ensure_ascii=False), flush=True)
            task = _wait(session, address + task["poll_url"], cancelled)
            clock.note("wait")
            pictures = [_download(session, entry["url"]) for entry in task["data"]]
        except requests.RequestException as error:
            raise LauncherError(f"The API at {address} does not answer: {error}") from error
        clock.note("download")
    for picture in pictures:
        _write(order, picture)
    origin = f"{order.model}, made by {task.get('provider') or 'an unnamed provider'}"
    if task.get("sandbox"):
        origin += " in the sandbox: a drawing, not the model's own work, and nothing was paid"
    print(f"{origin}\n{clock}", flush=True)


def _answer(response: requests.Response) -> Any:
    """The body of an answer that is no error. Raises LauncherError for the others."""
    try:
        body = response.json()
    except requests.JSONDecodeError:
        body = {}
    if response.ok and body:
        return body
    error = body.get("error") or {}
    message = error.get("message") or response.text[:300]
    if near := error.get("did_you_mean"):
        message += f" Did you mean {near}?"
    raise LauncherError(f"{message} ({response.status_code} {error.get('code', '')})")


def _wait(session: requests.Session, url: str, cancelled: threading.Event) -> Any:
    started = time.monotonic()
    shown = ""
    while not cancelled.is_set():
        task = _answer(session.get(url, params={"wait": 1}, timeout=60))
        final = task["status"] in ("completed", "failed")
        line = f"{task['status']} {task.get('progress', 0)} %"
        if sys.stderr.isatty():
            ending = "\n" if final else ""
            text = f"\r{line}, {time.monotonic() - started:.0f} s \033[K"
            print(text, end=ending, file=sys.stderr, flush=True)
        elif line != shown:
            print(line, file=sys.stderr, flush=True)
        shown = line
        if task["status"] == "completed":
            return task
        if final:
            code = (task.get("error_detail") or {}).get("code", "failed")
            raise LauncherError(f"The task failed: {task.get('error')} ({code})")
    raise LauncherError("Interrupted.")


def _download(session: requests.Session, url: str) -> bytes:
    # The signature in the URL is all it takes; a store elsewhere must not see the key.
    response = session.get(url, headers={"Authorization": None}, timeout=60)
    if not response.ok:
        raise LauncherError(f"The picture could not be loaded: {response.status_code} from {url}")
    return response.content


def _write(order: Order, content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as image:
        form, width, height = image.format or "", image.width, image.height
    suffixes = _SUFFIXES.get(form, (f".{form.lower()}",))
    wanted = order.path
    suffix = wanted.suffix if wanted.suffix.lower() in suffixes else suffixes[0]
    path = wanted.with_suffix(suffix)
    number = 1
    while True:
        try:
            with path.open("xb") as file:
                file.write(content)
            break
        except FileExistsError:
            number += 1
            path = wanted.with_name(f"{wanted.stem}-{number}{suffix}")
        except OSError as error:
            raise LauncherError(f"--out: cannot write {path}: {error.strerror}") from error
    print(f"{path}  {width}x{height} {form}, {len(content) / 1000:.0f} kB", flush=True)
