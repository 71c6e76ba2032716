"""Where verified images are kept: a directory, or a bucket of S3, Google or Azure.

Names are chosen by us (`<task id>/<index>.<format>`), so that storing a picture again overwrites
it with itself.
"""

from __future__ import annotations

import contextlib
import datetime
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from common.errors import ConfigurationError, StoreUnavailable
from common.hub import off_the_hub

if TYPE_CHECKING:  # obstore has these names for type checkers only
    from obstore.store import ClientConfig, RetryConfig

__all__ = ["ImageStorage"]

T = TypeVar("T")


class ImageStorage:
    """Images by name. Methods block; under gevent they run outside the event loop.

    All raise StoreUnavailable when the store cannot be reached or has no room.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def open(cls, url: str) -> ImageStorage:
        """The store at `url`: file:///directory, s3://…, gs://… or az://….

        Credentials of buckets come from the usual variables of their provider. Raises
        ConfigurationError when the URL is wrong or the directory cannot be written.
        """
        try:
            if url.startswith("file://"):
                path = Path(unquote(urlsplit(url).path))
                path.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=path):  # else found out by the first paid picture
                    pass
                return cls(LocalStore(path, automatic_cleanup=True))  # of empty directories
            # http only where somebody's AWS_ENDPOINT_URL says so: a store in their own network.
            client: ClientConfig = {
                "timeout": "30s",
                "connect_timeout": "3s",
                "allow_http": True,
            }
            retry: RetryConfig = {"max_retries": 2, "retry_timeout": datetime.timedelta(seconds=20)}
            return cls(from_url(url, client_options=client, retry_config=retry))
        except (OSError, BaseError, ValueError) as error:
            raise ConfigurationError(f"STORAGE_URL or DATA_DIR: {url}: {error}") from error

    def put(self, name: str, data: bytes) -> None:
        """Store `data` under `name`, whole or not at all."""
        self._do(lambda: obstore.put(self._store, name, data))

    def get(self, name: str) -> bytes | None:
        """The bytes of an image, None when there is none of that name."""

        def read() -> bytes | None:
            with contextlib.suppress(NotFoundError, FileNotFoundError):
                return bytes(obstore.get(self._store, name).bytes())
            return None

        return self._do(read)

    def delete_older_than(self, age: datetime.timedelta) -> int:
        """Delete what was stored more than `age` ago; returns how many images went."""
        limit = datetime.datetime.now(datetime.UTC) - age

        def delete() -> int:
            deleted = 0
            for batch in obstore.list(self._store):
                for name in [meta["path"] for meta in batch if meta["last_modified"] < limit]:
                    # Another sweep may have been quicker.
                    with contextlib.suppress(NotFoundError, FileNotFoundError):
                        obstore.delete(self._store, name)
                        deleted += 1
            return deleted

        return self._do(delete)

    def _do(self, action: Callable[[], T]) -> T:
        try:
            return off_the_hub(action)
        except (OSError, BaseError) as error:
            raise StoreUnavailable("The image store cannot be reached or is full.") from error
