"""Where verified images are kept: a directory, or a bucket of S3, Google or Azure.

Names are chosen by us, so that storing a picture again overwrites it with itself:
`<task id>/<index>.<format>`, `<task id>/input-<index>.<format>` for what a task starts from, and
`<name>.<side>.webp` for a thumbnail that is kept.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError

from common.bucket import PIECE, PROBE, Bucket, Method, Redirect
from common.errors import ConfigurationError, StoreUnavailable
from common.hub import Threads, off_the_hub
from common.logging import get_logger
from common.task import is_task_id

__all__ = ["ImageStorage"]

T = TypeVar("T")

log = get_logger(__name__)

_DRAFT = ".part"
_DRAFT_SECONDS = 3600.0  # no picture takes this long to write: whoever wrote it is dead
_AT_A_TIME = 32  # calls of a process that runs on gevent; each may wait for a minute
_TURN_SECONDS = 10.0  # for one of them to come to an end


class ImageStorage:
    """Images by name. Methods block; under gevent they run outside the event loop.

    All raise StoreUnavailable when the store cannot be reached or has no room.
    """

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._origin: str | None = None
        # Of its own: in a store that stands still they are taken, and others must not wait for it.
        self._threads = Threads(_AT_A_TIME, patience=_TURN_SECONDS)

    @classmethod
    def open(cls, url: str, *, redirect: Redirect = "off") -> ImageStorage:
        """The store at `url`: file:///directory, s3://…, gs://… or az://….

        `redirect`: whether a bucket gives addresses of its own; `auto`: if they are https.
        Credentials of buckets come from the usual variables of their provider. Raises
        ConfigurationError when the URL is wrong or the directory cannot be written. No bucket is
        asked for anything: that is for `check`.
        """
        try:
            if url.startswith("file://"):
                return cls(_Directory(Path(unquote(urlsplit(url).path))))
            return cls(Bucket(url, redirect))
        except (OSError, BaseError, ValueError) as error:
            raise ConfigurationError(f"STORAGE_URL or DATA_DIR: {url}: {error}") from error

    def check(self) -> None:
        """See that a bucket can be used: it costs a probe stored, read and deleted.

        Raises ConfigurationError when the provider refuses. One that cannot be reached is no
        reason not to start: it is told in the log.
        """
        try:
            self._threads.run(self._place.check)
        except (OSError, BaseError) as error:
            log.warning("the image store could not be checked", reason=_in_short(error))

    def put(self, name: str, data: bytes) -> None:
        """Store `data` under `name`, whole or not at all, and so that it outlives the machine."""
        self._do(lambda: self._place.put(name, data))

    def get(self, name: str) -> bytes | None:
        """The bytes of an image, None when there is none of that name."""
        return self._do(lambda: self._place.get(name))

    def pieces(self, name: str) -> tuple[int, Iterator[bytes]] | None:
        """The length of an image, and its bytes piece by piece; None when there is none of that
        name. Each piece is read when it is asked for: for who hands large images to many at once,
        and to some of them slowly."""
        found = self._do(lambda: self._place.pieces(name))
        return None if found is None else (found[0], self._one_by_one(found[1]))

    def _one_by_one(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        while piece := self._do(lambda: next(pieces, b"")):
            yield piece

    def delete(self, *names: str) -> None:
        """Delete images; one that is not there is none to delete."""
        self._do(lambda: self._place.delete(*names))

    def address(self, name: str, method: Method, seconds: int) -> str | None:
        """Where the bucket itself answers a request of `method` for an image, for so long.

        None when it is not to be asked by clients, or is a directory. Whether there is an image of
        that name is not looked at.
        """
        if not self._place.leads_on:
            return None
        return self._do(lambda: self._place.address(name, method, seconds))

    def origin(self) -> str:
        """Scheme and host of what `address` gives; empty when it gives none, or it is not known."""
        with contextlib.suppress(StoreUnavailable):
            if self._origin is None:
                url = urlsplit(self.address("origin", "GET", 1) or "")
                self._origin = f"{url.scheme}://{url.netloc}" if url.netloc else ""
        return self._origin or ""

    def has_room(self, reserve: int) -> bool:
        """Whether a directory can be written, with `reserve` bytes to spare. Buckets always can."""

        def look() -> bool:
            with contextlib.suppress(OSError):
                return self._place.has_room(reserve)
            return False

        return off_the_hub(look)

    def delete_older_than(self, age: datetime.timedelta) -> int:
        """Delete all of a task whose first image was stored more than `age` ago.

        Returns how many images went. What writers that died left half written goes as well, and
        nothing that Darkroom has not stored.
        """
        limit = time.time() - age.total_seconds()
        # Not in a thread of `_threads`: only the sweep does this, it has no event loop, and it
        # takes as long as the store is large.
        with _reported():
            return self._place.delete_before(limit, _is_ours)

    def _do(self, action: Callable[[], T]) -> T:
        with _reported():
            return self._threads.run(action)


class _Place(Protocol):
    """What images are kept in. `limit` is in Unix seconds; `is_ours` tells by a folder's name.

    `leads_on`: whether it may have addresses of its own to give.
    """

    leads_on: bool

    def check(self) -> None: ...
    def put(self, name: str, data: bytes) -> None: ...
    def get(self, name: str) -> bytes | None: ...
    def pieces(self, name: str) -> tuple[int, Iterator[bytes]] | None: ...
    def delete(self, *names: str) -> None: ...
    def address(self, name: str, method: Method, seconds: int) -> str | None: ...
    def has_room(self, reserve: int) -> bool: ...
    def delete_before(self, limit: float, is_ours: Callable[[str], bool]) -> int: ...


class _Directory:
    """A directory of this machine, or one that it has mounted.

    A picture is written beside its place, brought to the disk and then renamed, so that a name
    never stands for half a picture, whenever process or machine may die. (obstore's own store of
    files renames, but leaves it to the system when the bytes reach the disk.)
    """

    leads_on = False

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        self.check()  # what is wrong would else be found out by the first paid picture

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            _sync(path.parent.parent)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_DRAFT}")
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)  # it may be the room that the others need
            raise
        _sync(path.parent)

    def get(self, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return self._path(name).read_bytes()
        return None

    def pieces(self, name: str) -> tuple[int, Iterator[bytes]] | None:
        path = self._path(name)
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size, _read(path)
        return None

    def delete(self, *names: str) -> None:
        for name in names:
            path = self._path(name)
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others are in there, or it was never made
                path.parent.rmdir()

    def address(self, name: str, method: Method, seconds: int) -> None:
        return None

    def check(self) -> None:
        self.has_room(0)

    def has_room(self, reserve: int) -> bool:
        with tempfile.TemporaryFile(dir=self._root):
            space = os.statvfs(self._root)
        return space.f_bavail * space.f_frsize > reserve

    def delete_before(self, limit: float, is_ours: Callable[[str], bool]) -> int:
        deleted = 0
        for folder in self._root.iterdir():
            if is_ours(folder.name) and folder.is_dir():
                deleted += _delete_old(folder, limit)
        return deleted

    def _path(self, name: str) -> Path:
        path = self._root / name
        if ".." in path.parts or not path.is_relative_to(self._root):
            raise ValueError(f"not a name for an image: {name!r}")
        return path


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _delete_old(folder: Path, limit: float) -> int:
    """Delete what is in a task's folder, if the first of it is older than `limit`; or drafts that
    nobody is writing any more."""
    stored: dict[Path, float] = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another sweep was quicker
            stored[path] = path.stat().st_mtime
    drafts = {path for path in stored if path.name.endswith(_DRAFT)}
    images = stored.keys() - drafts
    old = {path for path in drafts if stored[path] < max(limit, time.time() - _DRAFT_SECONDS)}
    if images and min(stored[path] for path in images) < limit:
        old |= images
    for path in old:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty, for the most part
        folder.rmdir()
    return len(old - drafts)


def _is_ours(folder: str) -> bool:
    return is_task_id(folder) or folder == PROBE


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except (OSError, BaseError) as error:
        raise StoreUnavailable("The image store cannot be reached or is full.") from error


def _in_short(error: Exception) -> str:
    return f"{str(error).partition(chr(10))[0]:.300}"


def _sync(directory: Path) -> None:
    """Bring the names in a directory to the disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
