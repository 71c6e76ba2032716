"""Where verified images are kept: a directory, or a bucket of S3, Google or Azure.

Names are chosen by us (`<task id>/<index>.<format>`, and `<task id>/input-<index>.<format>` for
what a task starts from), so that storing a picture again overwrites it with itself.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import ObjectStore, from_url

from common.errors import ConfigurationError, StoreUnavailable
from common.hub import off_the_hub

if TYPE_CHECKING:  # obstore has these names for type checkers only
    from obstore.store import ClientConfig, RetryConfig

__all__ = ["ImageStorage"]

T = TypeVar("T")

_DRAFT = ".part"
_DRAFT_SECONDS = 3600.0  # no picture takes this long to write: whoever wrote it is dead


class ImageStorage:
    """Images by name. Methods block; under gevent they run outside the event loop.

    All raise StoreUnavailable when the store cannot be reached or has no room.
    """

    def __init__(self, place: _Place) -> None:
        self._place = place

    @classmethod
    def open(cls, url: str) -> ImageStorage:
        """The store at `url`: file:///directory, s3://…, gs://… or az://….

        Credentials of buckets come from the usual variables of their provider. Raises
        ConfigurationError when the URL is wrong or the directory cannot be written.
        """
        try:
            if url.startswith("file://"):
                return cls(_Directory(Path(unquote(urlsplit(url).path))))
            # http only where somebody's AWS_ENDPOINT_URL says so: a store in their own network.
            client: ClientConfig = {
                "timeout": "30s",
                "connect_timeout": "3s",
                "allow_http": True,
            }
            retry: RetryConfig = {"max_retries": 2, "retry_timeout": datetime.timedelta(seconds=20)}
            return cls(_Bucket(from_url(url, client_options=client, retry_config=retry)))
        except (OSError, BaseError, ValueError) as error:
            raise ConfigurationError(f"STORAGE_URL or DATA_DIR: {url}: {error}") from error

    def put(self, name: str, data: bytes) -> None:
        """Store `data` under `name`, whole or not at all, and so that it outlives the machine."""
        self._do(lambda: self._place.put(name, data))

    def get(self, name: str) -> bytes | None:
        """The bytes of an image, None when there is none of that name."""
        return self._do(lambda: self._place.get(name))

    def delete(self, *names: str) -> None:
        """Delete images; one that is not there is none to delete."""

        def delete() -> None:
            for name in names:
                self._place.delete(name)

        self._do(delete)

    def has_room(self, reserve: int) -> bool:
        """Whether a directory can be written, with `reserve` bytes to spare. Buckets always can."""

        def look() -> bool:
            with contextlib.suppress(OSError):
                return self._place.has_room(reserve)
            return False

        return off_the_hub(look)

    def delete_older_than(self, age: datetime.timedelta) -> int:
        """Delete what was stored more than `age` ago; returns how many images went.

        What writers that died left half written goes as well.
        """
        return self._do(lambda: self._place.delete_before(time.time() - age.total_seconds()))

    def _do(self, action: Callable[[], T]) -> T:
        try:
            return off_the_hub(action)
        except (OSError, BaseError) as error:
            raise StoreUnavailable("The image store cannot be reached or is full.") from error


class _Place(Protocol):
    """What images are kept in. `limit` is in Unix seconds."""

    def put(self, name: str, data: bytes) -> None: ...
    def get(self, name: str) -> bytes | None: ...
    def delete(self, name: str) -> None: ...
    def has_room(self, reserve: int) -> bool: ...
    def delete_before(self, limit: float) -> int: ...


class _Directory:
    """A directory of this machine, or one that it has mounted.

    A picture is written beside its place, brought to the disk and then renamed, so that a name
    never stands for half a picture, whenever process or machine may die. (obstore's own store of
    files renames, but leaves it to the system when the bytes reach the disk.)
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        self.has_room(0)  # what is wrong would else be found out by the first paid picture

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

    def delete(self, name: str) -> None:
        path = self._path(name)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are in there, or it was never made
            path.parent.rmdir()

    def has_room(self, reserve: int) -> bool:
        with tempfile.TemporaryFile(dir=self._root):
            space = os.statvfs(self._root)
        return space.f_bavail * space.f_frsize > reserve

    def delete_before(self, limit: float) -> int:
        deleted = 0
        for folder, _, files in os.walk(self._root, topdown=False):
            for name in files:
                path = Path(folder, name)
                is_draft = name.endswith(_DRAFT)
                oldest = max(limit, time.time() - _DRAFT_SECONDS) if is_draft else limit
                with contextlib.suppress(FileNotFoundError):  # another sweep was quicker
                    if path.stat().st_mtime < oldest:
                        path.unlink()
                        deleted += not is_draft
            if Path(folder) != self._root:
                with contextlib.suppress(OSError):  # not empty, for the most part
                    Path(folder).rmdir()
        return deleted

    def _path(self, name: str) -> Path:
        path = self._root / name
        if ".." in path.parts or not path.is_relative_to(self._root):
            raise ValueError(f"not a name for an image: {name!r}")
        return path


class _Bucket:
    """A bucket, whose provider answers for what it has accepted."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def put(self, name: str, data: bytes) -> None:
        obstore.put(self._store, name, data)

    def get(self, name: str) -> bytes | None:
        with contextlib.suppress(NotFoundError, FileNotFoundError):
            return bytes(obstore.get(self._store, name).bytes())
        return None

    def delete(self, name: str) -> None:
        with contextlib.suppress(NotFoundError, FileNotFoundError):
            obstore.delete(self._store, name)

    def has_room(self, reserve: int) -> bool:
        return True

    def delete_before(self, limit: float) -> int:
        deleted = 0
        for batch in obstore.list(self._store):
            for meta in batch:
                if meta["last_modified"].timestamp() < limit:
                    # Another sweep may have been quicker.
                    with contextlib.suppress(NotFoundError, FileNotFoundError):
                        obstore.delete(self._store, meta["path"])
                        deleted += 1
        return deleted


def _sync(directory: Path) -> None:
    """Bring the names in a directory to the disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
