"""Clients of Redis as `connect` makes them: what they do when a connection went bad meanwhile."""

from __future__ import annotations

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
