"""An id on every answer, and one event in the log and one count for every request."""

from __future__ import annotations

import re
import secrets
import time

from flask import Flask, Request, Response, g, request

from api.metrics import HttpMetrics
from common.logging import begin_lines, get_logger, tell_in_lines

__all__ = ["init_app", "tell_task"]

_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")

log = get_logger(__name__)


def init_app(app: Flask, metrics: HttpMetrics) -> None:
    """Must come before anything else that runs before a request, so that its refusals count."""
    app.before_request(_start)
    app.after_request(lambda response: _finish(response, metrics))


def tell_task(task_id: str) -> None:
    """The request is about this task: so say its lines in the log from here on."""
    tell_in_lines(task_id=task_id)


def _start() -> None:
    known = g._get_current_object()
    known.started = time.perf_counter()
    given = request.headers.get("X-Request-ID", "")
    given = given if _SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
    known.request_id = given
    begin_lines(request_id=given)


def _finish(response: Response, metrics: HttpMetrics) -> Response:
    # Each look through `g` and `request` searches for the current ones anew.
    known = g._get_current_object()
    asked: Request = request._get_current_object()  # type: ignore[attr-defined]
    response.headers.add("X-Request-ID", known.request_id)
    if asked.method == "OPTIONS" and response.status_code == 200:
        response.status_code = 204
        del response.headers["Content-Type"]
    # The template of the path, never the path: addresses of images are signed, and never the
    # query, the headers or the body.
    route = asked.url_rule.rule if asked.url_rule else None
    seconds = time.perf_counter() - known.started
    metrics.count(
        asked.method, route or "", response.status_code, seconds, held=known.get("held", False)
    )
    log.info(
        "request",
        method=asked.method,
        path=route,
        status=response.status_code,
        ms=round(seconds * 1000, 1),
        key=known.caller.id if "caller" in known else None,
    )
    return response
