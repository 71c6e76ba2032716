"""The request body as a JSON object, or the reason why it is none."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from flask import Request
from werkzeug.exceptions import HTTPException

from api.errors import ApiError

__all__ = ["is_json", "json_object", "object_in"]


def json_object(request: Request) -> dict[str, Any]:
    """The body of `request`, see `object_in`.

    Raises ApiError `invalid_json` or `unsupported_media_type`; a body that is too large raises
    Werkzeug's RequestEntityTooLarge.
    """
    if not is_json(request.mimetype):
        raise ApiError(
            "unsupported_media_type",
            f"The body must be JSON, not {request.mimetype[:100]}.",
            hint="Send the header Content-Type: application/json.",
        )
    return object_in(_body(request))


def object_in(data: bytes) -> dict[str, Any]:
    """The JSON object that `data` is.

    Stricter than `json.loads`: no NaN and no Infinity, which other parsers refuse, and no key
    twice, of which nobody can say which one was meant. Raises ApiError `invalid_json`.
    """
    try:
        body = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ApiError(
            "invalid_json", f"The body is not UTF-8: byte {error.start} cannot be read."
        ) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ApiError(
            "invalid_json", f"The body is not valid JSON: {error.msg} at {where}."
        ) from None
    except RecursionError:
        raise ApiError("invalid_json", "The body is nested too deeply.") from None
    except ValueError as error:
        raise ApiError("invalid_json", f"The body is not usable JSON: {error}.") from None
    if not isinstance(body, dict):
        raise ApiError("invalid_json", "The body must be a JSON object: {…}.")
    return body


def _body(request: Request) -> bytes:
    try:
        data = request.get_data(cache=False)
        if request.content_length is None:
            # Werkzeug cuts a chunked body at the limit; only reading on says that there was more.
            request.stream.read(1)
        elif len(data) < request.content_length:  # which Werkzeug leaves to the WSGI server
            raise ConnectionError
        return data
    except HTTPException:
        raise
    except Exception as error:  # every WSGI server has its own for a broken body
        raise ApiError("bad_request", "The body could not be read to its end.") from error


def is_json(mimetype: str) -> bool:
    """Whether a body of that type is to be read as JSON; one of no type is."""
    return mimetype in ("", "application/json") or (
        mimetype.startswith("application/") and mimetype.endswith("+json")
    )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {name[:64]!a} is there twice")
            seen.add(name)
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_constant)
