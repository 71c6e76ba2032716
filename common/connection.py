"""Clients of Redis that never hang, and what their trouble is called here."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.errors import StoreUnavailable
from common.hub import at_most, is_readable

__all__ = ["allow_redis", "connect", "store_errors"]


def connect(url: str, *, connections: int = 64, timeout: float = 2) -> redis.Redis:
    """A client that never hangs, never repeats a command by itself, waits for a free connection.

    At most `timeout` seconds pass before an unreachable or frozen server is reported. redis-py's
    own pool raises at its cap instead of waiting, and its client repeats commands ten times by
    default.
    """
    pool = _Pool.from_url(
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
    return _Client(connection_pool=pool)


class _Pool(redis.BlockingConnectionPool):
    """Lends connections for a quarter of what redis-py 8 takes for it, by what is left out: it
    notes every loan for metrics that nobody collects, and asks gevent's loop whether a socket is
    sound."""

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """A connection on which nothing is under way; raises redis.ConnectionError."""
        self._checkpid()  # those that were made before a fork are not ours
        try:
            connection: Any = self.pool.get(timeout=self.timeout)
        except queue.Empty:
            raise redis.ConnectionError("No connection available.") from None
        try:
            if connection is None:
                connection = self.make_connection()  # type: ignore[no-untyped-call]
            if connection._sock is not None and is_readable(connection._sock):
                connection.disconnect()  # the server has closed it
            connection.connect()
        except BaseException:
            self.release(connection)
            raise
        return connection

    def release(self, connection: Any) -> None:
        self._checkpid()
        if connection is not None and not self.owns_connection(connection):
            connection.disconnect()
            connection = None
        with contextlib.suppress(queue.Full):
            self.pool.put_nowait(connection)


class _Client(redis.Redis):
    """Sends a command and reads its answer, without what redis-py 8 does around that for retries,
    which we have none of, for metrics, and for servers that move."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        pool: Any = self.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command(*args, **options)
            return self.parse_response(connection, args[0], **options)  # type: ignore[no-untyped-call]
        except redis.ResponseError:
            raise
        except BaseException:
            connection.disconnect()  # its answer may come yet, and must not be taken for another's
            raise
        finally:
            pool.release(connection)


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
