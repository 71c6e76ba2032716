"""gunicorn's gevent worker, which answers what is hardly HTTP with our envelope too."""

from __future__ import annotations

import contextlib
import secrets
from http import HTTPStatus
from typing import Any

import orjson
from gevent.baseserver import BaseServer
from gunicorn.http import wsgi  # type: ignore[import-untyped]
from gunicorn.http.errors import (  # type: ignore[import-untyped]
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.util import close_graceful  # type: ignore[import-untyped]
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]

from common.hub import give_way

__all__ = ["Worker"]

_PIECE = 131_072  # bytes


class _Response(wsgi.Response):  # type: ignore[misc]
    """Sends the headers with the first bytes of the body, which gunicorn sends one after the other:
    each call wakes whoever reads, and waking costs both sides more than the bytes. What is large is
    sent in pieces, between which others have the event loop."""

    def write(self, arg: bytes) -> None:
        if len(arg) > _PIECE:
            for start in range(0, len(arg), _PIECE):
                give_way()
                super().write(arg[start : start + _PIECE])
            return
        if self.headers_sent:
            super().write(arg)
            return
        pieces = _Pieces()
        connection, self.sock = self.sock, pieces  # type: ignore[has-type]
        try:
            super().write(arg)
        finally:
            self.sock = connection
        connection.sendall(b"".join(pieces))


class _Pieces(list[bytes]):
    """Keeps what a connection would send."""

    sendall = list.append


wsgi.Response = _Response  # there is no setting for it

# A crowd that comes in one moment is let in by and by, and the event loop turns meanwhile: gevent
# takes a hundred at a time.
BaseServer.max_accept = 8


class Worker(GeventWorker):  # type: ignore[misc]
    """For requests that never reach the application; gunicorn itself would answer in HTML."""

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        request_id = f"req_{secrets.token_hex(12)}"
        match exc:
            case LimitRequestLine():
                status, message = HTTPStatus.REQUEST_URI_TOO_LONG, "The address is too long."
            case LimitRequestHeaders():
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                message = "The headers are too large."
            case ParseException():
                status, message = HTTPStatus.BAD_REQUEST, "This is not a valid HTTP request."
            case _:
                # Escaped the application, which should have answered itself.
                self.log.error("request %s", request_id, exc_info=exc)
                status = HTTPStatus.INTERNAL_SERVER_ERROR
                message = "Something went wrong on our side."
        ours = status is HTTPStatus.INTERNAL_SERVER_ERROR
        error = {
            "message": message,
            "type": "server_error" if ours else "invalid_request_error",
            "code": "internal_error" if ours else "bad_request",
            "param": None,
            "request_id": request_id,
        }
        body = orjson.dumps({"error": error})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"X-Request-ID: {request_id}\r\n\r\n"
        )
        with contextlib.suppress(OSError):  # whoever sent it may be gone
            client.sendall(head.encode() + body)
            close_graceful(client)  # closing with input unread would take the answer back
