"""Clients of Redis as `connect` makes them: what they do when a connection went bad meanwhile."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from common.connection import connect
from tests.valkey import Valkey, close


def test_a_connection_that_the_server_has_closed_is_replaced_unnoticed(valkey: Valkey) -> None:
    client = connect(valkey.url, connections=1)
    try:
        assert client.set("fruit", "apple")
        valkey.redis.client_kill_filter(_type="normal", skipme=True)

        assert client.get("fruit") == "apple"
    finally:
        close(client)


def test_an_answer_that_came_too_late_is_nobody_elses(valkey: Valkey) -> None:
    client = connect(valkey.url, connections=1, timeout=0.2)
    try:
        assert client.set("fruit", "apple")
        with valkey.frozen(), pytest.raises(redis.TimeoutError):
            client.get("fruit")

        assert client.get("vegetable") is None
    finally:
        close(client)


def test_a_connection_is_waited_for_and_then_given_up(valkey: Valkey) -> None:
    client = connect(valkey.url, connections=1, timeout=0.2)
    pool = client.connection_pool
    lent = pool.get_connection()
    try:
        with pytest.raises(redis.ConnectionError, match="No connection"):
            client.get("fruit")
        pool.release(lent)

        assert client.get("fruit") is None
    finally:
        close(client)


ON_GEVENT = """
from gevent import monkey; monkey.patch_all()
import sys, time
from common.connection import allow_redis, connect, store_errors
from common.errors import StoreUnavailable

client = connect(sys.argv[1], timeout=5)
allow_redis(1)
for most in 4, 0.7:  # the first command uses up what both may take
    started = time.monotonic()
    try:
        with store_errors():
            client.ping()
    except StoreUnavailable as error:
        assert isinstance(error.__cause__, TimeoutError), repr(error.__cause__)
        assert time.monotonic() - started < most
    else:
        raise AssertionError("it answered")
"""


def test_all_commands_of_a_request_share_one_allowance() -> None:
    """Of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        subprocess.run(
            [sys.executable, "-c", ON_GEVENT, f"redis://127.0.0.1:{silent.getsockname()[1]}/0"],
            cwd=Path(__file__).resolve().parents[2],
            timeout=30,
            check=True,
        )
