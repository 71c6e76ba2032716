"""Clients of Redis that never hang, and what their trouble is called here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.errors import StoreUnavailable
from common.hub import at_most

__all__ = ["allow_redis", "connect", "store_errors"]


def connect(url: str, *, connections: int = 64, timeout: float = 2) -> redis.Redis:
    """A client that never hangs, never repeats a command by itself, waits for a free connection.

    At most `timeout` seconds pass before an unreachable or frozen server is reported. redis-py's
    own pool raises at its cap instead of waiting, and its client repeats commands ten times by
    default.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=min(1, timeout),
        socket_keepalive=True,
        health_check_interval=25,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        # A connection greets with nothing: every word of a greeting would be a round trip.
        protocol=2,
        driver_info=None,
    )
    return redis.Redis(connection_pool=pool)


@dataclass
class _Allowance:
    seconds: float


_allowance: ContextVar[_Allowance | None] = ContextVar("allowance", default=None)


def allow_redis(seconds: float) -> None:
    """All that is asked of Redis in this context from here on takes at most so long together.

    A single command is bounded by the client's own time-outs; but a request makes several, waits
    for a connection, and a slow server has each of them take nearly as long as it may. Holds on
    gevent only (see `common.hub.at_most`).
    """
    _allowance.set(_Allowance(seconds))


@contextlib.contextmanager
def _within_allowance() -> Iterator[None]:
    allowance = _allowance.get()
    if allowance is None:
        yield
        return
    started = time.monotonic()
    try:
        with at_most(allowance.seconds):
            yield
    finally:
        allowance.seconds -= time.monotonic() - started


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Turn what redis-py raises into `StoreUnavailable`; the message is safe to show to callers."""
    try:
        with _within_allowance():
            yield
    except (redis.ConnectionError, redis.TimeoutError, TimeoutError) as error:
        raise StoreUnavailable("The task store cannot be reached.") from error
    except redis.ResponseError as error:
        # Out of memory, loading, read-only replica, failing disk: the server lives and refuses.
        raise StoreUnavailable("The task store does not take writes at the moment.") from error
