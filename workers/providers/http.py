"""The one HTTP client of the adapters: knows what was surely not sent, and keeps to a deadline.

Whether a call that went wrong may have cost money is decided here, in one place:
what failed before the first byte of the request went out is `Unavailable`; after that a paid POST
is `OutcomeUnknown`. Nothing is ever sent twice, no redirect is followed with a credential, and
addresses that came out of an answer are treated as an attacker's.

This speaks through the transport layer of `requests` and not through its Session: a Session would
read .netrc for credentials, keep cookies, and read the whole body of a redirect to prepare for
following it, whatever its length.
"""

from __future__ import annotations

import email.utils
import functools
import http.client
import io
import ipaddress
import math
import re
import socket
import ssl
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import orjson
import requests
import requests.certs
import requests.utils
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import BaseSSLError, HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, ProxyError
from urllib3.util.connection import create_connection

from common.errors import (
    BadAnswer,
    ConfigurationError,
    JobLost,
    ModelNotServed,
    NotAuthorised,
    OutcomeUnknown,
    OutOfCredit,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
)
from common.settings import ProviderAccess
from common.task import Billed

__all__ = ["Answer", "Http"]

CONNECT_SECONDS = 5.0
GET_SECONDS = 15.0  # what can be repeated is not waited for till the end of a task
DOWNLOAD_SECONDS = 120.0
IDLE_SECONDS = 2.0  # of a kept connection; below what servers usually grant, see _Pool
RETRY_AFTER_LIMIT = 3600.0
REDIRECT_LIMIT = 3
MESSAGE_LIMIT = 300  # characters
JSON_BYTES = 1_000_000  # an answer without its pictures
ERROR_BYTES = 65_536

_STATUS_ERRORS: dict[int, type[ProviderError]] = {
    400: Refused,
    401: NotAuthorised,
    402: OutOfCredit,
    403: NotAuthorised,
    404: ModelNotServed,
    405: ModelNotServed,
    407: NotAuthorised,
    408: OutcomeUnknown,  # gateways say it when the work behind them took too long
    413: Refused,
    415: Refused,
    422: Refused,
    429: RateLimited,
}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_SECRETS = re.compile(r"(?i)\bbearer\s+\S+|\bsk-[^\s,;\"']+")
_LINKS = re.compile(r"(?i)\b(?:https?|data):\S+")  # signed, internal or endless
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

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
        try:
            value = orjson.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def header(self, name: str) -> str | None:
        """A header that is going to be kept: printable and of bearable length, or None."""
        value = self.headers.get(name)
        return value if value and len(value) <= 200 and value.isprintable() else None


class Http:
    """One provider's API. Safe to share between threads.

    `deadline` is always an instant of `time.monotonic()` at which the call is over, whatever it is
    doing; only the look-up of a host name can make it late. `get` and `download` may end earlier,
    after GET_SECONDS and DOWNLOAD_SECONDS. `hosts` are the hosts beside the
    configured one that an address in an answer may lead to: a name, `.name` for a domain and all
    below it, or `*` for any host; always https, never a private address.
    """

    def __init__(
        self,
        provider: str,
        access: ProviderAccess,
        *,
        auth: tuple[str, str],
        concurrency: int,
        max_image_bytes: int,
    ) -> None:
        """`auth`: the header that carries the key, and what precedes the key in it.

        Raises ConfigurationError for a key that cannot be part of a header.
        """
        key = access.key.get_secret_value()
        if not (key.isascii() and key.isprintable() and key == key.strip()):
            raise ConfigurationError(
                f"The key of provider {provider} has characters that no HTTP header can carry: "
                "blanks around it, control characters or letters beyond ASCII."
            )
        self.sandbox = access.sandbox
        self.host = urlsplit(access.base_url).hostname or ""
        self._provider = provider
        self._base = access.base_url
        self._origin = _origin(access.base_url)
        self._key = key
        self._auth = {auth[0]: auth[1] + key} if key else {}
        self._max_image_bytes = max_image_bytes
        self._is_local = access.sandbox or _is_loopback(self.host)
        self._own = _Transport(concurrency, guarded=False)
        self._foreign = _Transport(concurrency, guarded=True)

    def post(
        self, path: str, body: Mapping[str, Any], *, deadline: float, pictures: int = 0
    ) -> Answer:
        """Send a call that may cost money, once. `pictures`: how many the answer may hold, in
        base64.

        Returns the answer whatever its status. Raises Unavailable when nothing was sent,
        OutcomeUnknown when that is not sure, Refused for a body that is not Unicode text, and
        BadAnswer for a success beyond all size.
        """
        limit = JSON_BYTES + pictures * (self._max_image_bytes * 4 // 3)
        headers = self._headers | {"Content-Type": "application/json"}
        try:
            data = orjson.dumps(body)
        except orjson.JSONEncodeError as error:
            raise Refused("The request holds text that is not valid Unicode.") from error
        request = requests.Request("POST", self._base + path, headers=headers, data=data).prepare()
        try:
            return self._exchange(self._own, request, deadline, limit)
        except _TooLarge as error:
            text = f"{self._provider} answered with more than {limit} bytes."
            raise BadAnswer(text, billed="yes") from error
        except _Trouble as trouble:
            if trouble.sent:
                text = (
                    f"The answer of {self._provider} never came whole: {trouble}. "
                    "Whether the request was carried out is not known."
                )
                raise OutcomeUnknown(text) from trouble
            text = f"{self._provider} could not be reached: {trouble}."
            raise Unavailable(text) from trouble

    def get(self, url: str, *, hosts: Collection[str] = (), deadline: float) -> Answer:
        """Ask for JSON, with the key. `url` is a path below the base URL or came from an answer.

        Returns an answer that is a success or says that there is no such thing (404, 410).
        Everything else can be cured by a later look, as far as anybody knows, and must not end
        work that is paid for: raises RateLimited or Unavailable. Raises BadAnswer for a URL that
        `admits` does not take.
        """
        url = self._base + url if url.startswith("/") else url
        try:
            request, transport = self._prepare(url, hosts, self._headers)
        except _Forbidden as error:
            raise BadAnswer(f"{self._provider} named an address to ask at: {error}.") from error
        deadline = min(deadline, time.monotonic() + GET_SECONDS)
        try:
            answer = self._exchange(transport, request, deadline, JSON_BYTES)
        except (_Trouble, _TooLarge, _Forbidden) as trouble:
            text = f"{self._provider} could not be asked: {trouble}."
            raise Unavailable(text) from trouble
        if answer.ok or answer.status in (404, 410):
            return answer
        raise self.error(answer, RateLimited if answer.status == 429 else Unavailable)

    def download(self, url: str, *, hosts: Collection[str] = (), deadline: float) -> bytes:
        """Fetch a picture from an address that came from an answer, never with the key.

        Raises Unavailable or RateLimited for what a repeat can cure, JobLost when the address does
        not work any more, BadAnswer for one that it would be wrong to visit and for a body larger
        than a picture may be.
        """
        headers = {name: self._headers[name] for name in ("User-Agent", "Accept-Encoding")}
        deadline = min(deadline, time.monotonic() + DOWNLOAD_SECONDS)
        try:
            for _ in range(REDIRECT_LIMIT + 1):
                request, transport = self._prepare(url, hosts, headers)
                answer = self._exchange(transport, request, deadline, self._max_image_bytes)
                if answer.status not in _REDIRECTS:
                    return self._picture(answer)
                url = urljoin(url, answer.headers.get("Location", ""))
        except _Forbidden as error:
            text = f"{self._provider} named an address for the picture: {error}."
            raise BadAnswer(text, billed="yes") from error
        except _TooLarge as error:
            text = f"The picture of {self._provider} has more than {self._max_image_bytes} bytes."
            raise BadAnswer(text, billed="yes") from error
        except _Trouble as trouble:
            text = f"The picture of {self._provider} could not be fetched: {trouble}."
            raise Unavailable(text) from trouble
        raise BadAnswer(f"The picture's address at {self._provider} only redirects.", billed="yes")

    def admits(self, url: str, *, hosts: Collection[str] = ()) -> bool:
        """Whether `get` and `download` would go to `url` (they still look at its IP address)."""
        try:
            self._prepare(url, hosts, {})
        except _Forbidden:
            return False
        return True

    def absolute(self, url: str) -> str:
        """A URL of an answer that may lack the scheme and host of the provider."""
        return urljoin(f"{self._base}/", url)

    def error(
        self,
        answer: Answer,
        kind: type[ProviderError] | None = None,
        *,
        billed: Billed | None = None,
        retry_after: float | None = None,
    ) -> ProviderError:
        """What the answer to a call comes to: by its status, unless `kind` knows better.

        `retry_after` is for an answer that names no wait itself.
        """
        said = _said(answer)
        text = f"{self._provider} answered {answer.status}" + (f": {said}" if said else ".")
        if kind is None:
            kind = _STATUS_ERRORS.get(answer.status)
        if kind is None and 300 <= answer.status < 400:
            kind = ModelNotServed
            text += " It redirects calls elsewhere; its base URL may be outdated."
        if kind is None:
            kind = Refused if 400 <= answer.status < 500 else OutcomeUnknown
        wait = _retry_after(answer.headers)
        return kind(
            self.scrub(text), billed=billed, retry_after=retry_after if wait is None else wait
        )

    def scrub(self, text: str) -> str:
        """A provider's words, made fit to be shown: no secrets, no links, one line, not long."""
        if self._key and not self.sandbox:
            text = text.replace(self._key, "[hidden]")
        text = _LINKS.sub("[link]", _SECRETS.sub("[hidden]", text))
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"

    @property
    def _headers(self) -> dict[str, str]:
        plain = {
            "User-Agent": "darkroom",
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # pictures do not get smaller, and nothing can explode
        }
        return plain | self._auth

    def _picture(self, answer: Answer) -> bytes:
        if answer.ok:
            # Also what an answer looks like that breaks off within its head.
            if not answer.body:
                raise _Trouble("nothing came", sent=True)
            return answer.body
        if 400 <= answer.status < 500 and answer.status not in (408, 425, 429):
            raise JobLost(
                f"The picture's address at {self._provider} does not work any more "
                f"(HTTP {answer.status})."
            )
        raise self.error(answer, RateLimited if answer.status == 429 else Unavailable)

    def _prepare(
        self, url: str, hosts: Collection[str], headers: Mapping[str, str]
    ) -> tuple[requests.PreparedRequest, _Transport]:
        try:
            request = requests.Request("GET", url, headers=dict(headers)).prepare()
            # Looked at as it will be used, so that no second reading of it can differ.
            target = urlsplit(str(request.url))
            origin = _origin(str(request.url))
        except ValueError as error:  # with all its kin in requests, and of IDNA and ports
            raise _Forbidden("it is not a URL") from error
        if "@" in target.netloc:
            raise _Forbidden("it carries a user name")
        if origin == self._origin:
            return request, self._own
        scheme, host, port = origin
        if scheme != "https" or port != 443:
            raise _Forbidden("it is neither plain https nor the configured server")
        if not any(_matches(host, allowed) for allowed in hosts):
            raise _Forbidden("its host is not known to belong to the provider")
        if _is_ip(host) and not _is_public(host):
            raise _Forbidden("its host is in a private network")
        return request, self._foreign

    def _exchange(
        self, transport: _Transport, request: requests.PreparedRequest, deadline: float, limit: int
    ) -> Answer:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _Trouble("no time was left", sent=False)
        # Proxies of the environment are honoured, with NO_PROXY: a gateway may have no other way
        # out. A provider on this machine needs none.
        direct = self._is_local and transport is self._own
        proxies = {} if direct else requests.utils.get_environ_proxies(str(request.url))
        # `requests` takes this too, which its annotations do not know.
        timeout: Any = Timeout(connect=min(CONNECT_SECONDS, left), total=left)
        try:
            with transport.send(request, stream=True, timeout=timeout, proxies=proxies) as response:
                return Answer(response.status_code, response.headers, _read(response, limit))
        except _NETWORK_ERRORS as error:
            raise _trouble(error) from error


class _Trouble(Exception):
    """No whole answer. `sent`: the provider may have got the request. The text says why."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


class _Forbidden(Exception):
    """An address in an answer that must not be visited. The text says why, without naming it."""


class _TooLarge(Exception):
    def __init__(self) -> None:
        super().__init__("the answer was too large")


def _read(response: requests.Response, limit: int) -> bytes:
    if 300 <= response.status_code < 400:
        return b""
    failed = response.status_code >= 400
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in response.iter_content(65_536):
            size += len(piece)
            if not failed and size > limit:
                raise _TooLarge
            pieces.append(piece)
            if failed and size > ERROR_BYTES:
                break
    except _NETWORK_ERRORS:
        # The status of an error tells enough; half of a success tells nothing.
        if not failed:
            raise
    return b"".join(pieces)


def _trouble(error: Exception) -> Exception:
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else None
    if isinstance(reason, ProxyError):
        # Also made of a proxied call that was sent and got no answer; only its cause can tell.
        reason = reason.original_error
    if isinstance(reason, _ForbiddenAddress):
        return _Forbidden("its host is in a private network")
    # Errors of the connecting phase reach us only as this one, see _Connecting.connect.
    if isinstance(reason, NewConnectionError):
        return _Trouble(_why_not_connected(reason.__cause__), sent=False)
    if isinstance(error, ValueError) and isinstance(error, requests.RequestException):
        return _Trouble("its URL, or that of the proxy, cannot be used", sent=False)
    timed_out = isinstance(error, requests.Timeout) or "timed out" in str(error)
    return _Trouble("the time was up" if timed_out else "the connection broke", sent=True)


def _why_not_connected(cause: BaseException | None) -> str:
    if isinstance(cause, BaseSSLError):
        return "no trusted TLS connection could be made"
    if isinstance(cause, socket.gaierror):
        return "its host name is not known"
    if isinstance(cause, TimeoutError):
        return "the connection took too long"
    return "no connection could be made"


def _said(answer: Answer) -> str:
    """The provider's own words, in any of the shapes that image APIs give their errors."""
    match answer.json():
        case {"error": {"message": str(text)}} if text:
            return text
        case {"message": str(text)} if text:
            return text
        case {"error": str(text)} | {"detail": str(text)}:
            return text
        case {"detail": [*problems]}:
            return "; ".join(_problem(problem) for problem in problems)
    if answer.headers.get("Content-Type", "").startswith("text/plain"):
        return answer.body.decode("utf-8", "replace")
    return ""


def _problem(problem: Any) -> str:
    match problem:
        case {"loc": [*where], "msg": str(text)}:
            return f"{'.'.join(str(part) for part in where if part != 'body')}: {text}"
    return str(problem)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    seconds = _number(headers.get("retry-after-ms"))
    if seconds is not None:
        seconds /= 1000
    else:
        seconds = _number(headers.get("Retry-After"))
    if seconds is None:
        until = _instant(headers.get("Retry-After"))
        if until is None:
            return None
        # By the provider's clock if it shows it: ours may differ.
        now = _instant(headers.get("Date"))
        seconds = until - (time.time() if now is None else now)
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT)


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


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port. Raises ValueError for a URL that lacks one of them."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if not parts.hostname or port is None:
        raise ValueError("no http URL")
    return parts.scheme, parts.hostname.rstrip("."), port


def _matches(host: str, allowed: str) -> bool:
    if allowed.startswith("."):
        return host == allowed[1:] or host.endswith(allowed)
    return allowed in ("*", host)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)


def _is_public(address: str) -> bool:
    """Whether an IP address is one of the open Internet, however it is wrapped."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


@functools.cache
def _tls() -> ssl.SSLContext:
    """The certificates of the system, or those of SSL_CERT_FILE and SSL_CERT_DIR.

    One for the process: loading them costs 20 ms of CPU, which `requests` by itself spends on each
    new connection.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:
        context.load_verify_locations(requests.certs.where())  # a system without any of its own
    return context


class _Transport(HTTPAdapter):
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

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **kwargs: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=_tls(), **kwargs)
        self._use_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        tls = {"ssl_context": _tls(), "proxy_ssl_context": _tls()}
        return self._use_pools(super().proxy_manager_for(proxy, **tls, **kwargs))

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        # The inherited one has every connection load a CA bundle into the shared context. The
        # context verifies without it; `cert_reqs` of the pool stays CERT_REQUIRED.
        return

    def _use_pools(self, manager: PoolManager) -> PoolManager:
        manager.pool_classes_by_scheme = self._pools
        return manager


class _ForbiddenAddress(NewConnectionError):
    """The host name stands for an address that is not public."""


class _Deadlined(io.RawIOBase):
    """Reads a socket until an instant: its own timeout would start anew with each byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        left = sock.gettimeout()
        self._ends = math.inf if left is None else time.monotonic() + left

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: Any) -> int | None:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        if left < math.inf:
            self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """Must be read, from its first header to its last byte, within the timeout of its socket."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw: Any = self.fp.detach()
        self.fp = io.BufferedReader(_Deadlined(raw, sock))


class _Connecting(HTTPConnection):
    """What our connections have in common."""

    response_class = _Response
    idle_since = math.inf
    guarded = False

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
        if self.guarded and self.proxy is None and not all(map(_is_public, addresses)):
            raise _ForbiddenAddress(self, "a private address")
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
