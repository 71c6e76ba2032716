"""Which addresses are safe to visit: an answer of a provider may name any, even a private one."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

__all__ = ["is_ip", "is_loopback", "is_public", "matches", "origin"]

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
