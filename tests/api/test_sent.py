"""What gunicorn sends for an answer, and in how many pieces: each wakes its reader once more."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.config import Config  # type: ignore[import-untyped]
from gunicorn.http import get_parser, wsgi  # type: ignore[import-untyped]

import api.gunicorn_worker  # from then on gunicorn answers as it says there

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="connections of packets are Linux' own"
)

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """On which what is sent by one call is read by one call, and nothing else with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.settimeout(5)
        yield ours, theirs


def answer(ours: socket.socket, *pieces: bytes, **headers: str) -> None:
    config = Config()
    request = next(get_parser(config, iter([REQUEST]), ("127.0.0.1", 1)))
    response: Any
    response, _ = wsgi.create(request, ours, ("127.0.0.1", 1), ("127.0.0.1", 2), config)
    response.start_response("200 OK", list(headers.items()))
    for piece in pieces:
        response.write(piece)
    response.close()
    ours.shutdown(socket.SHUT_WR)


def received(theirs: socket.socket) -> list[bytes]:
    return list(iter(lambda: theirs.recv(500_000), b""))


def test_an_answer_is_sent_as_one_piece(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = connection
    answer(ours, b"hello", **{"Content-Length": "5"})

    (whole,) = received(theirs)
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n") and whole.endswith(b"\r\n\r\nhello")


def test_what_comes_bit_by_bit_is_sent_as_it_comes(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = connection
    answer(ours, b"one", b"two")

    first, *others = received(theirs)
    assert first.endswith(b"\r\n\r\n3\r\none\r\n")
    assert others == [b"3\r\ntwo\r\n", b"0\r\n\r\n"]


def test_what_is_long_is_sent_in_pieces(
    connection: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between which others have their turn."""
    turns: list[None] = []
    monkeypatch.setattr(api.gunicorn_worker, "give_way", lambda: turns.append(None))
    ours, theirs = connection
    answering = threading.Thread(
        target=answer, args=(ours, b"x" * 400_000), kwargs={"Content-Length": "400000"}
    )
    answering.start()

    pieces = received(theirs)
    answering.join()
    assert [len(piece) for piece in pieces[-3:]] == [131_072, 131_072, 6_784]
    assert len(turns) == 4


def test_an_answer_without_a_body_is_sent(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = connection
    answer(ours, **{"Content-Length": "0"})

    (whole,) = received(theirs)
    assert whole.endswith(b"\r\n\r\n")
