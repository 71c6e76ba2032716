"""The one HTTP client of the adapters: knows what was surely not sent, and keeps to a deadline.

Whether a call that went wrong may have cost money is decided here, in one place:
what failed before the first byte of the request went out is `Unavailable`; after that a paid POST
is `OutcomeUnknown`. Nothing is ever sent twice, no redirect is followed with a credential, and
addresses that came out of an answer are treated as an attacker's.

How a request is carried is `transport`'s business, where it may go that of `addresses`.
"""

from __future__ import annotations

import copy
import functools
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import orjson
import pybase64
import requests
import requests.utils
from urllib3 import encode_multipart_formdata

from common.addresses import is_ip, is_loopback, is_public, matches, origin
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
from common.transport import Answer, Forbidden, TooLarge, Transport, Trouble

__all__ = ["Answer", "File", "Http"]

GET_SECONDS = 15.0  # what can be repeated is not waited for till the end of a task
DOWNLOAD_SECONDS = 120.0
REDIRECT_LIMIT = 3
MESSAGE_LIMIT = 300  # characters
MESSAGE_TAIL = 120  # of which so many are from the end, where the reason of a refusal often is
JSON_BYTES = 1_000_000  # an answer without its pictures
_ORJSON_BYTES = 4096  # of memory that orjson 3.13 keeps for a text, however short

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


@dataclass(frozen=True, slots=True)
class File:
    """A file as a form holds it."""

    name: str
    data: bytes = field(repr=False)
    mime: str


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
        """`auth`: the header that carries the key, and what precedes the key in it. After `Basic `
        the key, `user:password`, is sent as RFC 7617 wants it: in base64.

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
        self._origin = origin(access.base_url)
        self._key = key
        self._sent_key = pybase64.b64encode(key.encode()).decode() if auth[1] == "Basic " else key
        self._auth = {auth[0]: auth[1] + self._sent_key} if key else {}
        self._max_image_bytes = max_image_bytes
        self._is_local = access.sandbox or is_loopback(self.host)
        # Proxies of the environment are honoured, with NO_PROXY: a gateway may have no other way
        # out. The environment of a process stays as it is, and reading all of it takes 75 µs.
        self._proxies = functools.lru_cache(maxsize=256)(requests.utils.get_environ_proxies)
        self._own = Transport(concurrency, guarded=False)
        self._foreign = Transport(concurrency, guarded=True)

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        deadline: float,
        pictures: int = 0,
        multipart: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a call that may cost money, once, as JSON or as the fields of `multipart/form-data`,
        where a `File`, or several in a list, stands for files.

        `pictures`: how many the answer may hold, as they are or in base64. `headers` come on top
        of the usual ones, and replace those of the same name.
        Returns the answer whatever its status. Raises Unavailable when nothing was sent,
        OutcomeUnknown when that is not sure, Refused for a body that is not Unicode text, and
        BadAnswer for a success beyond all size.
        """
        limit = self._limit(pictures)
        try:
            data, kind = _multipart(body) if multipart else (orjson.dumps(body), "application/json")
        except (orjson.JSONEncodeError, UnicodeEncodeError) as error:
            raise Refused("The request holds text that is not valid Unicode.") from error
        if len(data) < _ORJSON_BYTES:
            data = bytes(memoryview(data))  # held until the answer is there
        sent = {**self._headers, **(headers or {}), "Content-Type": kind}
        request = _request("POST", self._base + path, sent, data)
        try:
            return self._exchange(self._own, request, deadline, limit)
        except TooLarge as error:
            text = f"{self._provider} answered with more than {limit} bytes."
            raise BadAnswer(text, billed="yes") from error
        except Trouble as trouble:
            if trouble.sent:
                text = (
                    f"The answer of {self._provider} never came whole: {trouble}. "
                    "Whether the request was carried out is not known."
                )
                raise OutcomeUnknown(text) from trouble
            text = f"{self._provider} could not be reached: {trouble}."
            raise Unavailable(text) from trouble

    def get(
        self,
        url: str,
        *,
        hosts: Collection[str] = (),
        deadline: float,
        pictures: int = 0,
        room: int = JSON_BYTES,
        verdicts: Collection[int] = (404, 410),
    ) -> Answer:
        """Ask for JSON, with the key. `url` is a path below the base URL or came from an answer.

        `pictures`: how many the answer may hold in base64, beside `room` bytes of other things.
        Returns an answer that is a success or has one of the statuses `verdicts`, which tell how
        the work ended; as a rule only that there is no such thing.
        Everything else can be cured by a later look, as far as anybody knows, and must not end
        work that is paid for: raises RateLimited or Unavailable. Raises BadAnswer for a URL that
        `admits` does not take.
        """
        deadline = min(deadline, time.monotonic() + GET_SECONDS)
        answer = self._ask("GET", url, hosts, deadline, self._limit(pictures, room))
        if answer.ok or answer.status in verdicts:
            return answer
        raise self.error(answer, RateLimited if answer.status == 429 else Unavailable)

    def put(self, url: str, *, hosts: Collection[str] = (), deadline: float) -> Answer:
        """Ask for what costs nothing, such as an end to work; with the key, and no body.

        `url` as with `get`. Returns the answer whatever its status. Raises Unavailable when none
        came, and BadAnswer for a URL that `admits` does not take.
        """
        return self._ask("PUT", url, hosts, deadline, JSON_BYTES)

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
                url = _joined(url, answer.headers.get("Location", ""))
        except Forbidden as error:
            text = f"{self._provider} named an address for the picture: {error}."
            raise BadAnswer(text, billed="yes") from error
        except TooLarge as error:
            text = f"The picture of {self._provider} has more than {self._max_image_bytes} bytes."
            raise BadAnswer(text, billed="yes") from error
        except Trouble as trouble:
            text = f"The picture of {self._provider} could not be fetched: {trouble}."
            raise Unavailable(text) from trouble
        raise BadAnswer(f"The picture's address at {self._provider} only redirects.", billed="yes")

    def admits(self, url: str, *, hosts: Collection[str] = ()) -> bool:
        """Whether `get` and `download` would go to `url` (they still look at its IP address)."""
        try:
            self._prepare(url, hosts, {})
        except Forbidden:
            return False
        return True

    def absolute(self, url: str) -> str:
        """A URL of an answer that may lack the scheme and host of the provider."""
        try:
            return urljoin(f"{self._base}/", url)
        except ValueError:
            return url  # no URL at all, as whoever goes there will say

    def error(
        self,
        answer: Answer,
        kind: type[ProviderError] | None = None,
        *,
        said: str = "",
        billed: Billed | None = None,
        retry_after: float | None = None,
    ) -> ProviderError:
        """What the answer to a call comes to: by its status, unless `kind` knows better.

        `said` is for a provider whose words stand where they are not looked for, `retry_after` for
        an answer that names no wait itself.
        """
        said = said or _said(answer)
        text = f"{self._provider} answered {answer.status}" + (f": {said}" if said else ".")
        if kind is None:
            kind = _STATUS_ERRORS.get(answer.status)
        if kind is None and 300 <= answer.status < 400:
            kind = ModelNotServed
            text += " It redirects calls elsewhere; its base URL may be outdated."
        if kind is None:
            kind = Refused if 400 <= answer.status < 500 else OutcomeUnknown
        wait = answer.retry_after()
        return kind(
            self.scrub(text),
            billed=billed,
            retry_after=retry_after if wait is None else wait,
            request_id=answer.header("x-request-id") or answer.header("x-fal-request-id"),
        )

    def scrub(self, text: str) -> str:
        """A provider's words, made fit to be shown: no secrets, no links, one line, not long."""
        if self._key and not self.sandbox:
            text = text.replace(self._key, "[hidden]").replace(self._sent_key, "[hidden]")
        text = _LINKS.sub("[link]", _SECRETS.sub("[hidden]", text))
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if len(text) <= MESSAGE_LIMIT:
            return text
        return f"{text[: MESSAGE_LIMIT - MESSAGE_TAIL - 3]} … {text[-MESSAGE_TAIL:]}"

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
                raise Trouble("nothing came", sent=True)
            return answer.body
        if 400 <= answer.status < 500 and answer.status not in (408, 425, 429):
            raise JobLost(
                f"The picture's address at {self._provider} does not work any more "
                f"(HTTP {answer.status})."
            )
        raise self.error(answer, RateLimited if answer.status == 429 else Unavailable)

    def _limit(self, pictures: int, room: int = JSON_BYTES) -> int:
        """Bytes of an answer with so many pictures, which base64 makes longer by a third."""
        return room + pictures * (self._max_image_bytes * 4 // 3)

    def _ask(
        self, method: str, url: str, hosts: Collection[str], deadline: float, limit: int
    ) -> Answer:
        url = self._base + url if url.startswith("/") else url
        try:
            request, transport = self._prepare(url, hosts, self._headers, method)
        except Forbidden as error:
            raise BadAnswer(f"{self._provider} named an address to ask at: {error}.") from error
        try:
            return self._exchange(transport, request, deadline, limit)
        except (Trouble, TooLarge, Forbidden) as trouble:
            text = f"{self._provider} could not be asked: {trouble}."
            raise Unavailable(text) from trouble

    def _prepare(
        self, url: str, hosts: Collection[str], headers: Mapping[str, str], method: str = "GET"
    ) -> tuple[requests.PreparedRequest, Transport]:
        try:
            request = _request(method, url, headers)
            # Looked at as it will be used, so that no second reading of it can differ.
            target = urlsplit(str(request.url))
            where = origin(str(request.url))
        except ValueError as error:  # with all its kin in requests, and of IDNA and ports
            raise Forbidden("it is not a URL") from error
        if "@" in target.netloc:
            raise Forbidden("it carries a user name")
        if where == self._origin:
            return request, self._own
        scheme, host, port = where
        if scheme != "https" or port != 443:
            raise Forbidden("it is neither plain https nor the configured server")
        if not any(matches(host, allowed) for allowed in hosts):
            raise Forbidden("its host is not known to belong to the provider")
        if is_ip(host) and not is_public(host):
            raise Forbidden("its host is in a private network")
        return request, self._foreign

    def _exchange(
        self, transport: Transport, request: requests.PreparedRequest, deadline: float, limit: int
    ) -> Answer:
        # A provider on this machine needs no proxy.
        direct = self._is_local and transport is self._own
        where = urlsplit(str(request.url))
        proxies = {} if direct else self._proxies(f"{where.scheme}://{where.netloc}")
        return transport.exchange(request, deadline=deadline, limit=limit, proxies=proxies)


def _request(
    method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
) -> requests.PreparedRequest:
    """What `requests` would make of it. Raises ValueError for a URL or header that is none."""
    request = copy.copy(_prepared(method, url))
    request.prepare_headers(dict(headers))
    request.body = body
    request.prepare_content_length(body)
    return request


@functools.lru_cache(maxsize=256)
def _prepared(method: str, url: str) -> requests.PreparedRequest:
    """A request without headers or body, to be copied: reading a URL costs more than sending it,
    and most are the same again, or those of a job that is asked for many times."""
    return requests.Request(method, url).prepare()


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise Forbidden("it is redirected to what is no URL") from error


def _multipart(fields: Mapping[str, Any]) -> tuple[bytes, str]:
    """The body and its content type; every value that is no file as text."""
    parts: list[tuple[str, Any]] = []
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, File):
                parts.append((name, (one.name, one.data, one.mime)))
            else:
                parts.append((name, str(one).encode()))
    return encode_multipart_formdata(parts)


def _said(answer: Answer) -> str:
    """The provider's own words, in any of the shapes that image APIs give their errors."""
    match answer.json():
        case {"error": {"message": str(text)}} if text:
            return text
        case {"message": str(text)} if text:
            return text
        case {"error": str(text)} | {"detail": str(text)}:
            return text
        case {"detail": [*problems]} | {"error": [*problems]} | {"errors": [*problems]}:
            return "; ".join(_problem(problem) for problem in problems)
    if answer.headers.get("Content-Type", "").startswith("text/plain"):
        return answer.body.decode("utf-8", "replace")
    return ""


def _problem(problem: Any) -> str:
    match problem:
        case {"loc": [*where], "msg": str(text)}:
            return f"{'.'.join(str(part) for part in where if part != 'body')}: {text}"
    return str(problem)
