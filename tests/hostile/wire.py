"""Requests byte by byte, as no HTTP library would send them, and many of them quickly."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Answer", "ask_all", "exchange", "head"]

_AT_ONCE = 64  # requests on their way in one connection; they and their answers fit into buffers


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in small letters
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def head(method: str, target: str, **headers: str) -> bytes:
    """A request without a body; `headers` have underscores for hyphens."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{''.join(lines)}\r\n".encode("latin-1")


def exchange(base: str, data: bytes, *, end: bool = True, seconds: float = 10) -> list[Answer]:
    """Send `data`, and with `end` nothing after it; all answers until the connection is closed.

    Raises TimeoutError when it is neither answered nor closed for `seconds`.
    """
    with _connect(base, seconds) as connection, connection.makefile("rb") as answers:
        try:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
        except TimeoutError:
            raise
        except OSError:
            pass  # closed while we were still speaking; there may be an answer all the same
        found = []
        while answer := _read(answers):
            found.append(answer)
        return found


def ask_all(base: str, requests: Sequence[bytes], *, connections: int = 4) -> list[Answer | None]:
    """The answers to requests that are pipelined over a few connections; None for one that was
    answered with a closed connection."""
    shares = [requests[first::connections] for first in range(connections)]
    answers: list[Answer | None] = [None] * len(requests)
    with ThreadPoolExecutor(connections) as pool:
        for first, share in enumerate(pool.map(lambda share: _ask_in_turn(base, share), shares)):
            answers[first::connections] = share
    return answers


def _ask_in_turn(base: str, requests: Sequence[bytes]) -> list[Answer | None]:
    answers: list[Answer | None] = []
    while len(answers) < len(requests):
        before = len(answers)
        with _connect(base, 20) as connection, connection.makefile("rb") as said:
            try:
                while len(answers) < len(requests):
                    batch = requests[len(answers) : len(answers) + _AT_ONCE]
                    connection.sendall(b"".join(batch))
                    for _ in batch:
                        if (answer := _read(said)) is None:
                            raise ConnectionError
                        answers.append(answer)
                        if answer.headers.get("connection") == "close":
                            raise ConnectionError
            except ConnectionError:
                if len(answers) == before:
                    answers.append(None)
    return answers


def _connect(base: str, seconds: float) -> socket.socket:
    host = urlsplit(base)
    assert host.hostname is not None
    return socket.create_connection((host.hostname, host.port or 80), timeout=seconds)


def _read(said: io.BufferedReader) -> Answer | None:
    """The next answer; None when there is no more."""
    try:
        first = said.readline()
        if not first:
            return None
        status = int(first.split()[1])
        headers = {}
        while line := said.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = said.read(int(headers.get("content-length", "0")))
    except ConnectionResetError:
        return None
    return Answer(status, headers, body)
