"""Clients that go away while their request is held."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

from flask import Request

from common.hub import unpatched

__all__ = ["Departures", "connection_of"]

# Linux says by itself that the other side has closed. What there is to read does not: it may be the
# next request of somebody who is still there. Elsewhere POLLHUP has to do.
_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR | select.POLLNVAL


def connection_of(request: Request) -> socket.socket | None:
    """The client's connection, where the server shows it."""
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    return connection


class Departures:
    """Looks at all watched connections at once, every `every` seconds: one call for thousands.

    A client that only closes its own direction has gone as well, as in other servers.
    """

    def __init__(self, every: float = 1.0) -> None:
        self._every = every
        self._lock = threading.Lock()
        # gevent's own asks about each connection by itself.
        self._poll = unpatched("select", "poll")()
        self._gone: dict[int, Callable[[], None]] = {}
        self._looking = False

    @contextlib.contextmanager
    def watched(self, connection: socket.socket | None, gone: Callable[[], None]) -> Iterator[None]:
        """Call `gone`, once or more often, when the other side closes `connection` meanwhile.

        Without a connection, because the server does not show it, nothing is noticed.
        """
        number = -1 if connection is None else connection.fileno()
        if number == -1:
            yield
            return
        with self._lock:
            self._gone[number] = gone
            self._poll.register(number, _GONE)
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look, name="departures", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._poll.unregister(number)
                del self._gone[number]

    def _look(self) -> None:
        while True:
            time.sleep(self._every)
            with self._lock:
                if not self._gone:
                    self._looking = False
                    return
                gone = [self._gone[number] for number, _ in self._poll.poll(0)]
            for notice in gone:
                notice()
