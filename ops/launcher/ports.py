"""Ports of this machine: which are taken, and where the embedded Valkey may listen."""

from __future__ import annotations

import random
import socket

from ops.launcher.errors import LauncherError

__all__ = ["check_ports", "is_free", "pick_free_port", "reachable"]


def check_ports(ports: dict[str, tuple[str, int]]) -> None:
    """Check addresses to listen on, by the setting that names each.

    Raises LauncherError for the first that cannot be had.
    """
    seen: dict[int, str] = {}
    for setting, (host, port) in ports.items():
        if port in seen:
            raise LauncherError(f"{seen[port]} and {setting} are both {port}; change one of them.")
        seen[port] = setting
        if problem := _problem(host, port):
            raise LauncherError(
                f"{setting}: port {port} on {host} cannot be used: {problem}. Stop what uses it, "
                f"or choose another: {setting}={pick_free_port()}"
            )


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    return _problem(host, port) is None


def pick_free_port() -> int:
    """A port on loopback that is free now, below those that systems give to outgoing connections.

    There, a server that is down for a moment could find its port taken by somebody's outgoing
    connection, even by that of a client which dials this very port until the server is back.
    """
    while True:
        port = random.randrange(20000, 30000)  # noqa: S311
        if is_free("127.0.0.1", port):
            return port


def reachable(host: str) -> str:
    """The host part of a URL under which this machine reaches a server that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host else host


def _problem(host: str, port: int) -> str | None:
    # macOS lets one bind beside a listener on another address of the machine, so dial first.
    target = reachable(host).strip("[]")
    try:
        with socket.create_connection((target, port), timeout=1):
            return "something listens there already"
    except OSError:
        pass
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None
