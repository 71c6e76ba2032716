"""Where pictures go on this machine: named by what they are, whole or not at all, over nothing."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.client.errors import NotSaved, WrongUse
from ops.client.screen import Screen, plain
from ops.client.server import Server

__all__ = ["Destination", "file_format"]

_SUFFIXES = {"png": (".png",), "jpeg": (".jpg", ".jpeg"), "webp": (".webp",)}


def file_format(data: bytes) -> str | None:
    """`png`, `jpeg` or `webp`, by the first bytes; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


@dataclass(frozen=True)
class Destination:
    """`out`, a file or a directory; `force` lets what is there be replaced.

    Several pictures are numbered, fox-1.png, fox-2.png. In a directory they are named by the prompt
    and the id of the task, so that the same task always has the same name and no two have one.
    """

    out: Path
    force: bool

    @property
    def wanted_format(self) -> str | None:
        """What the name of the file says."""
        suffix = self.out.suffix.lower()
        return next((form for form, known in _SUFFIXES.items() if suffix in known), None)

    def check(self, n: int) -> None:
        """Raise WrongUse if `n` pictures could not be written: better before they are bought."""
        folder = self.out if self._is_folder else self.out.parent
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise WrongUse(f"-o: {folder} is no directory that you may write.")
        if self._is_folder or self.force:
            return
        suffixes = (
            (self.out.suffix,)
            if self.wanted_format
            else tuple(suffix for known in _SUFFIXES.values() for suffix in known)
        )
        for suffix in suffixes:
            for path in _numbered(self._stem, n):
                if (there := path.with_name(path.name + suffix)).exists():
                    raise WrongUse(f"{there} is there already: name another file, or --force.")

    def save(self, task: dict[str, Any], server: Server, screen: Screen) -> list[Path]:
        """Write the pictures of a completed task; their files. Raises NotSaved, and before any is
        written where one of the pictures cannot be had."""
        pictures = [_load(entry, server) for entry in task["data"]]
        stem = self._stem
        if self._is_folder:
            stem = self.out / f"{_slug(task)}-{task['id'][-8:]}"
        # Also one is numbered if it was not to be the only one.
        many = len(pictures) + len(task.get("missing") or ())
        files = []
        for path, (data, form) in zip(_numbered(stem, many), pictures, strict=False):
            suffix = self.out.suffix
            if self._is_folder or suffix.lower() not in _SUFFIXES[form]:
                suffix = _SUFFIXES[form][0]
            files.append((path.with_name(path.name + suffix), data, form))
        for file, data, form in files:
            _write(file, data, force=self.force)
            if self.wanted_format not in (None, form) and not self._is_folder:
                screen.tell(f"{file} is named so because the picture is a {form.upper()}.")
        return [file for file, _, _ in files]

    @property
    def _is_folder(self) -> bool:
        return self.out.is_dir()

    @property
    def _stem(self) -> Path:
        return self.out.with_suffix("") if self.wanted_format else self.out


def _numbered(stem: Path, n: int) -> Iterator[Path]:
    if n == 1:
        yield stem
    else:
        yield from (stem.with_name(f"{stem.name}-{number}") for number in range(1, n + 1))


def _slug(task: dict[str, Any]) -> str:
    prompts: Iterable[Any] = (entry.get("revised_prompt") for entry in task["data"])
    words = re.sub(r"[^a-z0-9]+", "-", str(next(iter(prompts), "")).lower())
    return words.strip("-")[:40].strip("-") or "picture"


def _load(entry: dict[str, Any], server: Server) -> tuple[bytes, str]:
    """A picture of a task, which was asked for by address or in Base64; and its format."""
    if entry.get("error"):
        raise NotSaved(plain(entry["error"]))
    try:
        data = (
            base64.b64decode(entry["b64_json"], validate=True)
            if entry.get("b64_json")
            else server.picture(str(entry.get("url")))
        )
    except binascii.Error as error:
        raise NotSaved("What was sent as a picture is no Base64.") from error
    form = file_format(data)
    if form is None:
        raise NotSaved(f"What was loaded is neither PNG, JPEG nor WebP ({len(data)} bytes).")
    return data, form


def _write(path: Path, data: bytes, *, force: bool) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if force:
                draft.replace(path)
            else:
                _rename_to_nothing(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError as error:
        raise NotSaved(f"{path} is there already: name another file, or --force.") from error
    except OSError as error:
        raise NotSaved(f"{path} cannot be written: {error.strerror}") from error


def _rename_to_nothing(draft: Path, path: Path) -> None:
    """Raise FileExistsError where something has the name already; rename(2) would replace it."""
    try:
        path.hardlink_to(draft)
    except OSError as error:
        # Memory cards know no links: there a moment is left in which somebody else can come.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if path.exists():
            raise FileExistsError(path) from error
        draft.replace(path)
