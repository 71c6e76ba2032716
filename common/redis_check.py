"""What is wrong with REDIS_URL for as long as nobody changes it, found when a process starts."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from typing import Any

import redis

from common.connection import connect, sentinel_options
from common.errors import ConfigurationError
from common.redis_url import RedisUrl

__all__ = ["check_redis"]

_SECONDS = 1.0


def check_redis(url: str) -> None:
    """Ask once whether Redis, and its Sentinels, take us.

    Raises ConfigurationError for a file that cannot be read, a certificate that is not trusted, by
    us or by them, a user or password that is refused, a service that the Sentinels do not know. One
    that does not answer is no reason: it may come back, and processes wait for it.
    """
    where = RedisUrl.parse(url)
    for option, path in where.files.items():
        if not os.access(path, os.R_OK):
            raise ConfigurationError(f"REDIS_URL: {option}: {path} cannot be read")
    for host, port in where.hosts if where.service else ():
        whom = f"the Sentinel {host}:{port}"
        options = sentinel_options(where, _SECONDS)
        with redis.Redis(host, port, **options) as sentinel, _refusals(where, whom, host, port):
            known: Any = sentinel.sentinel_masters()
            if where.service not in known:
                raise ConfigurationError(
                    f"REDIS_URL: {whom} knows no service {where.service}; "
                    f"it knows {', '.join(sorted(known)) or 'none'}"
                )
    host, port = where.hosts[0]
    client = connect(url, connections=1, timeout=_SECONDS)
    try:
        with _refusals(where, where.service or f"{host}:{port}", host, port):
            client.ping()
    finally:
        client.close()
        client.connection_pool.disconnect()


@contextlib.contextmanager
def _refusals(where: RedisUrl, whom: str, host: str, port: int) -> Iterator[None]:
    try:
        yield
    except redis.AuthenticationError as error:
        raise ConfigurationError(f"REDIS_URL: {whom} refuses user or password: {error}") from error
    except redis.ConnectionError as error:
        trouble = _of_tls(error)
        if isinstance(trouble, ssl.SSLEOFError):
            trouble = _last_word(where, host, port)
        if trouble is not None and not isinstance(trouble, ssl.SSLEOFError):
            why = getattr(trouble, "verify_message", "") or trouble.reason or str(trouble)
            raise ConfigurationError(
                f"REDIS_URL: no TLS with {whom}: {why}. ssl_ca_certs names the file with the "
                "authority that signed its certificate; ssl_certfile and ssl_keyfile are ours, "
                "where it asks for one."
            ) from error
    except (redis.TimeoutError, redis.ResponseError):
        pass


def _last_word(where: RedisUrl, host: str, port: int) -> ssl.SSLError | None:
    """What a server says that hangs up on us after the handshake, as one does that misses our
    certificate: whoever has something to say first may only notice that it is gone."""
    options: Any = sentinel_options(where, _SECONDS) | {"username": None, "password": None}
    del options["ssl"]
    connection: Any = redis.SSLConnection(
        host=host, port=port, driver_info=None, protocol=2, **options
    )
    try:
        connection.connect()
        connection.read_response()
    except (redis.ConnectionError, redis.TimeoutError) as error:
        return _of_tls(error)
    finally:
        connection.disconnect()
    return None


def _of_tls(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None
