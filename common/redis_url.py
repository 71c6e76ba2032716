"""REDIS_URL taken apart: one server, or a service that Sentinels watch; with or without TLS.

    redis://[user:password@]host[:6379][/0]                          one server
    sentinel://[user:password@]host[:26379][,host[:26379]…]/service[/0]  the primary of a service

`rediss://` and `sentinels://` speak TLS, to the Sentinels as well, and check who answers: against
the system's authorities or `?ssl_ca_certs=FILE`. redis-py and Celery have the same options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

__all__ = ["RedisUrl"]

_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379, "sentinels": 26379}
_TLS = ("rediss", "sentinels")
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_OPTIONS = (*_FILES, "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_CHECKS = ("required", "optional", "none")


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """`hosts` are Sentinels where there is a `service`, and else the one server."""

    hosts: tuple[tuple[str, int], ...]
    service: str
    db: int
    login: Mapping[str, str]
    sentinel_login: Mapping[str, str]
    tls: Mapping[str, Any] | None

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Raises ValueError, whose text never has the password, where a part is wrong."""
        scheme, colon, rest = url.partition("://")
        if not colon or scheme not in _PORTS:
            raise ValueError(f"must begin with one of {', '.join(f'{s}://' for s in _PORTS)}")
        place, _, query = rest.partition("?")
        place, _, path = place.partition("/")
        if "#" in rest or "@" in path + query:
            raise ValueError("must have /, ?, # and @ of a password as %2F, %3F, %23 and %40")
        login, _, hosts = place.rpartition("@")
        user, _, password = (unquote(part) for part in login.partition(":"))
        service, db = _path(path, has_service=scheme.startswith("sentinel"))
        options = dict(parse_qsl(query))
        return cls(
            tuple(_address(host, _PORTS[scheme]) for host in _hosts(hosts, scheme)),
            service,
            db,
            _login(user, password),
            _login(options.pop("sentinel_username", ""), options.pop("sentinel_password", ""))
            if service
            else {},
            _tls(options, scheme),
        )

    @property
    def files(self) -> Mapping[str, str]:
        """The files that TLS needs, by the option that names them."""
        return {name: self.tls[name] for name in _FILES if name in self.tls} if self.tls else {}

    def broker(self) -> Mapping[str, Any]:
        """The same as Celery's settings: `broker_url`, and what that cannot say.

        kombu takes a rediss:// without further words for "trust everybody".
        """
        scheme = "sentinel" if self.service else "rediss" if self.tls is not None else "redis"
        user, password = (quote(self.login.get(part, ""), "") for part in ("username", "password"))
        login = f"{user}:{password}@" if self.login else ""
        hosts = (f"[{host}]" if ":" in host else host for host, _ in self.hosts)
        urls = [
            f"{scheme}://{login}{host}:{port}/{self.db}"
            for host, (_, port) in zip(hosts, self.hosts, strict=True)
        ]
        return {"broker_url": ";".join(urls), "broker_use_ssl": self.tls}


def _path(path: str, *, has_service: bool) -> tuple[str, int]:
    names = path.strip("/").split("/") if path.strip("/") else []
    service = unquote(names.pop(0)) if has_service and names else ""
    if has_service and not service:
        raise ValueError(
            "lacks the service that the Sentinels watch: sentinel://host:26379/service"
        )
    db = names.pop(0) if names else "0"
    if names or not (db.isascii() and db.isdigit()):
        raise ValueError("must end with the number of a database, such as /0, or with none")
    return service, int(db)


def _hosts(hosts: str, scheme: str) -> list[str]:
    found = hosts.split(",")
    if len(found) > 1 and not scheme.startswith("sentinel"):
        raise ValueError(
            "names several servers; only Sentinels may be several: sentinel://a,b/service"
        )
    return found


def _address(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        if not parts.hostname:
            raise ValueError
        return parts.hostname, parts.port or port
    except ValueError:
        raise ValueError("lacks a host, or has something else than host:port there") from None


def _login(user: str, password: str) -> Mapping[str, str]:
    return {name: text for name, text in (("username", user), ("password", password)) if text}


def _tls(options: Mapping[str, str], scheme: str) -> Mapping[str, Any] | None:
    known = _TLS_OPTIONS if scheme in _TLS else ()
    for name in options:
        if name in _TLS_OPTIONS and not known:
            raise ValueError(f"{name} is for TLS: {scheme}s://…")
        if name not in known:
            more = (*known, *(_SENTINEL_OPTIONS if scheme.startswith("sentinel") else ()))
            raise ValueError(f"has no option {name}; there are {', '.join(more) or 'none'}")
    if scheme not in _TLS:
        return None
    checks = options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if checks not in _CHECKS:
        raise ValueError(f"ssl_cert_reqs is one of {', '.join(_CHECKS)}")
    names_host = options.get("ssl_check_hostname", "true").lower()
    if names_host not in ("true", "false"):
        raise ValueError("ssl_check_hostname is true or false")
    files = {name: options[name] for name in _FILES if name in options}
    return {**files, "ssl_cert_reqs": checks, "ssl_check_hostname": names_host == "true"}
