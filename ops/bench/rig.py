"""The processes of one case, started from the Procfile's own lines, and what they cost.

Valkey keeps its append-only file and brings it to the disk every second, as under `ops/run`. Linux
only: costs are read from /proc.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import redis
from honcho.environ import parse_procfile

from common.connection import connect
from common.keys import KeyStore
from common.settings import Settings
from common.store import TaskStore
from ops.launcher.data import DataDirectory
from ops.launcher.ports import pick_free_port
from ops.launcher.valkey import prepare_valkey

__all__ = ["KEY", "Rig", "Running", "rig", "until"]

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-bench-0123456789abcdef"
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTINGS = {name.upper() for name in Settings.model_fields}


def until(condition: Callable[[], T], what: str, seconds: float = 60) -> T:
    """Wait for something true, and return it. Raises TimeoutError."""
    ends = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, redis.RedisError):
            if value := condition():
                return value
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Running:
    """A process with those that it has started; `port` where it listens, if it does."""

    name: str
    process: subprocess.Popen[bytes] = field(repr=False)
    port: int = 0

    def pids(self) -> list[int]:
        found, left = [], [self.process.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    left += map(int, children.read_text().split())
        return found

    def cpu(self) -> float:
        """Seconds of processor time used so far, in steps of 10 ms."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / _TICKS

    def memory(self) -> int:
        """Bytes that they have to themselves."""
        return self._rollup("Private_")

    def share(self) -> int:
        """Bytes that they have to themselves, and their part of what they share with others."""
        return self._rollup("Pss:")

    def peak(self) -> int:
        """The most bytes that were resident at any time, shared ones included."""
        return sum(
            int(line.split()[1]) * 1024
            for pid in self.pids()
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )

    def _rollup(self, what: str) -> int:
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))
        return total


class Rig:
    """Valkey, and whatever a case starts beside it. `settings` are Darkroom's, for all processes.

    Any number of tasks may wait, so that a long queue is refused nothing.
    """

    def __init__(self, directory: Path, stack: contextlib.ExitStack, **settings: str) -> None:
        self.directory = directory
        self._stack = stack
        directory.mkdir(parents=True, exist_ok=True)
        valkey = prepare_valkey(DataDirectory(directory))
        self.redis_url = valkey.url
        self._environment = {k: v for k, v in os.environ.items() if k not in _SETTINGS} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": valkey.url,
            "DATA_DIR": str(directory),
            "BOOTSTRAP_API_KEY": KEY,
            "QUEUE_LIMIT": "0",
            "LOG_FORMAT": "json",
            "SANDBOX": "off",
            "OPENAI_API_KEY": "sk-stub",
            "BENCH_REDIS_URL": f"{valkey.url[:-1]}1",
            "BENCH_IMAGES": str(directory),
            **settings,
        }
        self.lines = {
            name: shlex.split(line)
            for name, line in parse_procfile((ROOT / "Procfile").read_text()).processes.items()
        }
        self.client = connect(valkey.url, timeout=120)
        stack.callback(self.client.close)
        self.valkey = self.start("valkey", list(valkey.command))
        self.up(self.valkey, self.client.ping)
        self.store = TaskStore(self.client, lease=30)

    # -- processes

    def start(
        self,
        name: str,
        command: list[str],
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> Running:
        with self._log_of(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment | dict(settings or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        running = Running(name, process, port)
        self._stack.callback(_end, running)
        return running

    def _log_of(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def up(self, running: Running, answers: Callable[[], object], seconds: float = 60) -> None:
        """Wait until a process answers. Raises RuntimeError, with the end of its log, when it ends
        before, and TimeoutError."""
        process = running.process
        until(lambda: process.poll() is not None or answers(), f"{running.name} answers", seconds)
        if process.poll() is not None:
            said = self._log_of(running.name).read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{running.name} ended with {process.returncode}:\n{said}")

    def provider(self, delay: float = 0.0, side: int = 64, *, gate: int = 0) -> Running:
        """The stub, which is from then on OpenAI to whoever is started."""
        port = pick_free_port()
        command = [sys.executable, "-m", "ops.bench.stub", str(port), str(delay), str(side)]
        stub = self.start("provider", [*command, str(gate)], port=port)
        self.up(stub, lambda: self.ask(port))
        url = f"http://127.0.0.1:{port}/v1"
        self._environment |= {"OPENAI_BASE_URL": url, "BENCH_PROVIDER_URL": url}
        return stub

    def web(self, *, config: str = "ops/gunicorn.conf.py", **settings: str) -> Running:
        port = pick_free_port()
        line = [config if word == "ops/gunicorn.conf.py" else word for word in self.lines["web"]]
        web = self.start("web", line, port=port, settings={"PORT": str(port), **settings})
        self.up(web, lambda: _status(port, "/healthz") == 200)
        _status(port, "/v1/tasks/none", Authorization=f"Bearer {KEY}")  # registers the key
        return web

    def worker(self, pool: str = "threads", concurrency: int = 100, **settings: str) -> Running:
        environment = {"WORKER_POOL": pool, "WORKER_CONCURRENCY": str(concurrency), **settings}
        before = len(self.store.health().workers)
        worker = self.start("worker", self.lines["worker"], settings=environment)
        self.up(worker, lambda: len(self.store.health().workers) > before)
        return worker

    def textbook_web(self) -> Running:
        """The constant view and the textbook's, on the same server as the product's."""
        port = pick_free_port()
        command = [
            *("gunicorn", "--worker-class", "api.gunicorn_worker.Worker", "--workers", "1"),
            *("--worker-connections", "8000", "--keep-alive", "2", "--no-control-socket"),
            *("--bind", f"127.0.0.1:{port}", "ops.bench.textbook:app"),
        ]
        web = self.start("textbook-web", command, port=port)
        self.up(web, lambda: _status(port, "/constant") == 200)
        return web

    def textbook_worker(self, pool: str = "threads", concurrency: int = 100) -> Running:
        command = [
            *("celery", "--quiet", "-A", "ops.bench.textbook:celery", "worker"),
            *(f"--pool={pool}", f"--concurrency={concurrency}", "--loglevel=INFO"),
        ]
        worker = self.start("textbook-worker", command)
        self.up(worker, lambda: b" ready." in self._log_of(worker.name).read_bytes())
        return worker

    # -- what is known from outside

    @property
    def owner(self) -> str:
        """The id of the key that loads are sent with."""
        return next(key.id for key in KeyStore(self.client).list())

    def keys(self, number: int) -> list[str]:
        """So many further API keys."""
        store = KeyStore(self.client)
        return [store.create(f"caller-{count}")[1] for count in range(number)]

    def ask(self, port: int) -> dict[str, Any]:
        """What the stub tells of its calls."""
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            told: dict[str, Any] = json.loads(connection.recv(65536).partition(b"\r\n\r\n")[2])
        return told

    def redis_cpu(self) -> float:
        """Seconds of processor time that Valkey's own thread has used: in microseconds' steps."""
        cpu: Any = self.client.info("cpu")
        return float(cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"])

    def redis_memory(self) -> int:
        memory: Any = self.client.info("memory")
        return int(memory["used_memory"])


@contextlib.contextmanager
def rig(directory: Path, **settings: str) -> Iterator[Rig]:
    """A rig with its Valkey running; all of it is gone afterwards but the logs."""
    with contextlib.ExitStack() as stack:
        try:
            yield Rig(directory, stack, **settings)
        finally:
            stack.close()
            for name in ("valkey", "images"):
                shutil.rmtree(directory / name, ignore_errors=True)


def _end(running: Running) -> None:
    for pid in reversed(running.pids()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.process.wait(10)


def _status(port: int, path: str, **headers: str) -> int:
    lines = "".join(f"{name}: {value}\r\n" for name, value in _all(headers).items())
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nConnection: close\r\n{lines}\r\n".encode())
        return int(connection.recv(65536)[9:12] or 0)


def _all(headers: Mapping[str, str]) -> dict[str, str]:
    return {"Host": "bench", **headers}
