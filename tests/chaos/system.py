"""The system that is broken: several workers and front ends, and a sandbox that keeps the bill."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
import requests

from common.connection import connect
from tests.chaos.models import catalog
from tests.chaos.proxy import SlowProxy
from tests.processes import free_port, until
from tests.stack import Stack
from tests.valkey import close

__all__ = ["LEASE", "START", "Record", "System", "in_doubt", "running"]

LEASE = 5.0  # seconds; long enough for a busy machine, short enough for a test

START = 120.0  # seconds, on a machine that is busy with other things

Record = dict[str, str]
"""A task's hash in Redis, as it is."""

_RECORDS = "darkroom:task:"


class System(Stack):
    """A stack with `workers` workers (`worker.1` …) and `webs` front ends (`web.1` …).

    `settings` are variables for all processes; `apart` has some for single ones, by their name.
    `proxy` stands before Redis; it is used by whom `proxy_url` is given, the workers when they are
    to be `behind_proxy`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        workers: int = 2,
        webs: int = 1,
        behind_proxy: bool = False,
        apart: dict[str, dict[str, str]] | None = None,
        **settings: str,
    ) -> None:
        defaults = {
            "SANDBOX_LEDGER": str(directory / "ledger.jsonl"),
            "SANDBOX_SPEED": "10",
            "LEASE_SECONDS": str(LEASE),
            "DOUBT_SECONDS": str(LEASE),
            "CATALOG_FILE": str(directory / "models.toml"),
            "PUBLIC_URL": "http://darkroom.test",  # the same from all front ends
        }
        (directory / "models.toml").write_text(catalog())
        super().__init__(directory, **defaults | settings)
        close(self.redis)
        self.redis = connect(self.redis_url)  # which reports an outage and does not sit it out
        self.workers = [f"worker.{number}" for number in range(1, workers + 1)]
        self.webs = [f"web.{number}" for number in range(1, webs + 1)]
        ports = {web: free_port() for web in self.webs}
        self.urls = [f"http://127.0.0.1:{port}" for port in ports.values()]
        self.url = self.urls[0]
        self._apart = {web: {"PORT": str(port)} for web, port in ports.items()}
        self.proxy = SlowProxy(int(urlsplit(self.redis_url).port or 0))
        self.proxy_url = f"redis://127.0.0.1:{self.proxy.port}/0"
        if behind_proxy:
            self._apart |= {worker: {"REDIS_URL": self.proxy_url} for worker in self.workers}
        for name, own in (apart or {}).items():
            self._apart[name] = self._apart.get(name, {}) | own

    def start_all(self) -> None:
        self.begin("valkey", "sandbox", *self.webs, *self.workers, "beat")
        until(lambda: self._answers(f"{self.url}/readyz"), "ready", START)
        until(lambda: all(self.is_ready(worker) for worker in self.workers), "workers", START)
        until(lambda: self._answers(f"{self.sandbox_url}/_sandbox/health"), "sandbox", START)
        # Pictures of one colour: two cores are to be kept busy by the system, not by the painter.
        self.fault(picture="plain")

    def begin(self, *names: str) -> None:
        """Start processes, each with its own settings."""
        for name in names:
            self.start(name, **self._apart.get(name, {}))

    def add_web(self, **settings: str) -> str:
        """Start a further front end, which `urls` does not know, and return its address."""
        name, port = f"web.{len(self._apart) + 1}", free_port()
        url = f"http://127.0.0.1:{port}"
        self._apart[name] = {"PORT": str(port), **settings}
        self.begin(name)
        until(lambda: self._answers(f"{url}/readyz"), f"{name} ready", START)
        return url

    def stop_gently(self, name: str, grace: float) -> bool:
        """SIGTERM, and after `grace` seconds kill -9, as a supervisor does.

        Whether the process ended by itself, as if nothing was wrong.
        """
        process = self._processes[name]
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(grace) == 0
        self.kill(name)
        return False

    def is_ready(self, worker: str) -> bool:
        """Whether this very process, not one before it, has shown that it takes tasks."""
        with contextlib.suppress(redis.RedisError):
            seen: Any = self.redis.zrange("darkroom:seen", 0, -1)
            return any(f":{self.pid(worker)}:" in name for name in seen)
        return False

    def web_is_ready(self, web: str) -> bool:
        """Whether this front end answers, and finds Redis and workers."""
        return self._answers(f"{self.urls[self.webs.index(web)]}/readyz")

    def now(self) -> int:
        """Unix milliseconds by the clock of Redis."""
        clock: Any = self.redis.time()
        return int(clock[0]) * 1000 + int(clock[1]) // 1000

    def answers(self) -> bool:
        """Whether Valkey does."""
        with contextlib.suppress(redis.RedisError):
            return bool(self.redis.ping())
        return False

    # -- what can be known from outside

    def open_calls(self) -> int:
        """Calls that the sandbox is now answering, of all providers."""
        calls = requests.get(f"{self.sandbox_url}/_sandbox/calls", timeout=5).json()["calls"]
        return sum(counts["open"] for counts in calls.values())

    def open_records(self) -> list[Record]:
        """Records of all tasks that are not final."""
        return self._records(f"{_RECORDS}{task_id}" for task_id in self._ids())

    def held_by(self, worker: str) -> list[Record]:
        """Records that a worker process has claimed."""
        pid = f":{self.pid(worker)}:"
        return [record for record in self.open_records() if pid in record.get("worker", "")]

    def records(self) -> list[Record]:
        """Records of all tasks there ever were."""
        return self._records(self.redis.scan_iter(f"{_RECORDS}*", count=1000))

    def keep_evidence(self) -> None:
        """Leave what a person would want to look at in the directory."""
        with (self.directory / "records.jsonl").open("w") as file:
            file.writelines(json.dumps(record) + "\n" for record in self.records())

    def count_in_logs(self, *words: str) -> int:
        """How many lines of the workers' logs have all these words."""
        return sum(
            all(word in line for word in words)
            for path in self.directory.glob("worker*.log")
            for line in path.read_text().splitlines()
        )

    def settled(self) -> bool:
        """Whether no task is open, also none whose client was never told of it."""
        return not self._ids()

    def forget_route(self, provider: str) -> None:
        """Let the fleet know nothing of a provider any more, and ask it anew."""
        fields: Any = self.redis.hkeys("darkroom:routes")
        mine = [name for name in fields if name.startswith((f"{provider}:", f"{provider}/"))]
        if mine:
            self.redis.hdel("darkroom:routes", *mine)

    def all_purchases(self) -> list[dict[str, Any]]:
        """What was bought so far."""
        ledger = requests.get(f"{self.sandbox_url}/_sandbox/purchases", timeout=30).json()
        return list(ledger["purchases"])

    def _ids(self) -> list[str]:
        ids: Any = self.redis.zrange("darkroom:due", 0, -1)
        return list(ids)

    def _records(self, keys: Iterable[str]) -> list[Record]:
        pipeline = self.redis.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key)
        return [record for record in pipeline.execute() if record]


@contextlib.contextmanager
def running(system: System) -> Iterator[System]:
    """The system, ready, and gone afterwards."""
    with system.proxy:
        try:
            system.start_all()
            yield system
        finally:
            close(system.redis)
            system.stop()
            for name in ("appendonlydir", "images"):  # large, and of no use any more
                shutil.rmtree(system.directory / name, ignore_errors=True)


def in_doubt(record: Record) -> list[int]:
    """The calls, by their first picture, that are announced in the journal and not answered."""
    return [
        int(name.removeprefix("call:"))
        for name, entry in record.items()
        if name.startswith("call:") and json.loads(entry)["state"] in ("submitting", "in_doubt")
    ]
