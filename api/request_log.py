"""An id on every answer, and one event in the log for every request."""

from __future__ import annotations

import re
import secrets
import time

from flask import Flask, Response, g, request

from common.logging import get_logger

__all__ = ["init_app"]

_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")

log = get_logger(__name__)


def init_app(app: Flask) -> None:
    """Must come before anything else that runs before a request, so that its refusals count."""
    app.before_request(_start)
    app.after_request(_finish)


def _start() -> None:
    g.started = time.perf_counter()
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def _finish(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    if request.method == "OPTIONS" and response.status_code == 200:
        response.status_code = 204
        del response.headers["Content-Type"]
    # The template of the path, never the path: addresses of images are signed, and never the
    # query, the headers or the body.
    log.info(
        "request",
        method=request.method,
        path=request.url_rule.rule if request.url_rule else None,
        status=response.status_code,
        ms=round((time.perf_counter() - g.started) * 1000, 1),
        key=g.caller.id if "caller" in g else None,
        task_id=g.get("task_id"),
        request_id=g.request_id,
    )
    return response
