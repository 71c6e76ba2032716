"""Serves a WSGI application over HTTP/1.1 with one thread per connection.

Written for the sandbox's odd wishes: any number of calls that wait for seconds, an answer that
notices when its client hangs up, a connection cut without an answer, and no second process that
could outlive a kill.
"""

import io
import os
import select
import socket
import socketserver
import struct
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

# Long, because a client that reuses a connection the server has just closed cannot know whether
# its request was heard; that trouble should come from a fault, never by itself.
IDLE_SECONDS = 600.0
BODY_LIMIT = 320 * 1024 * 1024  # an edit has pictures of its own, some of them in base64
HEADER_LIMIT = 100
LINE_LIMIT = 64 * 1024

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class ClientGone(ConnectionError):
    """The client hung up before it had its answer."""


class Connection:
    """The client's end of one connection, found in `environ["sandbox.connection"]`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.is_open = True

    def wait(self, seconds: float) -> None:
        """Sleep, but raise ClientGone as soon as the client hangs up."""
        if seconds <= 0:
            return
        ends = time.monotonic() + seconds
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        if not poller.poll(seconds * 1000):
            return
        try:
            gone = self._socket.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            gone = True
        if gone:
            self.is_open = False
            raise ClientGone
        time.sleep(max(0.0, ends - time.monotonic()))  # it sent its next request ahead

    def reset(self) -> None:
        """Cut the connection at once, so that the client sees a reset instead of an answer."""
        self.is_open = False
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self._socket.detach())


class Server(socketserver.ThreadingTCPServer):
    """Listens as soon as it is made; `port` is the real one when 0 was asked for."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, host: str, port: int, app: WSGIApp) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.app = app
        super().__init__((host, port), _Handler)
        self.host, self.port = self.server_address[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        sock: socket.socket = self.request
        sock.settimeout(IDLE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock)
        with suppress(OSError), sock.makefile("rb") as stream:
            while connection.is_open:
                try:
                    environ = self._read_request(stream)
                except _BadRequest as problem:
                    _send_plain(sock, problem.status)
                    return
                if environ is None:
                    return
                environ["sandbox.connection"] = connection
                self._answer(environ, connection)

    def _read_request(self, stream: io.BufferedReader) -> dict[str, Any] | None:
        line = stream.readline(LINE_LIMIT)
        if not line.strip():
            return None
        try:
            method, target, version = line.decode("latin-1").split()
        except ValueError:
            raise _BadRequest(HTTPStatus.BAD_REQUEST) from None
        path, _, query = target.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": str(self.server.host),
            "SERVER_PORT": str(self.server.port),
            "SERVER_PROTOCOL": version,
            "REMOTE_ADDR": self.client_address[0],
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in _read_headers(stream):
            key = name.upper().replace("-", "_")
            environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
        if environ.get("HTTP_EXPECT", "").lower() == "100-continue":
            self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = _read_body(stream, environ)
        environ.pop("HTTP_TRANSFER_ENCODING", None)  # the application gets the body whole
        environ["CONTENT_LENGTH"] = str(len(body))
        environ["wsgi.input"] = io.BytesIO(body)
        return environ

    def _answer(self, environ: dict[str, Any], connection: Connection) -> None:
        head = bytearray()
        sized = False

        def start_response(
            status: str, headers: list[tuple[str, str]], _exc_info: Any = None
        ) -> Callable[[bytes], None]:
            nonlocal sized
            names = {name.lower() for name, _ in headers}
            sized = "content-length" in names or status[:3] in ("204", "304")
            lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
            if not sized:
                lines.append("Connection: close")
            head[:] = "\r\n".join([*lines, "", ""]).encode("latin-1")
            return head.extend

        result = self.server.app(environ, start_response)
        try:
            # The head travels with the first piece: two writes would wait for a delayed ACK.
            for piece in result:
                if not connection.is_open:
                    return
                head.extend(piece)
                self.request.sendall(head)
                head.clear()
            if head and connection.is_open:
                self.request.sendall(head)
        finally:
            if hasattr(result, "close"):
                result.close()
            wants_close = environ.get("HTTP_CONNECTION", "").lower() == "close"
            if not sized or wants_close or environ["SERVER_PROTOCOL"] != "HTTP/1.1":
                connection.is_open = False


class _BadRequest(Exception):
    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


def _read_headers(stream: io.BufferedReader) -> Iterable[tuple[str, str]]:
    for _ in range(HEADER_LIMIT):
        line = stream.readline(LINE_LIMIT).decode("latin-1").rstrip("\r\n")
        if not line:
            return
        name, separator, value = line.partition(":")
        if not separator:
            raise _BadRequest(HTTPStatus.BAD_REQUEST)
        yield name.strip(), value.strip()
    raise _BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)


def _read_body(stream: io.BufferedReader, environ: dict[str, Any]) -> bytes:
    if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
        return _read_chunks(stream)
    length = environ.get("CONTENT_LENGTH", "") or "0"
    if not length.isdecimal():
        raise _BadRequest(HTTPStatus.BAD_REQUEST)
    if int(length) > BODY_LIMIT:
        raise _BadRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    body = stream.read(int(length))
    if len(body) < int(length):
        raise ConnectionResetError("the client hung up in the middle of its request")
    return body


def _read_chunks(stream: io.BufferedReader) -> bytes:
    body = bytearray()
    while True:
        try:
            size = int(stream.readline(LINE_LIMIT).split(b";")[0], 16)
        except ValueError:
            raise _BadRequest(HTTPStatus.BAD_REQUEST) from None
        if size == 0:
            while stream.readline(LINE_LIMIT).strip():
                pass  # trailers say nothing the sandbox needs
            return bytes(body)
        if len(body) + size > BODY_LIMIT:
            raise _BadRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body += stream.read(size)
        stream.readline(LINE_LIMIT)


def _send_plain(sock: socket.socket, status: HTTPStatus) -> None:
    body = status.phrase.encode()
    head = f"HTTP/1.1 {status} {status.phrase}\r\nContent-Length: {len(body)}\r\n"
    sock.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
