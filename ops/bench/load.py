"""The load: a client in a process of its own, so light that it is not what is measured.

One thread over epoll, requests that are ready-made bytes, answers of which only the status and the
length are read. `closed` keeps every connection busy; `open` sends at times drawn beforehand,
whatever the server does, and counts the wait for a free connection as the server's.
"""

from __future__ import annotations

import json
import random
import select
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Load", "Outcome", "get", "post", "run"]

_SEND_AHEAD = 0.0002  # seconds: an arrival so near is not worth another call of select


@dataclass(frozen=True)
class Load:
    """What is to be sent to a port of this machine. `rate` 0 is a closed loop, else it is arrivals
    in a second. With `trace` the outcome has every answer with the time at which it was due."""

    port: int
    requests: Sequence[str]
    seconds: float
    connections: int = 50
    rate: float = 0.0
    seed: int = 1
    trace: bool = False


@dataclass(frozen=True)
class Outcome:
    """Seconds throughout. `statuses` counts answers; `late` is how late, at worst, the client
    itself was to send what was due."""

    count: int
    seconds: float
    p50: float
    p90: float
    p99: float
    worst: float
    late: float
    cpu: float  # of the client
    statuses: dict[str, int] = field(default_factory=dict)
    answers: list[tuple[float, str]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def get(path: str, **headers: str) -> str:
    """A GET of HTTP/1.1, whole; a header's name has `_` where it has a hyphen."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n{_headers(headers)}\r\n"


def post(path: str, body: object, **headers: str) -> str:
    """A POST of a JSON body, whole."""
    text = json.dumps(body)
    about = f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: bench\r\n{about}{_headers(headers)}\r\n{text}"


def _headers(headers: dict[str, str]) -> str:
    return "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())


def run(load: Load) -> Outcome:
    """Send the load from another process, and wait for what came of it."""
    done = subprocess.run(
        [sys.executable, "-m", "ops.bench.load"],
        input=json.dumps(asdict(load)),
        capture_output=True,
        text=True,
        check=False,
        timeout=load.seconds + 120,
    )
    if done.returncode:
        raise RuntimeError(f"the client failed:\n{done.stderr[-2000:]}")
    return Outcome(**json.loads(done.stdout))


class _Connection:
    """One request at a time. `due` is when it should have been sent, `sent` when it was."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.due = 0.0
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """The answer when it is whole, else None. Raises ConnectionError when it never will be."""
        piece = self.socket.recv(262144)
        if not piece:
            raise ConnectionError
        data = self._read + piece if self._read else piece
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            head = data[:end].lower()
            at = head.find(b"content-length: ")
            length = int(head[at + 16 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if b" 304 " in head[:16]:
                length = 0
            if len(data) >= end + 4 + length:
                self._read = b""
                if b"connection: close" in head:
                    self.socket.close()
                    self.socket = None  # type: ignore[assignment]
                return data
        self._read = data
        return None


class _Client:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._requests = [request.encode() for request in load.requests]
        self._sent = 0
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        for _ in range(load.connections):
            self._take(_Connection(load.port))
        self._latencies: list[float] = []
        self._statuses: Counter[str] = Counter()
        self._answers: list[tuple[float, str]] = []
        self._offset = time.time() - time.perf_counter()
        self._late = 0.0

    def run(self) -> Outcome:
        began = time.perf_counter()
        cpu = time.process_time()
        if self._load.rate:
            self._open(began)
        else:
            self._closed(began)
        seconds = time.perf_counter() - began
        latencies = sorted(self._latencies) or [0.0]
        count = len(latencies)
        return Outcome(
            count=count,
            seconds=min(seconds, self._load.seconds) if self._load.rate else seconds,
            p50=latencies[count // 2],
            p90=latencies[count * 9 // 10],
            p99=latencies[min(count - 1, count * 99 // 100)],
            worst=latencies[-1],
            late=self._late,
            cpu=time.process_time() - cpu,
            statuses=dict(self._statuses),
            answers=self._answers,
        )

    def _closed(self, began: float) -> None:
        ends = began + self._load.seconds
        while self._idle:
            self._send(self._idle.pop(), time.perf_counter())
        while len(self._idle) < len(self._by_fd):
            for fd, _ in self._epoll.poll(1):
                connection = self._finished(fd)
                if connection is None:
                    continue
                now = time.perf_counter()
                if now < ends:
                    self._send(connection, now)
                else:
                    self._idle.append(connection)
            if time.perf_counter() > ends + 60:
                raise SystemExit("some requests were not answered")

    def _open(self, began: float) -> None:
        rng = random.Random(self._load.seed)  # noqa: S311
        due = began
        waiting: deque[float] = deque()
        ends = began + self._load.seconds
        gives_up = ends + 60
        while True:
            now = time.perf_counter()
            while due <= now + _SEND_AHEAD and due < ends:
                waiting.append(due)
                self._late = max(self._late, now - due)
                due += rng.expovariate(self._load.rate)
            while waiting and self._idle:
                self._send(self._idle.pop(), waiting.popleft())
            busy = len(self._by_fd) - len(self._idle)
            if due >= ends and not waiting and not busy:
                return
            if now > gives_up:
                raise SystemExit(f"{busy + len(waiting)} requests were not answered")
            left = max(0.0, due - time.perf_counter()) if due < ends else 1.0
            # epoll counts in milliseconds; select does not.
            if select.select([self._epoll], [], [], left)[0]:
                for fd, _ in self._epoll.poll(0):
                    connection = self._finished(fd)
                    if connection is not None:
                        self._idle.append(connection)

    def _send(self, connection: _Connection, due: float) -> None:
        request = self._requests[self._sent % len(self._requests)]
        self._sent += 1
        try:
            connection.send(request, due)
        except ConnectionError:  # the server keeps idle connections for two seconds only
            self._renew(connection).send(request, due)

    def _finished(self, fd: int) -> _Connection | None:
        connection = self._by_fd[fd]
        try:
            answer = connection.receive()
        except ConnectionError:
            if connection not in self._idle:
                self._statuses["broken"] += 1
            else:
                self._idle.remove(connection)
            return self._renew(connection)
        if answer is None:
            return None
        self._latencies.append(time.perf_counter() - connection.due)
        self._statuses[answer[9:12].decode()] += 1
        if self._load.trace:
            self._answers.append((connection.due + self._offset, answer.decode()))
        if connection.socket is None:
            del self._by_fd[fd]
            connection.connect()
            self._watch(connection)
        return connection

    def _renew(self, connection: _Connection) -> _Connection:
        fd = connection.socket.fileno()
        self._epoll.unregister(fd)
        del self._by_fd[fd]
        connection.socket.close()
        connection.connect()
        self._watch(connection)
        return connection

    def _take(self, connection: _Connection) -> None:
        self._watch(connection)
        self._idle.append(connection)

    def _watch(self, connection: _Connection) -> None:
        fd = connection.socket.fileno()
        self._by_fd[fd] = connection
        self._epoll.register(fd, select.EPOLLIN)


def main() -> None:
    told: dict[str, Any] = json.load(sys.stdin)
    print(json.dumps(asdict(_Client(Load(**told)).run())))


if __name__ == "__main__":
    main()
