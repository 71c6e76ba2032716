"""How soon requests that are held are answered once their task has ended, and what each costs.

`python -m ops.bench.waiters` starts a Valkey and one front end of its own, has many requests wait,
ends their tasks, and prints a table. Latency is from the end in the record, by the clock of Redis,
to the last byte at the client; server and client share the machine. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import selectors
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from honcho.environ import parse_procfile

from common.connection import connect
from common.keys import KeyStore
from common.store import TaskStore
from common.task import Failure, ImageRequest, Result, StoredImage, new_task_id
from ops.launcher.data import DataDirectory
from ops.launcher.ports import pick_free_port
from ops.launcher.valkey import prepare_valkey

_ROOT = Path(__file__).resolve().parents[2]
_KEY = "sk-bench-0123456789abcdef"
_LONGEST = 60.0  # seconds that a request is held
_REQUEST = ImageRequest("flux-pro", "a red apple")
READS = int(os.environ.get("READS", "1"))
_AT_A_TIME = 250  # requests that are sent without looking whether the ones before are held


@dataclass(frozen=True, slots=True)
class System:
    """A Valkey and a front end that runs in one process."""

    client: redis.Redis
    store: TaskStore
    owner: str
    web: int  # process id
    port: int

    def task(self) -> str:
        """A new task that a worker has taken."""
        task_id = new_task_id()
        created = self.store.create(
            task_id, owner=self.owner, queue="images.bench", request=_REQUEST, deadline=600
        )
        assert created is not None
        assert self.store.claim(task_id, "bench") is not None
        return task_id

    def cpu(self) -> float:
        """Seconds of processor time that the front end has used."""
        fields = Path(f"/proc/{self.web}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes that the front end has to itself."""
        lines = Path(f"/proc/{self.web}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))

    def commands(self) -> Counter[str]:
        stats: Any = self.client.info("commandstats")
        return Counter({name.removeprefix("cmdstat_"): e["calls"] for name, e in stats.items()})


@contextlib.contextmanager
def running(folder: Path) -> Iterator[System]:
    data = DataDirectory(folder)
    valkey = prepare_valkey(data)
    port = pick_free_port()
    environment = os.environ | {
        "REDIS_URL": valkey.url,
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "DATA_DIR": str(folder),
        "WEB_PROCESSES": "1",
        "SANDBOX": "on",
        "BOOTSTRAP_API_KEY": _KEY,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    line = parse_procfile((_ROOT / "Procfile").read_text()).processes["web"]
    with (folder / "log").open("wb") as log, contextlib.ExitStack() as stack:
        for command in (valkey.command, shlex.split(line)):
            process = subprocess.Popen(
                command, cwd=_ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
        client = connect(valkey.url)
        stack.callback(client.close)
        _until_answered(port)
        (key,) = KeyStore(client).list()
        (web,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield System(client, TaskStore(client, lease=600), key.id, int(web), port)


def _until_answered(port: int) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as asked:
            asked.sendall(_request("x"))
            if b"async_task_not_found" in asked.recv(65536):
                return
        time.sleep(0.1)
    raise SystemExit("the front end did not start")


def _request(task_id: str) -> bytes:
    return (
        f"GET /v1/tasks/{task_id}?wait={_LONGEST:.0f} HTTP/1.1\r\nHost: bench\r\n"
        f"Authorization: Bearer {_KEY}\r\n\r\n"
    ).encode()


class Waiters:
    """Clients that wait, one connection each."""

    def __init__(self, system: System, tasks: Sequence[str]) -> None:
        self._system = system
        self._tasks = tasks
        self._selector = selectors.DefaultSelector()

    def connect(self) -> None:
        """Send all requests, and come back when the last one is held."""
        before = self._system.commands()["hgetall"]
        for number, task_id in enumerate(self._tasks, 1):
            connection = socket.create_connection(("127.0.0.1", self._system.port))
            connection.sendall(_request(task_id))
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, task_id)
            if number % _AT_A_TIME == 0 or number == len(self._tasks):
                while self._system.commands()["hgetall"] < before + READS * number:
                    time.sleep(0.05)

    def answers(self) -> dict[str, list[float]]:
        """Wait for all answers: by task, when they came, in Unix seconds."""
        came: dict[str, list[float]] = {}
        read: dict[Any, bytes] = {}
        left = len(self._tasks)
        ends = time.monotonic() + _LONGEST
        while left and time.monotonic() < ends:
            for key, _ in self._selector.select(1):
                now = time.time()
                answer = read.get(key.fileobj, b"") + key.fileobj.recv(65536)  # type: ignore[union-attr]
                if not answer.endswith(b"}"):
                    read[key.fileobj] = answer
                    continue
                assert b'"completed"' in answer or b'"failed"' in answer, answer
                came.setdefault(key.data, []).append(now)
                self._selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                left -= 1
        assert not left, f"{left} requests were not answered"
        return came


def end_one_by_one(system_port: str, tasks: Sequence[str], rate: float) -> None:
    """End tasks at so many in a second; runs in a process of its own."""
    store = TaskStore(connect(system_port), lease=600)
    began = time.monotonic()
    for number, task_id in enumerate(tasks):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        assert _end(store, task_id, number)


def end_at_once(system_port: str, tasks: Sequence[str], rate: float) -> None:
    """End tasks as fast as Redis can; runs in a process of its own."""
    pipeline: Any = connect(system_port, timeout=30).pipeline(transaction=False)
    store = TaskStore(pipeline, lease=600)
    for number, task_id in enumerate(tasks):
        _end(store, task_id, number)
    assert all(pipeline.execute())


def _end(store: TaskStore, task_id: str, number: int) -> bool:
    """Most complete and some fail."""
    if number % 20 == 0:
        return store.fail(task_id, 1, Failure("upstream_error", "It did not work."))
    image = StoredImage(
        f"{task_id}/0.png", "png", 1024, 1024, 1_500_000, "0" * 64, "a redder apple"
    )
    return store.complete(task_id, 1, Result((image,), "bfl", "flux-pro-1.1", {"cost_usd": 0.04}))


def measure(
    system: System,
    name: str,
    end: Callable[[str, Sequence[str], float], None],
    tasks: int,
    each: int,
    rate: float,
) -> str:
    ids = [system.task() for _ in range(tasks)]
    waiters = Waiters(system, [task_id for task_id in ids for _ in range(each)])
    empty = system.memory()
    waiters.connect()
    held = system.memory()
    quiet = system.commands()
    time.sleep(3)
    quiet = system.commands() - quiet
    asked = sum(quiet.values()) - quiet["info"]
    before, used = system.commands(), system.cpu()
    url = f"redis://:{system.client.get_connection_kwargs()['password']}@127.0.0.1:{system.client.get_connection_kwargs()['port']}/0"
    ending = multiprocessing.Process(target=end, args=(url, ids, rate))
    ending.start()
    answers = waiters.answers()
    ending.join()
    used = system.cpu() - used
    spent = system.commands() - before
    ends = {task_id: (system.store.read(task_id)) for task_id in ids}
    late = sorted(
        (came - (ends[task_id].ended or 0) / 1000) * 1000  # type: ignore[union-attr]
        for task_id, times in answers.items()
        for came in times
    )
    count = len(late)
    p50, p99 = late[count // 2], late[min(count - 1, count * 99 // 100)]
    return (
        f"| {name} | {count} | {p50:.0f} | {p99:.0f} | {late[-1]:.0f} | {used / count * 1e6:.0f} | "
        f"{spent['hgetall']} | {asked / 3:.1f} | {(held - empty) / count / 1000:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiters", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=200, help="ends in a second")
    options = parser.parse_args()
    many, rate = options.waiters, options.rate
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as system:
        print(
            "| tasks end | waiters | p50 ms | p99 ms | max ms | web CPU µs per answer | reads | "
            "commands/s while held | kB per waiter |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        print(measure(system, "one by one", end_one_by_one, many, 1, rate), flush=True)
        print(measure(system, "all at once", end_at_once, many, 1, rate), flush=True)
        print(measure(system, "one task of all", end_at_once, 1, many, rate), flush=True)


if __name__ == "__main__":
    main()
