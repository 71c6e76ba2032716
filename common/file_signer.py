"""Signs the addresses under which images load without a key."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading

import redis
from itsdangerous import Signer

from common.connection import store_errors
from common.errors import StoreUnavailable

__all__ = ["FileSigner"]

_PATIENCE = 2.0  # seconds for which somebody waits for another who asks
_SECRET = "darkroom:signing_secret"  # noqa: S105 - the name of a Redis key


class FileSigner:
    """Signs addresses of images. Without a `secret`, one in Redis is shared by all processes."""

    def __init__(self, client: redis.Redis, secret: str = "") -> None:
        self._redis = client
        self._secret = secret
        self._signer: Signer | None = None
        self._asking = threading.Lock()

    def path(self, name: str, expires: int) -> str:
        """The path and query under which the image `name` loads until `expires`, Unix seconds.

        Raises StoreUnavailable when the secret is not known yet and Redis cannot be asked.
        """
        signature = self._signing().get_signature(_message(name, str(expires))).decode()
        # URL-safe Base64 without its padding: nothing in it has to be quoted.
        return f"/files/{name}?expires={expires}&signature={signature}"

    def verifies(self, name: str, expires: str, signature: str) -> bool:
        """Whether `signature` is ours, for exactly this and letter by letter. The time is not
        looked at."""
        # Not Signer.verify_signature: its Base64 skips over letters that are none, and ignores
        # the last two bits, so that one address had many forms.
        ours = self._signing().get_signature(_message(name, expires))
        return hmac.compare_digest(ours, signature.encode())

    def _signing(self) -> Signer:
        if self._signer is None:
            # One asks for all: when a crowd waits for the first pictures, they end at once.
            if not self._asking.acquire(timeout=_PATIENCE):
                raise StoreUnavailable("The secret that signs addresses is not known yet.")
            try:
                if self._signer is None:
                    self._signer = _signer(self._secret or self._shared_secret())
            finally:
                self._asking.release()
        return self._signer

    def _shared_secret(self) -> str:
        with store_errors():
            # Read first: a full Redis refuses even a write that would change nothing.
            if (secret := self._redis.get(_SECRET)) is None:
                self._redis.set(_SECRET, secrets.token_hex(32), nx=True)
                secret = self._redis.get(_SECRET)
        return str(secret)


def _signer(secret: str) -> Signer:
    return Signer(
        secret, salt="darkroom.files", key_derivation="hmac", digest_method=hashlib.sha256
    )


def _message(name: str, expires: str) -> bytes:
    return f"{name}\n{expires}".encode()
