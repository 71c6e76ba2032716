"""API keys: who may use the gateway.

A key is 256 random bits and is shown once. Redis keeps its SHA-256 only: nobody can guess 256
random bits, so a slow password hash would cost every request and protect nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import redis

from common.connection import store_errors

__all__ = ["ApiKey", "KeyStore"]

_KEYS = "darkroom:keys"  # hash: SHA-256 of the key in hex -> ApiKey as JSON


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key; never the key itself. Times in Unix seconds."""

    id: str
    name: str
    created: int
    expires: int | None = None
    revoked: int | None = None

    def expired(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now


class KeyStore:
    """The keys in Redis. What was found is remembered for `remember` seconds, so that a poll costs
    one round trip and not two; a revoked key therefore works for that much longer at most."""

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
        found = ApiKey(**orjson.loads(str(text)))
        self._found[digest] = (self._clock() + self._remember, found)
        return found

    def create(self, name: str, *, expires: int | None = None) -> tuple[ApiKey, str]:
        """A new key with its plain text, which cannot be had again. `expires` in Unix seconds."""
        plain = f"sk-{secrets.token_urlsafe(32)}"
        return self.ensure(plain, name, expires=expires), plain

    def ensure(self, plain: str, name: str, *, expires: int | None = None) -> ApiKey:
        """Make `plain` a key of this gateway if it is not one already."""
        digest = _digest(plain)
        key = ApiKey(f"key_{digest[:16]}", name, int(time.time()), expires)
        with store_errors():
            # Read first: a full Redis refuses even a write that would change nothing.
            if (text := self._redis.hget(_KEYS, digest)) is None:
                self._redis.hsetnx(_KEYS, digest, orjson.dumps(asdict(key)).decode())
                text = self._redis.hget(_KEYS, digest)
        return ApiKey(**orjson.loads(str(text)))

    def list(self) -> list[ApiKey]:
        """All keys, oldest first."""
        with store_errors():
            entries = self._redis.hvals(_KEYS)
        keys = [ApiKey(**orjson.loads(str(entry))) for entry in entries]
        return sorted(keys, key=lambda key: (key.created, key.id))

    def revoke(self, key_id: str) -> ApiKey | None:
        """Refuse a key from now on. Returns its entry, None when there is no such id."""
        with store_errors():
            entries: Any = self._redis.hgetall(_KEYS)
            for digest, text in entries.items():
                data = orjson.loads(text)
                if data["id"] == key_id:  # an id is no secret
                    data["revoked"] = data["revoked"] or int(time.time())
                    self._redis.hset(_KEYS, digest, orjson.dumps(data).decode())
                    return ApiKey(**data)
        return None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
