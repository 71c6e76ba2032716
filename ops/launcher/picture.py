"""One picture, as `ops/darkroom` would make it: submit, wait, download, with the times of each."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ops.client.access import Access
from ops.client.errors import ClientError
from ops.client.follow import follow
from ops.client.screen import Screen
from ops.client.server import Server
from ops.launcher.errors import LauncherError

__all__ = ["Order", "make_pictures"]

_PATIENCE = 12  # seconds in which the server may be away
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
    screen = Screen(sys.stderr)
    access = Access(address, api_key, origin="DATA_DIR")
    server = Server(access, patience=_PATIENCE, notice=screen.tell)
    try:
        task = server.submit(order.body(), (), name=str(uuid.uuid4()))
        clock.note("submit")
        print(json.dumps(task, indent=2, ensure_ascii=False), flush=True)
        task = follow(server, screen, task, cancelled.is_set)
        clock.note("wait")
        if task["status"] != "completed":
            raise LauncherError(_why_not(task))
        pictures = [server.picture(entry["url"]) for entry in task["data"]]
    except ClientError as error:
        raise LauncherError(str(error)) from error
    clock.note("download")
    for picture in pictures:
        _write(order, picture)
    origin = f"{order.model}, made by {task.get('provider') or 'an unnamed provider'}"
    if task.get("sandbox"):
        origin += " in the sandbox: a drawing, not the model's own work, and nothing was paid"
    print(f"{origin}\n{clock}", flush=True)


def _why_not(task: dict[str, Any]) -> str:
    if task["status"] != "failed":
        return "Interrupted."
    code = (task.get("error_detail") or {}).get("code", "failed")
    return f"The task failed: {task.get('error')} ({code})"


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
