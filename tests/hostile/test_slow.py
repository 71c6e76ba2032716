"""Clients that hold connections open and say nothing, or little: others do not notice."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.api.conftest import Stack
from tests.processes import until

MANY = 100  # connections of each kind
SECONDS = 3.0  # an answer takes milliseconds, and does not come at all where connections are slots


def kinds(stack: Stack) -> dict[str, bytes]:
    """What slow clients have said before they stop, with most of it still to come."""
    post = "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    body = 'Content-Length: 1000\r\n\r\n{"prompt": '
    return {
        "nothing": b"",
        "half a line": b"GET /v1/mod",
        "half a head": post.encode(),
        "half a body without a key": (post + body).encode(),
        "half a body": f"{post}Authorization: Bearer {stack.key}\r\n{body}".encode(),
    }


@contextlib.contextmanager
def connections(stack: Stack, said: bytes, many: int) -> Iterator[list[socket.socket]]:
    host = urlsplit(stack.base)
    with contextlib.ExitStack() as opened:
        found = []
        for _ in range(many):
            connection = socket.create_connection((host.hostname or "", host.port or 80), 10)
            found.append(opened.enter_context(connection))
            connection.sendall(said)
        yield found


def test_hundreds_of_half_open_connections_stop_nobody(stack: Stack) -> None:
    with contextlib.ExitStack() as opened:
        for said in kinds(stack).values():
            opened.enter_context(connections(stack, said, MANY))
        # Readers who take none of what they asked for: more than buffers hold.
        page = b"GET /docs/assets/js/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
        opened.enter_context(connections(stack, page * 4, MANY // 5))
        assert stack.get("/healthz").ok  # all of them are accepted by now

        took = []
        for _ in range(10):
            for ask in (
                lambda: stack.get("/healthz"),
                lambda: stack.get("/v1/models"),
                lambda: stack.get(f"/v1/tasks/{stack.submit()}"),
            ):
                begun = time.monotonic()
                assert ask().status_code == 200
                took.append(time.monotonic() - begun)

    print(f"slowest of {len(took)}: {max(took) * 1000:.0f} ms")
    assert max(took) < SECONDS


@pytest.mark.parametrize(
    "kind", ["nothing", "half a line", "half a head", "half a body without a key"]
)
def test_whoever_has_shown_no_key_is_not_waited_for(stack: Stack, kind: str) -> None:
    with connections(stack, kinds(stack)[kind], 5) as opened:
        for connection in opened:
            connection.settimeout(10)
            said = b"".join(iter(lambda c=connection: c.recv(65536), b""))  # type: ignore[misc]

            assert said == b"" or said.startswith(b"HTTP/1.1 4"), said


def test_drops_in_a_head_do_not_keep_a_connection(stack: Stack) -> None:
    with connections(stack, b"GET /v1/models HTTP/1.1\r\n", 1) as (connection,):
        connection.settimeout(0.05)

        def closed() -> bool:
            try:
                connection.sendall(b"X: y\r\n")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        until(closed, "closed although it goes on", 10)
