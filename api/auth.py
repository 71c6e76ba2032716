"""Who is asking: `Authorization: Bearer sk-…`, checked before anything else under /v1.

What is under /v1/admin is for operators' keys, and they are for nothing else.
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable

from flask import Request, g, request

from api.errors import ApiError
from common.keys import ApiKey, KeyStore

__all__ = ["ADMIN_PATH", "caller", "make_authentication"]

ADMIN_PATH = "/v1/admin"

_BEARER = re.compile(r"Bearer +([\x21-\x7e]{1,512}) *", re.IGNORECASE)


def make_authentication(keys: KeyStore, bootstrap_key: str) -> Callable[[], None]:
    """What runs before each request. `bootstrap_key` is registered when it is first used."""

    def authenticate() -> None:
        asked: Request = request._get_current_object()  # type: ignore[attr-defined]
        if _needs_key(asked):
            key = _identify(asked, keys, bootstrap_key)
            _require_scope(key, asked.path)
            g.caller = key

    return authenticate


def caller() -> ApiKey:
    """The key that the current request was made with."""
    key: ApiKey = g.caller
    return key


def _require_scope(key: ApiKey, path: str) -> None:
    is_admins = path == ADMIN_PATH or path.startswith(f"{ADMIN_PATH}/")
    if is_admins and not key.admin:
        raise ApiError(
            "key_not_allowed",
            "This key is not an operator's.",
            hint="flask --app api.wsgi keys create NAME --admin makes one that is.",
        )
    if key.admin and not is_admins:
        raise ApiError(
            "key_not_allowed",
            f"This key is an operator's, and is for {ADMIN_PATH} alone.",
            hint="Use an ordinary key here: flask --app api.wsgi keys create NAME makes one.",
        )


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
