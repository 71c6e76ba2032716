"""Who is asking: `Authorization: Bearer sk-…`, checked before anything else under /v1."""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable

from flask import Request, g, request

from api.errors import ApiError
from common.keys import ApiKey, KeyStore

__all__ = ["caller", "make_authentication"]

_BEARER = re.compile(r"Bearer +([\x21-\x7e]{1,512}) *", re.IGNORECASE)


def make_authentication(keys: KeyStore, bootstrap_key: str) -> Callable[[], None]:
    """What runs before each request. `bootstrap_key` is registered when it is first used."""

    def authenticate() -> None:
        asked: Request = request._get_current_object()  # type: ignore[attr-defined]
        if _needs_key(asked):
            g.caller = _identify(asked, keys, bootstrap_key)

    return authenticate


def caller() -> ApiKey:
    """The key that the current request was made with."""
    key: ApiKey = g.caller
    return key


def _needs_key(asked: Request) -> bool:
    path = asked.path
    if asked.method == "OPTIONS" or not (path == "/v1" or path.startswith("/v1/")):
        return False
    return not (path == "/v1/models" or path.startswith("/v1/models/"))


def _identify(asked: Request, keys: KeyStore, bootstrap_key: str) -> ApiKey:
    header = asked.headers.get("Authorization", "")
    bearer = _BEARER.fullmatch(header)
    if bearer is None:
        raise _refusal(
            "invalid_api_key",
            "No API key was given. Send it as a header: Authorization: Bearer sk-…"
            if not header
            else "The Authorization header is not of the form: Bearer sk-…",
        )
    given = bearer[1]
    key = keys.find(given)
    if key is None and bootstrap_key and hmac.compare_digest(given, bootstrap_key):
        key = keys.ensure(given, "bootstrap")
    if key is None or key.revoked is not None:
        raise _refusal("invalid_api_key", "The API key is not valid.")
    if key.expired(time.time()):
        raise _refusal("expired_api_key", "The API key has expired.")
    return key


def _refusal(code: str, message: str) -> ApiError:
    challenge = 'Bearer realm="darkroom"'
    return ApiError(code, message, headers={"WWW-Authenticate": challenge})
