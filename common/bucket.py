"""A bucket of S3, Google or Azure, or of a server of one's own that speaks like S3."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import re
import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import AzureStore, GCSStore, S3Store, from_url

from common.errors import ConfigurationError

if TYPE_CHECKING:  # obstore has these names for type checkers only
    from obstore import Attributes, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

__all__ = ["PIECE", "PROBE", "Bucket", "Method", "Redirect"]

Redirect = Literal["auto", "on", "off"]
Method = Literal["GET", "HEAD"]

PIECE = 262_144
"""Bytes of an image that are read at a time, where it is handed on."""

PROBE = "darkroom-probe"
"""The folder of what `check` stores, and deletes again."""

_CACHED_SECONDS = 300  # a presigned address is not asked again for longer
_PAGE = 1000  # names: what a bucket lists and deletes with one request

# The provider itself did not get to say anything, or not yet: it may later.
_PASSING = re.compile(r"HTTP error: |status code: (429|5\d\d)")
# Where a cloud's own machines ask who they are: nobody told us, and this machine is none of those.
_METADATA = re.compile(r"//(169\.254\.169\.254|metadata\.google\.internal)/")


class Bucket:
    """The pictures of a bucket, whose provider answers for what it has accepted.

    Methods block, for `_SECONDS` and a retry at most, and raise OSError or obstore's BaseError.
    """

    _SECONDS = 30
    _PROBE_SECONDS = 5

    def __init__(self, url: str, redirect: Redirect) -> None:
        """Raises BaseError or ValueError when `url`, or a variable of the provider, is wrong."""
        self.leads_on = redirect != "off"
        self._url = url
        self._redirect = redirect
        self._store = _open(url, seconds=self._SECONDS, retries=2)

    def put(self, name: str, data: bytes) -> None:
        # Not in parts: what is left of those that were cut off is paid for, and listed nowhere.
        obstore.put(self._store, name, data, attributes=_attributes(name), use_multipart=False)

    def get(self, name: str) -> bytes | None:
        with contextlib.suppress(NotFoundError, FileNotFoundError):
            return bytes(obstore.get(self._store, name).bytes())
        return None

    def pieces(self, name: str) -> tuple[int, Iterator[bytes]] | None:
        with contextlib.suppress(NotFoundError, FileNotFoundError):
            found = obstore.get(self._store, name)
            return found.meta["size"], map(bytes, found.stream(min_chunk_size=PIECE))
        return None

    def delete(self, *names: str) -> None:
        try:
            obstore.delete(self._store, names)
        except (NotFoundError, FileNotFoundError):  # Google and Azure mind, and stop there
            for name in names:
                with contextlib.suppress(NotFoundError, FileNotFoundError):
                    obstore.delete(self._store, name)

    def address(self, name: str, method: Method, seconds: int) -> str | None:
        address = self._sign(name, method, seconds)
        # What answers without TLS is, for the most part, in a network that browsers are not in.
        return address if self._redirect == "on" or address.startswith("https://") else None

    def has_room(self, reserve: int) -> bool:
        return True

    def delete_before(self, limit: float, is_ours: Callable[[str], bool]) -> int:
        deleted = 0
        old: list[str] = []
        # A bucket lists in the order of names, so a folder's are together.
        for folder, files in itertools.groupby(self._list(), lambda meta: _folder(meta["path"])):
            stored = list(files)
            if is_ours(folder) and min(m["last_modified"].timestamp() for m in stored) < limit:
                old += [meta["path"] for meta in stored]
            if len(old) >= _PAGE:
                self.delete(*old)
                deleted += len(old)
                old = []
        if old:
            self.delete(*old)
        return deleted + len(old)

    def check(self) -> None:
        """Look for a probe, store, read and delete it; and sign an address, if any are going to be.

        Raises ConfigurationError when the provider refuses; BaseError when it cannot be reached.
        """
        store = _open(self._url, seconds=self._PROBE_SECONDS, retries=1)
        probe = f"{PROBE}/{secrets.token_hex(8)}"
        with self._blaming("STORAGE_URL", ""):
            # Who may not list is told that what is not there is forbidden: it could mean anything.
            with contextlib.suppress(NotFoundError, FileNotFoundError):
                obstore.get(store, probe)
            obstore.put(store, probe, b"probe")
            obstore.get(store, probe).bytes()
            obstore.delete(store, probe)
        if self.leads_on:
            advice = "; STORAGE_REDIRECT=off does without signed addresses"
            with self._blaming("STORAGE_REDIRECT", advice):
                obstore.sign(store, "GET", probe, datetime.timedelta(seconds=1))

    def _sign(self, name: str, method: Method, seconds: int) -> str:
        if isinstance(self._store, AzureStore):
            method = "GET"  # there the right to read is one; one for HEAD would be for nothing
        return obstore.sign(self._store, method, name, datetime.timedelta(seconds=seconds))

    def _list(self) -> Iterator[ObjectMeta]:
        for page in obstore.list(self._store, chunk_size=_PAGE):
            yield from page

    @contextlib.contextmanager
    def _blaming(self, variable: str, advice: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            # Behind it comes the same once more, as a program sees it.
            said = " ".join(str(error).partition("\n\nDebug source")[0].split())
            if _PASSING.search(said) and not _METADATA.search(said):
                raise
            raise ConfigurationError(f"{variable}: {self._url}: {said:.500}{advice}") from error


def _open(url: str, *, seconds: int, retries: int) -> S3Store | GCSStore | AzureStore:
    client: ClientConfig = {
        "timeout": f"{seconds}s",
        "connect_timeout": "3s",
        # Only where somebody's AWS_ENDPOINT_URL says so: a store in their own network.
        "allow_http": True,
    }
    retry: RetryConfig = {
        "max_retries": retries,
        "retry_timeout": datetime.timedelta(seconds=seconds * 2 / 3),
    }
    store = from_url(url, client_options=client, retry_config=retry)
    if not isinstance(store, S3Store | GCSStore | AzureStore):
        raise ValueError("not the address of a bucket")
    return store


def _attributes(name: str) -> Attributes:
    """What a browser is told that loads it from the bucket: as if it had come from us."""
    return {
        "Content-Type": f"image/{name.rpartition('.')[2]}",
        "Content-Disposition": f'inline; filename="{name.replace("/", "-")}"',
        "Cache-Control": f"private, max-age={_CACHED_SECONDS}, immutable",
    }


def _folder(name: str) -> str:
    return name.partition("/")[0]
