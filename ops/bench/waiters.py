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
_LONGEST = 60  # seconds that a request is held
_QUIET = 4.0  # seconds in which nothing happens
_REQUEST = ImageRequest("flux-pro", "a red apple")
_LEASE = 600.0  # seconds
_AT_A_TIME = 50  # connections that are opened before it is looked whether they are held

_CONSTANT = "none: constant answers, all at once"
_HEAD = (
    "tasks end",
    "requests",
    "p50 ms",
    "p99 ms",
    "max ms",
    "CPU µs each",
    "calls of Redis",
    "calls/s while held",
    "kB each",
)


@dataclass(frozen=True, slots=True)
class _Server:
    """What answers, in one process."""

    web: int  # its id
    port: int

    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.web}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes that it has to itself."""
        lines = Path(f"/proc/{self.web}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))

    def calls(self) -> int:
        """Grows by one with each request that is held, or by more, and by nothing while it is."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _System(_Server):
    """A Valkey and a front end."""

    url: str
    client: redis.Redis
    store: TaskStore
    owner: str

    def new_task(self) -> str:
        """A task that a worker has taken."""
        task_id = new_task_id()
        created = self.store.create(
            task_id,
            owner=self.owner,
            queue="images.bench",
            route="bench/bench",
            request=_REQUEST,
            deadline=_LEASE,
        )
        assert created is not None
        assert self.store.claim(task_id, "bench") is not None
        return task_id

    def calls(self) -> int:
        """How many operations were carried out: one call, one round trip each."""
        return self.commands()["fcall"]

    def commands(self) -> Counter[str]:
        """How often Valkey has run each command, those inside of functions included."""
        stats: Any = self.client.info("commandstats")
        return Counter({name.removeprefix("cmdstat_"): e["calls"] for name, e in stats.items()})


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[_System]:
    valkey = prepare_valkey(DataDirectory(folder))
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
    web = parse_procfile((_ROOT / "Procfile").read_text()).processes["web"]
    with (folder / "log").open("wb") as log, contextlib.ExitStack() as stack:
        for command in (valkey.command, shlex.split(web)):
            process = subprocess.Popen(
                command, cwd=_ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
        client = connect(valkey.url)
        stack.callback(client.close)
        _wait_until_up(port)
        (key,) = KeyStore(client).list()  # made by the first request
        store = TaskStore(client, lease=_LEASE)
        yield _System(_child(process), port, valkey.url, client, store, key.id)


@dataclass(frozen=True, slots=True)
class _Constant(_Server):
    """The textbook's server: what it takes to answer a crowd for which nothing has to be done."""

    def calls(self) -> int:
        """How many requests are held."""
        return int(self._ask("GET /crowd").rpartition(b"\n")[2])

    def release(self) -> float:
        """Let them go. When that was asked for, in Unix seconds."""
        at = time.time()
        self._ask("POST /release")
        return at

    def _ask(self, what: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port)) as asked:
            head = (
                f"{what} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            asked.sendall(head.encode())
            return b"".join(iter(lambda: asked.recv(65536), b"")).strip()


@contextlib.contextmanager
def _running_constant() -> Iterator[_Constant]:
    port = pick_free_port()
    command = [
        *(sys.executable, "-m", "gunicorn", "--worker-class", "api.gunicorn_worker.Worker"),
        *("--workers", "1", "--worker-connections", "8000", "--keep-alive", "2"),
        *("--no-control-socket", "--log-level", "warning"),
        *("--bind", f"127.0.0.1:{port}", "ops.bench.textbook:app"),
    ]
    process = subprocess.Popen(command, cwd=_ROOT)
    try:
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            with contextlib.suppress(OSError, ValueError):
                _Constant(0, port).calls()
                break
            time.sleep(0.1)
        yield _Constant(_child(process), port)
    finally:
        process.terminate()
        process.wait(60)


def _measure_constant(requests: int) -> tuple[object, ...]:
    """The line of the table that none of ours can go below."""
    with _running_constant() as system:
        clients = _Clients(system, ["held"] * requests, "/{}")
        empty = system.memory()
        clients.connect(1)
        memory = system.memory() - empty
        used = system.cpu()
        released = system.release()
        late = sorted((came - released) * 1000 for _, came in clients.answers())
        used = system.cpu() - used
    cost = round(used / requests * 1e6)
    return (_CONSTANT, requests, *_parts(late), cost, 0, 0.0, round(memory / requests / 1000))


def _parts(late: Sequence[float]) -> Iterator[int]:
    """The median, the 99th percentile and the most of what is sorted, in whole milliseconds."""
    for part in (0.5, 0.99, 1):
        yield round(late[min(len(late) - 1, int(len(late) * part))])


def _child(process: subprocess.Popen[bytes]) -> int:
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def _wait_until_up(port: int) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as asked:
            asked.sendall(_request("/v1/tasks/x"))
            if b"async_task_not_found" in asked.recv(65536):
                return
        time.sleep(0.1)
    raise SystemExit("The front end did not start.")


def _request(path: str) -> bytes:
    return (f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {_KEY}\r\n\r\n").encode()


class _Clients:
    """Each waits on a connection of its own, for the answer to `path`, or follows with events."""

    def __init__(self, system: _Server, tasks: Sequence[str], path: str) -> None:
        self._system = system
        self._tasks = tasks
        self._path = path
        self._read: dict[socket.socket, bytes] = {}
        self._selector = selectors.DefaultSelector()

    def connect(self, reads: int) -> None:
        """Send all requests, and come back when all are held: each has read its task so often."""
        before = self._system.calls()
        for number, task_id in enumerate(self._tasks, 1):
            client = socket.create_connection(("127.0.0.1", self._system.port))
            client.sendall(_request(self._path.format(task_id)))
            client.setblocking(False)
            self._read[client] = b""
            self._selector.register(client, selectors.EVENT_READ, task_id)
            if number % _AT_A_TIME == 0 or number == len(self._tasks):
                while self._system.calls() < before + reads * number:
                    time.sleep(0.02)
        # Those that wait already are looked at once more when the front end begins to listen.
        while before != (before := self._system.calls()):
            time.sleep(0.5)

    def answers(self) -> list[tuple[str, float]]:
        """Wait for all ends: the task of each, and when it was there, in Unix seconds."""
        came: list[tuple[str, float]] = []
        ends = time.monotonic() + _LONGEST
        while len(came) < len(self._tasks) and time.monotonic() < ends:
            for key, _ in self._selector.select(1):
                client: Any = key.fileobj
                said = client.recv(65536)
                assert said, f"the front end hung up after {self._read[client]!r}"
                self._read[client] += said
                if not self._is_whole(self._read[client]):
                    continue
                came.append((key.data, time.time()))
                self._selector.unregister(client)
                client.close()
        assert len(came) == len(self._tasks), "not all requests were answered"
        return came

    @staticmethod
    def _is_whole(answer: bytes) -> bool:
        if b"text/event-stream" in answer:
            return b"\n\n" in answer.partition(b"\nevent: done")[2]
        if not answer.rstrip().endswith(b"}"):
            return False
        assert b'"completed"' in answer or b'"failed"' in answer, answer
        return True


def _end_one_by_one(url: str, tasks: Sequence[str], rate: float) -> None:
    store = TaskStore(connect(url))
    began = time.monotonic()
    for number, task_id in enumerate(tasks):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        assert _end(store, task_id, number)


def _end_at_once(url: str, tasks: Sequence[str], _: float) -> None:
    pipeline: Any = connect(url, timeout=30).pipeline(transaction=False)
    store = TaskStore(pipeline)
    for number, task_id in enumerate(tasks):
        _end(store, task_id, number)
    assert all(pipeline.execute())


def _end(store: TaskStore, task_id: str, number: int) -> bool:
    """Most complete and some fail."""
    if number % 20 == 0:
        return store.fail(task_id, 1, Failure("upstream_error", "It did not work."))
    image = StoredImage(f"{task_id}/0.png", "png", 1024, 1024, 1_500_000, "0" * 64, "a red apple")
    return store.complete(task_id, 1, Result((image,), "bfl", "flux-pro-1.1", {"cost_usd": 0.04}))


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    end: Callable[[str, Sequence[str], float], None]
    tasks: int
    requests_each: int = 1
    path: str = f"/v1/tasks/{{}}?wait={_LONGEST}"
    reads: int = 1

    def measure(self, system: _System, rate: float) -> tuple[object, ...]:
        """One line of the table, as `_HEAD` has it."""
        ids = [system.new_task() for _ in range(self.tasks)]
        clients = _Clients(system, ids * self.requests_each, self.path)
        count = self.tasks * self.requests_each
        empty = system.memory()
        clients.connect(self.reads)
        memory = system.memory() - empty
        quiet = system.commands()
        time.sleep(_QUIET)
        quiet = system.commands() - quiet
        before, used = system.calls(), system.cpu()
        # In a process of its own, so that the clients do not wait for it.
        ending = multiprocessing.Process(target=self.end, args=(system.url, ids, rate))
        ending.start()
        answers = clients.answers()
        ending.join()
        used = system.cpu() - used
        calls = system.calls() - before - len(ids)
        ends = {task.id: task.ended for task in system.store.read_many(ids) if task and task.ended}
        late = sorted(came * 1000 - ends[task_id] for task_id, came in answers)
        return (
            self.name,
            count,
            *_parts(late),
            round(used / count * 1e6),
            calls,
            (sum(quiet.values()) - quiet["info"]) / _QUIET,
            round(memory / count / 1000),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=200, help="ends in a second, one by one")
    options = parser.parse_args()
    many = options.requests
    cases = (
        _Case("one by one", _end_one_by_one, many),
        _Case("all at once", _end_at_once, many),
        _Case("one task, of all", _end_at_once, 1, many),
    )
    followed = (
        _Case("one by one, followed", _end_one_by_one, many, 1, "/v1/tasks/{}/events", 2),
        _Case("all at once, followed", _end_at_once, many, 1, "/v1/tasks/{}/events", 2),
    )
    print(f"{_line(_HEAD)}\n|{'---|' * len(_HEAD)}")
    # Memory that was used once is used again: each kind of request gets a process that is new.
    for same in (cases, followed):
        with tempfile.TemporaryDirectory() as folder, _running(Path(folder)) as system:
            for case in same:
                row = case.measure(system, options.rate)
                print(_line(row), flush=True)
    print(_line(_measure_constant(many)))


def _line(row: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, row))} |"


if __name__ == "__main__":
    main()
