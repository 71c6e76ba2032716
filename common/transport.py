"""Carries one request to its end, by a deadline, and tells what was surely not sent.

This speaks through the transport layer of `requests` and not through its Session: a Session would
read .netrc for credentials, keep cookies, and read the whole body of a redirect to prepare for
following it, whatever its length.
"""

from __future__ import annotations

import email.utils
import functools
import http.client
import io
import math
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import requests
import requests.certs
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import BaseSSLError, HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, ProxyError
from urllib3.util.connection import create_connection

from common.addresses import is_public
from common.hub import give_way, is_readable

__all__ = ["Answer", "Forbidden", "TooLarge", "Transport", "Trouble", "tls_context"]

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 2.0  # of a kept connection; below what servers usually grant, see _Pool
ERROR_BYTES = 65_536
RETRY_AFTER_LIMIT = 3600.0

# The transport's own errors (RequestException is an OSError), and what it lets through.
_NETWORK_ERRORS = (OSError, HTTPError, http.client.HTTPException, ValueError)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer read to its end. Of an error's body only the first part may be there."""

    status: int
    headers: Mapping[str, str]  # any case
    body: bytes = field(repr=False)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> dict[str, Any]:
        """The body as a JSON object, empty when it is anything else."""
        value = self._value()
        return value if isinstance(value, dict) else {}

    def array(self) -> list[Any] | None:
        """The body as a JSON array, None when it is anything else."""
        value = self._value()
        return value if isinstance(value, list) else None

    def header(self, name: str) -> str | None:
        """A header that is going to be kept: printable and of bearable length, or None."""
        value = self.headers.get(name)
        return value if value and len(value) <= 200 and value.isprintable() else None

    def retry_after(self) -> float | None:
        """The wait in seconds that the answer names, at most an hour; None when it names none."""
        seconds = _number(self.headers.get("retry-after-ms"))
        if seconds is not None:
            seconds /= 1000
        else:
            seconds = _number(self.headers.get("Retry-After"))
        if seconds is None:
            until = _instant(self.headers.get("Retry-After"))
            if until is None:
                return None
            # By the server's own clock if it shows it: ours may differ.
            now = _instant(self.headers.get("Date"))
            seconds = until - (time.time() if now is None else now)
        return min(max(seconds, 0.0), RETRY_AFTER_LIMIT)

    def _value(self) -> Any:
        give_way()  # a millisecond for each picture in it
        try:
            return orjson.loads(self.body)
        except ValueError:
            return None


class Trouble(Exception):
    """No whole answer. `sent`: the provider may have got the request. The text says why."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


class Forbidden(Exception):
    """An address in an answer that must not be visited. The text says why, without naming it."""


class TooLarge(Exception):
    def __init__(self) -> None:
        super().__init__("the answer was too large")


class Transport(HTTPAdapter):
    """Connections with the shared TLS context; without resends, which is the default.

    `guarded` ones lead to public addresses only.
    """

    def __init__(self, concurrency: int, *, guarded: bool) -> None:
        self._pools = {
            "http": _GuardedHTTPPool if guarded else _HTTPPool,
            "https": _GuardedHTTPSPool if guarded else _HTTPSPool,
        }
        # More connections than the pool keeps are no error; they are closed after use.
        super().__init__(pool_maxsize=concurrency, pool_block=False)

    def exchange(
        self,
        request: requests.PreparedRequest,
        *,
        deadline: float,
        limit: int,
        proxies: Mapping[str, str] | None = None,
        whole: bool = True,
    ) -> Answer:
        """Send the request once and read the answer, all until the instant `deadline`.

        At most `limit` bytes of a success are read; unless it has to be `whole`, what came of it
        until then will do. Raises Trouble, TooLarge, or Forbidden when a
        guarded connection would lead to a private address.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise Trouble("no time was left", sent=False)
        # `requests` takes this too, which its annotations do not know.
        timeout: Any = Timeout(connect=min(CONNECT_SECONDS, left), total=left)
        try:
            with self.send(request, stream=True, timeout=timeout, proxies=proxies) as response:
                body = _read(response, limit, whole=whole)
                return Answer(response.status_code, response.headers, body)
        except _NETWORK_ERRORS as error:
            raise _trouble(error) from error

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **kwargs: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=tls_context(), **kwargs)
        self._use_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        tls = {"ssl_context": tls_context(), "proxy_ssl_context": tls_context()}
        return self._use_pools(super().proxy_manager_for(proxy, **tls, **kwargs))

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        # The inherited one has every connection load a CA bundle into the shared context. The
        # context verifies without it; `cert_reqs` of the pool stays CERT_REQUIRED.
        return

    def _use_pools(self, manager: PoolManager) -> PoolManager:
        manager.pool_classes_by_scheme = self._pools
        return manager


@functools.cache
def tls_context() -> ssl.SSLContext:
    """The certificates of the system, or those of SSL_CERT_FILE and SSL_CERT_DIR.

    One for the process: loading them costs 20 ms of CPU, which `requests` by itself spends on each
    new connection.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:
        context.load_verify_locations(requests.certs.where())  # a system without any of its own
    return context


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _instant(text: str | None) -> float | None:
    parsed = email.utils.parsedate_tz(text) if text else None
    try:
        return email.utils.mktime_tz(parsed) if parsed else None
    except (ValueError, OverflowError):
        return None


def _read(response: requests.Response, limit: int, *, whole: bool) -> bytes:
    if 300 <= response.status_code < 400:
        return b""
    failed = response.status_code >= 400
    # The status of an error tells enough; half of a success tells nothing, where it is of use.
    partly = failed or not whole
    most = ERROR_BYTES if failed else limit
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in response.iter_content(65_536):
            size += len(piece)
            if not partly and size > most:
                raise TooLarge
            pieces.append(piece)
            if partly and size >= most:
                break
    except _NETWORK_ERRORS:
        if not partly:
            raise
    return b"".join(pieces)


def _trouble(error: Exception) -> Exception:
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else None
    if isinstance(reason, ProxyError):
        # Also made of a proxied call that was sent and got no answer; only its cause can tell.
        reason = reason.original_error
    if isinstance(reason, _PrivateAddress):
        return Forbidden("its host is in a private network")
    # Errors of the connecting phase reach us only as this one, see _Connecting.connect.
    if isinstance(reason, NewConnectionError):
        return Trouble(_why_not_connected(reason.__cause__), sent=False)
    if isinstance(error, ValueError) and isinstance(error, requests.RequestException):
        return Trouble("its URL, or that of the proxy, cannot be used", sent=False)
    timed_out = isinstance(error, requests.Timeout) or "timed out" in str(error)
    return Trouble("the time was up" if timed_out else "the connection broke", sent=True)


def _why_not_connected(cause: BaseException | None) -> str:
    if isinstance(cause, BaseSSLError):
        return "no trusted TLS connection could be made"
    if isinstance(cause, socket.gaierror):
        return "its host name is not known"
    if isinstance(cause, TimeoutError):
        return "the connection took too long"
    return "no connection could be made"


class _PrivateAddress(NewConnectionError):
    """The host name stands for an address that is not public."""


class _Deadlined(io.RawIOBase):
    """Reads a socket until an instant: its own timeout would start anew with each byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._first = b""
        left = sock.gettimeout()
        self._ends = math.inf if left is None else time.monotonic() + left

    def wait(self) -> None:
        """Wait until something has come, or nothing more can; before anything is read."""
        self._first = self._sock.recv(1)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: Any) -> int | None:
        if self._first:
            buffer[:1], self._first = self._first, b""
            return 1
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        if left < math.inf:
            self._sock.settimeout(left)
        read = self._raw.readinto(buffer)
        give_way()  # many answers may come at once
        return read

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """Must be read, from its first header to its last byte, within the timeout of its socket."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw: Any = self.fp.detach()
        self._deadlined = _Deadlined(raw, sock)
        self.fp = io.BufferedReader(self._deadlined, 1)  # a proxy's few lines are read through it

    def begin(self) -> None:
        if self.headers is None:
            # A provider thinks for a minute, and thousands do at once: the buffer of 8 kB is made
            # when there is something to put into it.
            self._deadlined.wait()
            self.fp = io.BufferedReader(self.fp.detach())
        super().begin()


class _Connecting(HTTPConnection):
    """What our connections have in common."""

    response_class = _Response
    idle_since = math.inf
    guarded = False

    @property
    def is_connected(self) -> bool:
        # The inherited one asks by way of gevent's loop.
        return self.sock is not None and not is_readable(self.sock)

    def connect(self) -> None:
        # A failed TLS handshake and a broken answer look alike later on. So all that goes wrong
        # before the request is sent gets one name here.
        try:
            super().connect()
        except NewConnectionError:
            raise
        except (OSError, HTTPError, ValueError) as error:
            raise NewConnectionError(self, "not connected") from error

    def _new_conn(self) -> socket.socket:
        """Connect to one of the host's addresses, and to exactly those that were looked at."""
        try:
            found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        # Behind a proxy this is the proxy's own address, and the proxy decides where it leads.
        if self.guarded and self.proxy is None and not all(map(is_public, addresses)):
            raise _PrivateAddress(self, "a private address")
        ends = time.monotonic() + float(self.timeout or CONNECT_SECONDS)
        for tried, address in enumerate(addresses):
            # Each gets its share of the time, so that a dead IPv6 route leaves some for IPv4.
            share = max(0.1, (ends - time.monotonic()) / (len(addresses) - tried))
            try:
                sock = create_connection(
                    (address, self.port), share, socket_options=self.socket_options
                )
            except OSError:
                if address == addresses[-1]:
                    raise
            else:
                sock.settimeout(max(0.1, ends - time.monotonic()))
                return sock
        raise OSError("the host name has no address")


class _HTTPConnection(_Connecting):
    pass


class _HTTPSConnection(_Connecting, HTTPSConnection):
    pass


class _GuardedHTTPConnection(_HTTPConnection):
    guarded = True


class _GuardedHTTPSConnection(_HTTPSConnection):
    guarded = True


class _Pool(HTTPConnectionPool):
    """Does not reuse a connection that was idle for long.

    A server may close it just while our request is under way; then nobody knows whether it was
    heard, and a paid call must be counted as lost (`OutcomeUnknown`).
    """

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection: Any = super()._get_conn(timeout)
        if time.monotonic() - connection.idle_since > IDLE_SECONDS:
            connection.close()  # it opens again by itself
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since = time.monotonic()
        super()._put_conn(conn)


class _HTTPPool(_Pool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _GuardedHTTPPool(_HTTPPool):
    ConnectionCls = _GuardedHTTPConnection


class _GuardedHTTPSPool(_HTTPSPool):
    ConnectionCls = _GuardedHTTPSConnection
