"""What every test that starts processes needs: a port for them, and patience."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable
from typing import Any

import redis


def free_port() -> int:
    """A port of this machine that nobody listens on.

    It is below those that outgoing connections get: while its server is away, a client that tries
    again and again could else be given the very port it looks for, and keep the server from it.
    """
    for port in random.SystemRandom().sample(range(15_000, 32_768), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


def until(condition: Callable[[], Any], what: str = "true", seconds: float = 20) -> Any:
    """Wait for `condition` to give something true, and return that.

    Somebody who cannot be reached yet makes it not true. Fails the test after `seconds`.
    """
    ends = time.monotonic() + seconds
    while True:
        # What requests raises is an OSError, too.
        with contextlib.suppress(OSError, redis.RedisError):
            if value := condition():
                return value
        assert time.monotonic() < ends, f"not within {seconds} s: {what}"
        time.sleep(0.01)
