"""Webhooks: where word of a task's end goes, who may be told, and how far it has come.

As Standard Webhooks 1.0.0 wants it: https://github.com/standard-webhooks/standard-webhooks
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from common.addresses import is_public

__all__ = ["EVENTS", "Delivery", "Event", "Try", "Webhook", "host_of", "webhook_id"]

Event = Literal["completed", "failed"]
EVENTS: tuple[Event, ...] = ("completed", "failed")

Delivery = Literal["pending", "delivered", "failed", "gone"]

LONGEST_URL = 2048  # characters

# RFC 3986. Nothing else is guessed at: what one reader takes for a slash, another does not.
_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a host that ends so is an IPv4 address (WHATWG URL)
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
# Names that are known inside of a network, if at all.
_INNER_NAMES = frozenset(
    {"localhost", "localdomain", "local", "internal", "intranet", "private", "corp", "home", "lan"}
    | {"arpa"}
)


@dataclass(frozen=True, slots=True)
class Try:
    """One try to deliver. `status` of the answer, or in `error` why there was none."""

    at: int  # Unix milliseconds, by the clock of Redis
    status: int | None = None
    error: str | None = None
    ms: int | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """What the caller asked for, and what came of it so far. Times in Unix milliseconds."""

    url: str = field(repr=False)
    host: str = field(repr=False)
    events: tuple[Event, ...]
    base_url: str  # scheme and host of this service, for the addresses of images
    delivery: Delivery | None = None  # None: nothing is owed, or not yet
    next_at: int | None = None  # of the next try; None also while one is under way
    tries: tuple[Try, ...] = ()  # the last twenty, oldest first

    @property
    def shown_url(self) -> str:
        """The address without what may be a secret: its query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}" + ("?…" if parts.query else "")


def webhook_id(task_id: str, event: str) -> str:
    """The `webhook-id` of a task's end: the same on every try, and of no other."""
    return f"{task_id}_{event}"


def host_of(url: str, *, private: bool) -> str:
    """The host that `url` leads to, in lower case, once it is one that may be told.

    Only plain https to a public host is, and with `private` also http and any host. Where a name
    leads is looked at when it is connected to. Raises ValueError with the reason, as the end of a
    sentence that begins with what the URL is called.
    """
    if len(url) > LONGEST_URL:
        raise ValueError(f"has {len(url)} characters; {LONGEST_URL} are possible")
    if _URL.fullmatch(url) is None:
        raise ValueError(
            "holds characters that a URL cannot have: percent-encode them, and write a host of "
            "other letters as xn--…"
        )
    scheme, separator, rest = url.partition("://")
    schemes = ("https", "http") if private else ("https",)
    if not separator or scheme.lower() not in schemes:
        raise ValueError(f"must begin with {' or '.join(f'{name}://' for name in schemes)}")
    if "#" in url:
        raise ValueError("must not have a fragment (#…): it would not be sent")
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise ValueError("must not carry a user name or password")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ValueError("has no usable host, or a port that is no number")
    literal, name, port = parts.groups()
    if port is not None and not 1 <= int(port) <= 65535:
        raise ValueError("has a port that does not exist")
    return _literal(literal, private) if literal else _name(name.lower(), private)


def _literal(text: str, private: bool) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError("has no usable host: that is no IPv6 address") from None
    return f"[{_allowed(str(address), private)}]"


def _name(name: str, private: bool) -> str:
    if name.endswith("."):
        raise ValueError("has a host that ends with a dot: leave that out")
    *_, last = name.split(".")
    if _NUMBER.fullmatch(last):
        try:
            return _allowed(str(ipaddress.IPv4Address(name)), private)
        except ipaddress.AddressValueError:
            raise ValueError("has a host that is a number and no plain IPv4 address") from None
    if len(name) > 253 or _NAME.fullmatch(name) is None:
        raise ValueError("has a host that is no name")
    if not private and (last == name or last in _INNER_NAMES):
        raise ValueError("has a host that is known in a private network only")
    return name


def _allowed(address: str, private: bool) -> str:
    if not private and not is_public(address):
        raise ValueError("leads to a private address")
    return address
