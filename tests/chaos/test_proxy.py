"""The proxy is late by as much as it was told, and hides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis

from tests.chaos.proxy import SlowProxy
from tests.valkey import Valkey, close


@pytest.fixture
def proxy(valkey: Valkey) -> Iterator[SlowProxy]:
    with SlowProxy(valkey.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: SlowProxy) -> Iterator[redis.Redis]:
    client = redis.Redis(port=proxy.port, socket_timeout=5)
    yield client
    close(client)


def test_each_answer_comes_later_by_the_delay(proxy: SlowProxy, client: redis.Redis) -> None:
    client.ping()
    proxy.slow_down(0.4)

    began = time.monotonic()
    client.set("name", "x" * 100_000)
    seconds = time.monotonic() - began
    proxy.slow_down(0.0)

    assert 0.4 <= seconds < 0.8
    assert client.get("name") == b"x" * 100_000


def test_a_server_that_is_gone_is_gone_behind_the_proxy_too(
    valkey: Valkey, client: redis.Redis
) -> None:
    client.ping()
    valkey.kill()
    try:
        with pytest.raises(redis.ConnectionError):
            client.ping()
    finally:
        valkey.start()
