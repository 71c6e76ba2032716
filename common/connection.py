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
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from common.errors import StoreUnavailable
from common.hub import at_most, is_readable
from common.redis_url import RedisUrl

__all__ = ["allow_redis", "connect", "sentinel_options", "store_errors"]


def connect(url: str, *, connections: int = 64, timeout: float = 2) -> redis.Redis:
    """A client that never hangs, never repeats a command by itself, waits for a free connection.

    At most `timeout` seconds pass before an unreachable or frozen server is reported. redis-py's
    own pool raises at its cap instead of waiting, and its client repeats commands ten times by
    default.
    """
    where = RedisUrl.parse(url)
    options: dict[str, Any] = {
        **where.login,
        **(where.tls or {}),
        "db": where.db,
        "max_connections": connections,
        "timeout": timeout,
        "socket_timeout": timeout,
        "socket_connect_timeout": min(1, timeout),
        "socket_keepalive": True,
        "health_check_interval": 25,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
        # A connection greets with nothing: every word of a greeting would be a round trip.
        "protocol": 2,
        "driver_info": None,
    }
    secure = where.tls is not None
    pool: redis.ConnectionPool
    if where.service:
        managed = SentinelManagedSSLConnection if secure else SentinelManagedConnection
        asked: Any = {"sentinel_kwargs": sentinel_options(where, timeout)}
        sentinel = Sentinel(where.hosts, **asked)  # type: ignore[no-untyped-call]
        options |= {"service_name": where.service, "sentinel_manager": sentinel}
        pool = _SentinelPool(connection_class=managed, **options)  # type: ignore[no-untyped-call]
    else:
        ((host, port),) = where.hosts
        kind = redis.SSLConnection if secure else redis.Connection
        pool = _Pool(connection_class=kind, host=host, port=port, **options)  # type: ignore[no-untyped-call]
    return _Client(connection_pool=pool)


def sentinel_options(where: RedisUrl, timeout: float) -> dict[str, Any]:
    """How the Sentinels of a URL are asked, in redis-py's words: each for `timeout` seconds at most
    and once. redis-py itself would ask a dead one again and again before it asks the next."""
    return {
        **where.sentinel_login,
        **({"ssl": True, **where.tls} if where.tls is not None else {}),
        "socket_timeout": timeout,
        "socket_connect_timeout": min(1, timeout),
        "retry": None,  # which is once; it has to be JSON, for Flower shows it
    }


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
            if connection._sock is None:
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


class _SentinelPool(SentinelConnectionPool, _Pool):
    """The same for a service of Sentinels: a new connection asks them where the primary is, and one
    to a server that is it no longer is not lent again."""


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
def store_errors() -> Iterator[None]:
    """Turn what redis-py raises into `StoreUnavailable`; the message is safe to show to callers."""
    allowance = _allowance.get()
    started = time.monotonic()
    try:
        if allowance is None:
            yield
        else:
            with at_most(allowance.seconds):
                yield
    except (redis.ConnectionError, redis.TimeoutError, TimeoutError) as error:
        raise StoreUnavailable("The task store cannot be reached.") from error
    except redis.ResponseError as error:
        # Out of memory, loading, read-only replica, failing disk: the server lives and refuses.
        raise StoreUnavailable("The task store does not take writes at the moment.") from error
    finally:
        if allowance is not None:
            allowance.seconds -= time.monotonic() - started
