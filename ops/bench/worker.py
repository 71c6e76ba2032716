"""What a task costs the worker, what it adds to the provider's time, how many fit into a process.

The provider is a stub that answers after a set time, with a picture so small that checking it
costs next to nothing; what checking a real one costs is told apart.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis

from common.connection import connect
from common.pictures import ImageLimits
from common.store import ENDED_CHANNEL, TaskStore
from common.task import ImageRequest, new_task_id
from ops.bench import textbook
from ops.bench.front_end import SUBMIT
from ops.bench.load import Load, post, run
from ops.bench.report import Finding, Row, Series, spread
from ops.bench.rig import Rig, Running, rig, until
from ops.bench.stub import picture
from workers.images import verify

__all__ = ["REQUEST", "added", "cost", "feed", "hearing", "in_flight", "keep"]

REQUEST = ImageRequest("dall-e-2", "a red apple on a wooden table")
_TEXTBOOK_BODY = {"model": "gpt-image-2", "prompt": REQUEST.prompt, "size": REQUEST.size}
_ANY_SIZE = ImageLimits(50_000_000, 64_000_000)


class Ends:
    """When tasks ended, in Unix seconds, as somebody hears who waits for it: by task."""

    def __init__(self, url: str, channel: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._hears: Any = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._hears.psubscribe(channel)
        self._channel = channel
        self.at: dict[str, float] = {}
        self._over = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._over:
            message = self._hears.get_message(timeout=0.2)
            if message is None:
                continue
            if self._channel == ENDED_CHANNEL:
                self.at[message["data"].decode()] = time.time()
            elif b'"SUCCESS"' in message["data"]:
                self.at[message["channel"].decode().removeprefix(self._channel[:-1])] = time.time()

    def wait(self, ids: list[str], seconds: float) -> None:
        until(lambda: all(task_id in self.at for task_id in ids), "all tasks ended", seconds)

    def close(self) -> None:
        self._over = True
        self._thread.join()
        self._hears.close()
        self._client.close()


@contextmanager
def hearing(url: str, channel: str = ENDED_CHANNEL) -> Iterator[Ends]:
    """Hear of the ends of tasks. The textbook's are on `celery-task-meta-*`."""
    ends = Ends(url, channel)
    try:
        yield ends
    finally:
        ends.close()


def feed(send: Callable[[int], str], number: int, rate: float) -> dict[str, float]:
    """Send so many tasks, `rate` a second or, with 0, at once: their ids, and when they went."""
    began = time.monotonic()
    sent: dict[str, float] = {}
    for count in range(number):
        if rate:
            time.sleep(max(0.0, began + count / rate - time.monotonic()))
        at = time.time()
        sent[send(count)] = at
    return sent


def keep(store: TaskStore, callers: int = 1) -> Callable[[int], str]:
    def send(count: int) -> str:
        task_id = new_task_id()
        created = store.create(
            task_id,
            owner=f"caller-{count % callers}",
            queue="images.openai",
            route="openai/gpt-image-2",
            request=REQUEST,
            deadline=3600,
        )
        assert created is not None
        return task_id

    return send


def _textbook_sender(bench: Rig) -> Callable[[int], str]:
    url = f"{bench.redis_url[:-1]}1"
    textbook.celery.conf.update(broker_url=url, result_backend=url)
    # The ends are heard of on a subscription of our own.
    return lambda _: str(
        textbook.generate.apply_async(args=(_TEXTBOOK_BODY,), ignore_result=False).id
    )


def cost(directory: Path, brief: bool) -> Finding:
    """Processor time of a worker for a task that is answered inline, against the textbook's."""
    number, rounds = (40, 1) if brief else (300, 5)
    burst = 100 if brief else 600
    with rig(directory) as bench:
        bench.provider(delay=0.05)
        ours, theirs = bench.worker(), bench.textbook_worker()
        url = f"{bench.redis_url[:-1]}1"
        with hearing(bench.redis_url) as ends, hearing(url, "celery-task-meta-*") as other:
            kinds: dict[str, tuple[Running, Ends, Callable[[int], str]]] = {
                "task": (ours, ends, keep(bench.store)),
                "textbook": (theirs, other, _textbook_sender(bench)),
            }
            steady: dict[str, list[float]] = {name: [] for name in kinds}
            for turn in range(-1, rounds):
                for name, (worker, heard, send) in kinds.items():
                    before = worker.cpu()
                    heard.wait(list(feed(send, number if turn >= 0 else 20, 60)), 60)
                    if turn >= 0:
                        steady[name].append((worker.cpu() - before) / number * 1000)
            kinds["task, 50 callers"] = (ours, ends, keep(bench.store, 50))
            bursts: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
            for _ in range(rounds):
                for name, (worker, heard, send) in kinds.items():
                    before, began = worker.cpu(), time.monotonic()
                    heard.wait(list(feed(send, burst, 0)), 120)
                    bursts[name].append(
                        {
                            "rate": burst / (time.monotonic() - began),
                            "cpu_ms": (worker.cpu() - before) / burst * 1000,
                        }
                    )
    check = {side: _check_cost(side, 5 if brief else 20) for side in (64, 1024)}
    pairs = [
        (one - check[64], other)
        for one, other in zip(steady["task"], steady["textbook"], strict=True)
    ]
    ratios = [one / other for one, other in pairs]
    rows = [
        Row(
            "CPU of a worker per inline task, 60 a second",
            "≤ 1.0 × textbook",
            f"{statistics.median(o for o, _ in pairs):.2f} ms, textbook "
            f"{statistics.median(o for _, o in pairs):.2f} ms",
            spread(ratios),
            f"{statistics.median(ratios):.2f}",
            statistics.median(ratios) <= 1,
        ),
        Row(
            "the same, all at once",
            "",
            ", ".join(
                f"{name} {statistics.median(r['cpu_ms'] for r in found):.2f} ms"
                for name, found in bursts.items()
            ),
        ),
        Row(
            "tasks/s of one worker, all at once",
            "",
            ", ".join(
                f"{name} {statistics.median(r['rate'] for r in found):.0f}"
                for name, found in bursts.items()
            ),
        ),
        Row(
            "CPU of checking a picture, counted apart",
            "",
            f"64² {check[64]:.2f} ms, 1024² PNG of 1.6 MB {check[1024]:.1f} ms",
        ),
    ]
    return Finding(rows, {"steady_ms": steady, "bursts": bursts, "check_ms": check})


def _check_cost(side: int, times: int) -> float:
    data = picture(side)
    request = replace(REQUEST, size=f"{side}x{side}")
    before = time.process_time()
    for _ in range(times):
        verify(data, request, _ANY_SIZE)
    return (time.process_time() - before) / times * 1000


def added(directory: Path, brief: bool) -> Finding:
    """Time between a submit and the news of its end that is not the provider's, 50 in flight."""
    delay, rate = 1.0, 50.0
    seconds, rounds = (1.0, 1) if brief else (8.0, 5)
    found: dict[str, list[list[float]]] = {"product": [], "textbook": []}
    with rig(directory) as bench:
        bench.provider(delay)
        web, other_web = bench.web(), bench.textbook_web()
        bench.worker()
        bench.start("beat", bench.lines["beat"])
        bench.textbook_worker()
        url = f"{bench.redis_url[:-1]}1"
        with hearing(bench.redis_url) as ends, hearing(url, "celery-task-meta-*") as other:
            for turn in range(-1, rounds):
                for name, front, heard, request in (
                    ("product", web, ends, SUBMIT),
                    ("textbook", other_web, other, post("/images", _TEXTBOOK_BODY)),
                ):
                    load = Load(
                        front.port,
                        [request],
                        seconds if turn >= 0 else 0.5,
                        rate=rate,
                        seed=turn,
                        trace=True,
                    )
                    sent = {
                        json.loads(answer.partition("\r\n\r\n")[2])["id"]: at
                        for at, answer in run(load).answers
                    }
                    heard.wait(list(sent), 60)
                    if turn >= 0:
                        found[name].append(
                            sorted(heard.at[task_id] - at - delay for task_id, at in sent.items())
                        )
    rows = []
    for name, runs in found.items():
        p50s = [1000 * times[len(times) // 2] for times in runs]
        p99s = [1000 * times[min(len(times) - 1, len(times) * 99 // 100)] for times in runs]
        p50, p99 = statistics.median(p50s), statistics.median(p99s)
        rows.append(
            Row(
                f"added to a provider of 1 s, 50 in flight, {name}",
                "p50 ≤ 12 ms, p99 ≤ 50 ms" if name == "product" else "",
                f"p50 {p50:.1f} ms, p99 {p99:.1f} ms",
                f"p50 {spread(p50s, '.1f')}, p99 {spread(p99s, '.1f')}",
                met=(p50 <= 12 and p99 <= 50) if name == "product" else None,
            )
        )
    return Finding(rows, {"added_seconds": found})


def in_flight(directory: Path, brief: bool) -> Finding:
    """Generations that one worker process has in flight, with a provider of 10 s."""
    delay, rate, seconds = (1.0, 60.0, 2.0) if brief else (10.0, 210.0, 26.0)
    rows, numbers, lines = [], {}, []
    for pool in ("gevent",) if brief else ("gevent", "threads"):
        with rig(directory / pool) as bench:
            stub = bench.provider(delay)
            worker = bench.worker(pool, concurrency=4000)
            bench.start("beat", bench.lines["beat"])
            store = TaskStore(connect(bench.redis_url), lease=30)
            with hearing(bench.redis_url) as ends:
                ends.wait(list(feed(keep(store), 20, 20)), 60)  # connections and code are there
                idle, cpu = worker.memory(), worker.cpu()
                watched = _Watched(bench, stub, worker)
                sent = feed(keep(store, 50), int(rate * seconds), rate)
                ends.wait(list(sent), delay + 120)
                watched.end()
                times = sorted(ends.at[task_id] - at - delay for task_id, at in sent.items())
            used = (worker.cpu() - cpu) / len(sent) * 1000
        most = max(count for count, _ in watched.seen)
        each = max((memory - idle) / count for count, memory in watched.seen if count > most * 0.9)
        p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
        numbers[pool] = {
            "most": most,
            "bytes_each": each,
            "cpu_ms": used,
            "added_p50": p50,
            "added_p99": p99,
            "seen": watched.seen,
        }
        lines.append(Series(pool, [(n, m / 1e6) for n, m in sorted(watched.seen)]))
        rows.append(
            Row(
                f"in flight in one worker process, {delay:.0f} s provider, {pool}",
                "≥ 2000, ≤ 60 kB each, added p99 ≤ 250 ms",
                f"{most}, {each / 1000:.0f} kB each, added p50 {1000 * p50:.0f} ms, "
                f"p99 {1000 * p99:.0f} ms, {used:.1f} ms CPU each",
                met=None if brief else most >= 2000 and each <= 60_000 and p99 <= 0.25,
            )
        )
    title = ("Memory of a worker against generations in flight", "in flight", "MB")
    return Finding(rows, numbers, {"in_flight.svg": (*title, lines)})


class _Watched:
    """Notes, a few times a second, how many calls are open and what the worker holds."""

    def __init__(self, bench: Rig, stub: Running, worker: Running) -> None:
        self.seen: list[tuple[int, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(bench, stub, worker))
        self._thread.start()

    def _watch(self, bench: Rig, stub: Running, worker: Running) -> None:
        while not self._over.wait(0.5):
            self.seen.append((int(bench.ask(stub.port)["open"]), worker.memory()))

    def end(self) -> None:
        self._over.set()
        self._thread.join()
