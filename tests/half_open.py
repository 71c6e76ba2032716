"""A TCP proxy that can lose its connections without telling either side, as a firewall does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

__all__ = ["Proxy", "running_proxy"]


class Proxy:
    """Stands before a server of this machine. Connections that come after a loss work."""

    def __init__(self, server_port: int) -> None:
        self._server = ("127.0.0.1", server_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = {self._listener}
        self._lost: set[socket.socket] = set()
        self.swallowed = 0  # pieces that were said into a lost connection

    def lose(self) -> None:
        """From now on nothing passes through the connections that there are."""
        self._lost |= self._open

    def serve(self) -> None:
        with contextlib.suppress(OSError):  # which is how `close` ends it
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._server)
                except OSError:
                    near.close()
                    continue
                self._open |= {near, far}
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def close(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while said := source.recv(65536):
                if source in self._lost:
                    self.swallowed += 1
                else:
                    target.sendall(said)
            if source not in self._lost:
                target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def running_proxy(server_port: int) -> Iterator[Proxy]:
    proxy = Proxy(server_port)
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(10)
