"""The simulator against the running system: the same load given to both."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ops.bench.front_end import SUBMIT
from ops.bench.load import Load, run
from ops.bench.report import machine
from ops.bench.rig import rig
from ops.bench.worker import hearing
from ops.capacity.costs import Costs
from ops.capacity.simulator import Outcome, Stack, simulate

__all__ = ["POINTS", "Point", "check"]

_ROUNDS = 3


@dataclass(frozen=True)
class Point:
    """A load: generations a second, for `seconds`, to one front end and one worker."""

    name: str
    slots: int
    rate: float
    provider: float  # seconds
    seconds: float = 8.0


POINTS = (
    Point("slots to spare", slots=100, rate=20, provider=1.0),
    Point("more than the slots take", slots=20, rate=60, provider=0.5),
)


@dataclass(frozen=True)
class _Seen:
    """What both tell of a point."""

    throughput: float
    p50: float
    p99: float
    web: float  # seconds of its processor, for each generation
    worker: float
    redis: float


_ROWS: tuple[tuple[str, Callable[[_Seen], float], str, float], ...] = (
    ("generations a second", lambda seen: seen.throughput, ".1f", 1),
    ("added, p50, ms", lambda seen: seen.p50, ",.0f", 1000),
    ("added, p99, ms", lambda seen: seen.p99, ",.0f", 1000),
    ("front end, ms of processor each", lambda seen: seen.web, ".2f", 1000),
    ("worker, ms of processor each", lambda seen: seen.worker, ".2f", 1000),
    ("Redis, ms of processor each", lambda seen: seen.redis, ".2f", 1000),
)


def check(costs: Costs) -> str:
    """Measure the points here, and hold the simulator against them: a table in Markdown."""
    about = machine()
    lines = [
        f"Of {about['date']}, commit {about['commit']}; {about['cores']} cores "
        f"({about['processor']}), load average at the start {about['load_average'][0]}.",
        "",
        "| point | what | simulated | measured | ratio |",
        "|---|---|---|---|---|",
    ]
    for point in POINTS:
        simulated, measured = _simulate(costs, point), _measure(point)
        load = f"{point.name}: {point.slots} slots, {point.rate:.0f}/s, {point.provider} s"
        for what, value, form, factor in _ROWS:
            ours, theirs = value(simulated) * factor, value(measured) * factor
            ratio = f"{ours / theirs:.2f}" if theirs else "-"
            lines.append(f"| {load} | {what} | {ours:{form}} | {theirs:{form}} | {ratio} |")
            load = ""
    return "\n".join(lines) + "\n"


def _simulate(costs: Costs, point: Point) -> _Seen:
    stack = Stack(slots=point.slots, cores=machine()["cores"])
    outcomes = [
        simulate(
            costs,
            stack,
            rate=point.rate,
            provider=point.provider,
            seconds=point.seconds,
            seed=seed,
        )
        for seed in range(_ROUNDS)
    ]
    return _median([_of(outcome) for outcome in outcomes])


def _of(outcome: Outcome) -> _Seen:
    return _Seen(
        outcome.throughput,
        outcome.quantile(0.5),
        outcome.quantile(0.99),
        outcome.web_cores / outcome.throughput,
        outcome.worker_cores / outcome.throughput,
        outcome.redis_cores / outcome.throughput,
    )


def _measure(point: Point) -> _Seen:
    with (
        tempfile.TemporaryDirectory(prefix="capacity-") as directory,
        rig(Path(directory)) as bench,
    ):
        bench.provider(point.provider)
        web, worker = bench.web(), bench.worker(concurrency=point.slots)
        bench.start("beat", bench.lines["beat"])
        found = []
        with hearing(bench.redis_url) as ends:
            for seed in range(-1, _ROUNDS):
                seconds = point.seconds if seed >= 0 else 0.5
                load = Load(web.port, [SUBMIT], seconds, rate=point.rate, seed=seed, trace=True)
                before = (web.cpu(), worker.cpu(), bench.redis_cpu())
                sent = {
                    json.loads(answer.partition("\r\n\r\n")[2])["id"]: at
                    for at, answer in run(load).answers
                    if answer.startswith("HTTP/1.1 202")
                }
                ends.wait(list(sent), 120)
                time.sleep(0.2)  # the last events of Celery
                after = (web.cpu(), worker.cpu(), bench.redis_cpu())
                took = max(ends.at[task_id] for task_id in sent) - min(sent.values())
                added = sorted(
                    ends.at[task_id] - at - point.provider for task_id, at in sent.items()
                )
                costs = [(b - a) / len(sent) for a, b in zip(before, after, strict=True)]
                if seed >= 0:
                    found.append(
                        _Seen(
                            len(sent) / took,
                            added[len(added) // 2],
                            added[min(len(added) - 1, len(added) * 99 // 100)],
                            *costs,
                        )
                    )
    return _median(found)


def _median(seen: list[_Seen]) -> _Seen:
    return _Seen(
        *(statistics.median(getattr(one, name) for one in seen) for name in _Seen.__annotations__)
    )
