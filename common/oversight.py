"""What an operator sees and does beside the numbers of `common.fleet`.

Every public method is one round trip, but for `resume` where very many tasks wait, and raises
`StoreUnavailable` when Redis does not answer or refuses the write. Nothing here takes longer
because there are more tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import redis

from common.catalog import Catalog
from common.limits import Usage, usage_from
from common.queue import queue_for
from common.script import Script, pairs
from common.store import Inspection, inspection_from

__all__ = ["SAMPLE_SECONDS", "Holding", "Oversight", "Point"]

SAMPLE_SECONDS = 20.0
_SAMPLES_KEPT = 181  # an hour, and the one before it
_EARLY = 0.9  # of the time between samples, so that a clock that is a little fast misses none


@dataclass(frozen=True, slots=True)
class Holding:
    """What a worker holds of one model: how many tasks, and for how many seconds the oldest has
    been worked on, other workers' time included."""

    worker: str
    model: str
    tasks: int
    oldest: float


@dataclass(frozen=True, slots=True)
class Point:
    """The fleet over the time between two samples, the second of which was taken at `at`, in Unix
    seconds.

    Tasks that waited for a worker and that workers held, at that time; tasks that were completed
    and that failed, per minute; and from submit to completed, the seconds within which half and 95
    of 100 of those came that were completed meanwhile, None when none were. These are read from the
    buckets of /metrics, between whose bounds they are as if evenly spread.
    """

    at: float
    waiting: int
    taken: int
    completed: float
    failed: float
    p50: float | None
    p95: float | None


class Oversight:
    """Looks at tasks of everybody, and pauses what buys pictures."""

    def __init__(self, client: redis.Redis, catalog: Catalog) -> None:
        self._run = Script(client).run
        self._queues = sorted(map(queue_for, catalog.providers()))

    def oldest(self, limit: int) -> list[Inspection]:
        """At most so many tasks that have not ended, the oldest first.

        They are looked for where tasks wait and are worked on, by the heads of each: of many
        thousands that wait, younger ones may be told of in place of one that is not at a head.
        """
        return [inspection_from(pairs(r)) for r in self._run("oldest", limit, *self._queues)]

    def failed(self, limit: int) -> list[Inspection]:
        """The tasks that failed last, at most 200, and of them those whose records are kept."""
        return [inspection_from(pairs(record)) for record in self._run("failures", limit)]

    def of_key(self, key_id: str, limit: int) -> list[Inspection]:
        """At most so many tasks of a key, the newest first."""
        _, _, *records = self._run("list", key_id, "", limit, "", "", limit)
        return [inspection_from(pairs(record)) for record in records]

    def working(self) -> list[Holding]:
        """What each worker holds. Of each queue 500 tasks are looked at, at most."""
        told = self._run("working", *self._queues)
        return sorted(
            (Holding(worker, model, tasks, oldest / 1000) for worker, model, tasks, oldest in told),
            key=lambda holding: (holding.worker, holding.model),
        )

    def usages(self, owners: Sequence[str]) -> list[Usage]:
        """What these keys have used this month and today, in their order."""
        return [usage_from(reply) for reply in self._run("usages", *owners)]

    def pause(self, name: str) -> int:
        """Buy nothing more by a route, an account or a model (`model:<id>`) until it is resumed.
        What was announced before goes on; tasks wait, or take another route.

        Returns since when it is paused, in Unix milliseconds.
        """
        since: int = self._run("pause", name)
        return since

    def resume(self, name: str) -> None:
        """Take a pause back, and make due what waits for it."""
        woken, left = self._run("resume", name)
        # Who meets another pause comes back to the line: those that were there are gone through.
        for _ in range(left // max(woken, 1) + 1 if left else 0):
            self._run("resume", name)

    def sample(self) -> bool:
        """Take down how things stand, if nobody has done so lately; whether it was done."""
        every = round(SAMPLE_SECONDS * _EARLY * 1000)
        return bool(self._run("sample", every, _SAMPLES_KEPT, *self._queues))

    def history(self) -> list[Point]:
        """The last hour, as far as somebody was there to take it down; the oldest first."""
        texts, seconds = self._run("history")
        samples = [orjson.loads(text) for text in reversed(texts)]
        bounds = [float(most) for most in seconds]
        return [_point(*two, bounds) for two in itertools.pairwise(samples)]


def _point(before: Mapping[str, Any], sample: Mapping[str, Any], bounds: Sequence[float]) -> Point:
    minutes: float = (sample["at"] - before["at"]) / 60_000
    names = [*(f"{bound:g}" for bound in bounds), "+Inf"]
    took, took_before = sample["took"], before["took"]
    counts = [max(0, took.get(name, 0) - took_before.get(name, 0)) for name in names]

    def per_minute(what: str) -> float:
        grown: int = sample[what] - before[what]
        return round(max(0, grown) / minutes, 2)

    return Point(
        at=sample["at"] / 1000,
        waiting=sample["waiting"],
        taken=sample["taken"],
        completed=per_minute("completed"),
        failed=per_minute("failed"),
        p50=_quantile(0.5, counts, bounds),
        p95=_quantile(0.95, counts, bounds),
    )


def _quantile(part: float, counts: Sequence[int], bounds: Sequence[float]) -> float | None:
    """Where `part` of what was counted is reached; beyond the last bound, that bound."""
    wanted, so_far, low = part * sum(counts), 0, 0.0
    if not wanted:
        return None
    for count, high in zip(counts, bounds, strict=False):
        if so_far + count >= wanted:
            return round(low + (high - low) * (wanted - so_far) / count, 2)
        so_far, low = so_far + count, high
    return bounds[-1]
