"""Which addresses are safe to visit: callers and answers of providers may name any, even private
ones."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

__all__ = ["host_of", "is_ip", "is_loopback", "is_public", "matches", "origin"]

_LONGEST_URL = 2048  # characters
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

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port. Raises ValueError for a URL that lacks one of them."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if not parts.hostname or port is None:
        raise ValueError("no http URL")
    return parts.scheme, parts.hostname.rstrip("."), port


def matches(host: str, allowed: str) -> bool:
    if allowed.startswith("."):
        return host == allowed[1:] or host.endswith(allowed)
    return allowed in ("*", host)


def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    return host == "localhost" or (is_ip(host) and ipaddress.ip_address(host).is_loopback)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open Internet, however it is wrapped."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def host_of(url: str, *, private: bool, longest: int = _LONGEST_URL) -> str:
    """The host that `url` leads to, in lower case, once it is one that may be visited.

    Only plain https to a public host is, and with `private` also http and any host. Where a name
    leads is looked at when it is connected to. Raises ValueError with the reason, as the end of a
    sentence that begins with what the URL is called.
    """
    if len(url) > longest:
        raise ValueError(f"has {len(url)} characters; {longest} are possible")
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
