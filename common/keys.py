"""API keys: who may use the gateway.

A key is 256 random bits and is shown once. Redis keeps its SHA-256 only: nobody can guess 256
random bits, so a slow password hash would cost every request and protect nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson
import redis

from common.connection import store_errors
from common.limits import UNLIMITED, Limits

__all__ = ["ApiKey", "KeyStore"]

_KEYS = "darkroom:keys"  # hash: SHA-256 of the key in hex -> ApiKey as JSON


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key; never the key itself. Times in Unix seconds.

    An `admin` key is an operator's: it is for `/v1/admin` alone, which no other key may use.
    """

    id: str
    name: str
    created: int
    expires: int | None = None
    revoked: int | None = None
    limits: Limits = UNLIMITED
    admin: bool = False

    def expired(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now


class KeyStore:
    """The keys in Redis. What was found is remembered for `remember` seconds, so that a poll costs
    one round trip and not two; a revoked key works, and a changed limit is unknown, for that much
    longer at most."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        remember: float = 5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = client
        self._remember = remember
        self._clock = clock
        self._found: dict[str, tuple[float, ApiKey]] = {}

    def find(self, key: str) -> ApiKey | None:
        """The key's entry, revoked or expired as it may be; None when there is none.

        Raises StoreUnavailable when Redis must be asked and cannot be.
        """
        digest = _digest(key)
        until, known = self._found.get(digest, (0.0, None))
        if known is not None and self._clock() < until:
            return known
        with store_errors():
            text = self._redis.hget(_KEYS, digest)
        if text is None:
            self._found.pop(digest, None)
            return None
        found = _key(text)
        self._found[digest] = (self._clock() + self._remember, found)
        return found

    def create(
        self,
        name: str,
        *,
        expires: int | None = None,
        limits: Limits = UNLIMITED,
        admin: bool = False,
    ) -> tuple[ApiKey, str]:
        """A new key with its plain text, which cannot be had again. `expires` in Unix seconds."""
        plain = f"sk-{secrets.token_urlsafe(32)}"
        return self.ensure(plain, name, expires=expires, limits=limits, admin=admin), plain

    def ensure(
        self,
        plain: str,
        name: str,
        *,
        expires: int | None = None,
        limits: Limits = UNLIMITED,
        admin: bool = False,
    ) -> ApiKey:
        """Make `plain` a key of this gateway if it is not one already."""
        digest = _digest(plain)
        key = ApiKey(
            f"key_{digest[:16]}", name, int(time.time()), expires, limits=limits, admin=admin
        )
        with store_errors():
            # Read first: a full Redis refuses even a write that would change nothing.
            if (text := self._redis.hget(_KEYS, digest)) is None:
                self._redis.hsetnx(_KEYS, digest, _text(key))
                text = self._redis.hget(_KEYS, digest)
        return _key(text)

    def get(self, key_id: str) -> ApiKey | None:
        """The entry with this id, None when there is none."""
        return next((key for key in self.list() if key.id == key_id), None)

    def list(self) -> list[ApiKey]:
        """All keys, oldest first."""
        with store_errors():
            entries: Any = self._redis.hvals(_KEYS)
        return sorted(map(_key, entries), key=lambda key: (key.created, key.id))

    def revoke(self, key_id: str) -> ApiKey | None:
        """Refuse a key from now on. Returns its entry, None when there is no such id."""
        now = int(time.time())
        return self.change(key_id, lambda key: replace(key, revoked=key.revoked or now))

    def change(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey | None:
        """Put `change(entry)` in the place of a key's entry; it may be called more than once.

        Returns the new entry, None when there is no such id.
        """

        def write(pipe: Any) -> Any:
            for digest, text in pipe.hgetall(_KEYS).items():
                key = _key(text)
                if key.id == key_id:  # an id is no secret
                    changed = change(key)
                    pipe.multi()
                    pipe.hset(_KEYS, digest, _text(changed))
                    return changed
            return None

        with store_errors():
            # Watched: a revocation must not be undone by somebody who changes limits meanwhile.
            changed: Any = self._redis.transaction(write, _KEYS, value_from_callable=True)
        return changed  # type: ignore[no-any-return]


def _key(text: Any) -> ApiKey:
    data = orjson.loads(text)
    return ApiKey(**data | {"limits": Limits.of(data.get("limits", {}))})


def _text(key: ApiKey) -> str:
    return orjson.dumps(asdict(key)).decode()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
