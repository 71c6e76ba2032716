"""What every test that starts processes needs: a port for them, and patience."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable
from typing import Any

import redis

_BLOCK = 277  # ports, of one process
_GIVEN: set[int] = set()


def free_port() -> int:
    """A port of this machine that nobody listens on.

    It is below those that outgoing connections get: while its server is away, a client that tries
    again and again could else be given the very port it looks for, and keep the server from it.
    Nor does the next call, or that of a process beside this one, give it away before it is used.
    """
    if len(_GIVEN) > _BLOCK // 2:
        _GIVEN.clear()
    first = 15_000 + os.getpid() % 64 * _BLOCK
    for port in random.SystemRandom().sample(range(first, first + _BLOCK), _BLOCK):
        if port in _GIVEN:
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            _GIVEN.add(port)
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
