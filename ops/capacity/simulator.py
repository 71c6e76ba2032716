"""A stack in simulated time: each process does one thing after another, and queues are queues.

Every generation goes its way: a front end takes the submit, Redis writes it down, it waits for a
slot of a worker, costs that worker and Redis half of what a task costs, waits for its provider, and
costs the other half. Service takes the time that was measured, always the same; arrivals are
Poisson's. Processes may have fewer cores than there are of them. What is left out: the network,
what else runs on the machine, and that a thread which could run does not at once.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

from ops.capacity.costs import Costs

__all__ = ["Outcome", "Stack", "simulate"]

_REDIS_OF_SUBMIT = 0.2  # of what a task costs Redis, one call of five


@dataclass(frozen=True)
class Stack:
    """What is simulated. `cores` are shared by all of its processes; None: each has its own."""

    webs: int = 1
    workers: int = 1
    slots: int = 100  # of each worker
    cores: int | None = None


@dataclass(frozen=True)
class Outcome:
    """Seconds and rates. `added` is what was not the provider's time; cores are those in use."""

    ended: int
    throughput: float  # generations a second, from the first submit to the last end
    added: tuple[float, ...]  # sorted
    in_flight: float  # slots taken, on the average over time
    in_slot: float  # seconds that a generation had its slot, on the average
    web_cores: float
    worker_cores: float
    redis_cores: float

    def quantile(self, share: float) -> float:
        """Of `added`."""
        return self.added[min(len(self.added) - 1, int(len(self.added) * share))]


class _Station:
    """So many servers and one line before them, first in, first out."""

    def __init__(self, servers: float) -> None:
        self._free = servers
        self.waiting: deque[_Way] = deque()

    def take(self, way: _Way) -> bool:
        """Whether there is a free one; otherwise `way` is in the line."""
        if self._free > 0:
            self._free -= 1
            return True
        self.waiting.append(way)
        return False

    def leave(self) -> _Way | None:
        """Who is served next, if anybody waits."""
        if self.waiting:
            return self.waiting.popleft()
        self._free += 1
        return None


class _Worker(_Station):
    def __init__(self) -> None:
        super().__init__(1)
        self.taken = 0  # slots


_Way = Generator["float | _Station", None, None]
"""One generation's way: seconds that pass, or a station whose server it wants."""


class _Run:
    def __init__(self, costs: Costs, stack: Stack, provider: float) -> None:
        self._costs = costs
        self._provider = provider
        self._cores = _Station(stack.cores if stack.cores is not None else float("inf"))
        self._webs = itertools.cycle([_Station(1) for _ in range(stack.webs)])
        self._workers = [_Worker() for _ in range(stack.workers)]
        self._slots = _Station(stack.workers * stack.slots)
        self._redis = _Station(1)
        self._now = 0.0
        self._due: list[tuple[float, int, _Way]] = []
        self._count = itertools.count()
        self.busy = {"web": 0.0, "worker": 0.0, "redis": 0.0}
        self.ends: list[tuple[float, float]] = []
        self.slot_seconds: list[float] = []
        self.taken = self._taken_at = self.taken_seconds = 0.0

    def start(self, at: float) -> None:
        heapq.heappush(self._due, (at, next(self._count), self._generation(at)))

    def go(self) -> float:
        """Until all have ended: when that was."""
        while self._due:
            self._now, _, way = heapq.heappop(self._due)
            self._step(way)
        return self._now

    def _step(self, way: _Way) -> None:
        for wish in way:
            if isinstance(wish, _Station):
                if not wish.take(way):
                    return
            else:
                heapq.heappush(self._due, (self._now + wish, next(self._count), way))
                return

    def _leave(self, station: _Station) -> None:
        following = station.leave()
        if following is not None:
            heapq.heappush(self._due, (self._now, next(self._count), following))

    def _use(self, kind: str, station: _Station, seconds: float) -> _Way:
        yield station
        yield self._cores
        yield seconds
        self.busy[kind] += seconds
        self._leave(self._cores)
        self._leave(station)

    def _generation(self, at: float) -> _Way:
        costs = self._costs
        redis = costs.task_redis * (1 - _REDIS_OF_SUBMIT) / 2
        yield from self._use("web", next(self._webs), costs.submit_web)
        yield from self._use("redis", self._redis, costs.task_redis * _REDIS_OF_SUBMIT)
        yield self._slots
        worker = min(self._workers, key=lambda worker: worker.taken)
        began = self._now
        self._note(worker, 1)
        yield from self._use("worker", worker, costs.task_worker / 2)
        yield from self._use("redis", self._redis, redis)
        yield self._provider
        yield from self._use("worker", worker, costs.task_worker / 2)
        yield from self._use("redis", self._redis, redis)
        self.ends.append((at, self._now))
        self.slot_seconds.append(self._now - began)
        self._note(worker, -1)
        self._leave(self._slots)

    def _note(self, worker: _Worker, change: int) -> None:
        """Slots taken, integrated over time: told apart from the seconds that each was taken."""
        self.taken_seconds += self.taken * (self._now - self._taken_at)
        self.taken += change
        worker.taken += change
        self._taken_at = self._now


def simulate(
    costs: Costs, stack: Stack, *, rate: float, provider: float, seconds: float, seed: int = 1
) -> Outcome:
    """So many generations a second, for so long, with small pictures; then all of them end."""
    run = _Run(costs, stack, provider)
    rng = random.Random(seed)  # noqa: S311
    first = at = rng.expovariate(rate)
    while at < seconds:
        run.start(at)
        at += rng.expovariate(rate)
    took = run.go() - first
    ended = len(run.ends)
    return Outcome(
        ended=ended,
        throughput=ended / took,
        added=tuple(sorted(end - at - provider for at, end in run.ends)),
        in_flight=run.taken_seconds / took,
        in_slot=sum(run.slot_seconds) / ended,
        web_cores=run.busy["web"] / took,
        worker_cores=run.busy["worker"] / took,
        redis_cores=run.busy["redis"] / took,
    )
