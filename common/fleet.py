"""How the whole system stands, in numbers: the same from every process that asks Redis.

What only grows is counted by the steps of the tasks themselves (`lua/counts.lua`), so that it is
neither lost with a process nor counted twice; the rest is looked up when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import redis

from common.catalog import Catalog
from common.queue import queue_for
from common.script import Script
from common.store import Shut, paused_since, shut_routes

__all__ = ["OTHER", "Backlog", "Figures", "Fleet", "Spread"]

OTHER = "other"
"""Stands for a model or route that the catalog had once."""

Labels = tuple[str, ...]
Counts = Mapping[Labels, float]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What one queue has: tasks that wait for a worker, tasks that a worker has taken, and for how
    many seconds the oldest of the former has been waiting since it was accepted."""

    waiting: int
    taken: int
    oldest: float


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something took, in seconds: how many took at most so long, shortest first and each
    with those before it, the last being infinity; and all of them together."""

    buckets: tuple[tuple[str, int], ...]
    total: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of the fleet at one moment. Ages, waits and lags are in seconds.

    The counts since Redis began to keep them are by: `accepted` and `asked` (pictures) model;
    `ended` model, route, status, code, billed; `calls` route, state of the journal, error;
    `bought` (pictures) route; `spent` (US dollars) model, route; `webhook_tries` outcome. A route
    is empty where a task has none. `in_flight` and `waiting` are of capped routes only.
    """

    accepted: Counts
    asked: Counts
    ended: Counts
    calls: Counts
    bought: Counts
    spent: Counts
    webhook_tries: Counts
    leases_lost: int
    announced_again: int
    task_times: Mapping[str, Spread]  # from submit to completed, by model
    provider_times: Mapping[str, Spread]  # from sending the call to its pictures, by route
    queues: Mapping[str, Backlog]
    in_flight: Mapping[str, int]
    waiting: Mapping[str, int]
    open_tasks: int
    due_tasks: int
    sweep_lag: float
    workers: Mapping[str, float]  # seconds since each was seen
    sweeps: Mapping[str, float]
    shut: Mapping[str, Shut]  # routes, accounts, and models as `model:<id>`
    paused: Mapping[str, float]  # of them, those that an operator has paused: for how many seconds
    webhook_lanes: int
    webhooks_owed: int
    webhook_lag: float
    memory: int | None  # of Redis, bytes; None where it does not tell
    memory_limit: int | None
    writes_to_disk: bool | None  # whether the last attempt of Redis to write to its log went well


class Fleet:
    """Looks at everything at once: one round trip, and nothing is changed.

    Models, routes and queues are those of the catalog; what there is of others goes by the name
    `OTHER`.
    """

    def __init__(self, client: redis.Redis, catalog: Catalog) -> None:
        self._run = Script(client).run
        routes = [route for model in catalog for route in model.routes]
        self._models = frozenset(model.id for model in catalog)
        self._routes = frozenset(route.name for route in routes)
        self._accounts = frozenset(route.provider for route in routes)
        models = (f"model:{name}" for name in self._models)
        self._shuttable = frozenset({*self._routes, *self._accounts, *models})
        self._capped = tuple(sorted({route.name for route in routes if route.cap}))
        self._queues = tuple(sorted(map(queue_for, self._accounts)))

    def look(self) -> Figures:
        """The numbers as they are now. Raises StoreUnavailable."""
        reply = self._run("metrics", len(self._queues), *self._queues, *self._capped)
        now, flat, seconds, queues, routes, tasks, seen, known, webhooks, about = reply
        counts = _Counts(flat, [str(most) for most in seconds], self._models, self._routes)
        ages = {
            name: max(0.0, (now - float(at)) / 1000)
            for name, at in zip(seen[::2], seen[1::2], strict=True)
        }
        memory, disk = map(_lines, about)
        return Figures(
            accepted=counts.of("accepted", models=0, keep=1),
            asked=counts.of("accepted", models=0, keep=1, weight=1),
            ended=counts.of("ended", models=0, routes=1, keep=5),
            calls=counts.of("calls", routes=0, keep=3),
            bought=counts.of(
                "calls", routes=0, keep=1, weight=3, where=(1, ("accepted", "received"))
            ),
            spent={
                labels: millionths / 1_000_000
                for labels, millionths in counts.of("spent", models=0, routes=1, keep=2).items()
            },
            webhook_tries=counts.of("webhook_tries", keep=1),
            leases_lost=counts.one("leases_lost"),
            announced_again=counts.one("announced_again"),
            task_times=counts.spreads("task", models=0),
            provider_times=counts.spreads("provider", routes=0),
            queues={
                queue: Backlog(waiting, taken, oldest / 1000)
                for queue, (waiting, taken, oldest) in zip(self._queues, queues, strict=True)
            },
            in_flight={r: sent for r, (sent, _) in zip(self._capped, routes, strict=True)},
            waiting={r: waits for r, (_, waits) in zip(self._capped, routes, strict=True)},
            open_tasks=tasks[0],
            due_tasks=tasks[1],
            sweep_lag=tasks[2] / 1000,
            workers={name: age for name, age in ages.items() if not name.startswith("sweep:")},
            sweeps={name: age for name, age in ages.items() if name.startswith("sweep:")},
            shut={n: shut for n, shut in shut_routes(now, known).items() if n in self._shuttable},
            paused={
                name: max(0, now - since) / 1000
                for name, since in paused_since(known).items()
                if name in self._shuttable
            },
            webhook_lanes=webhooks[0],
            webhooks_owed=webhooks[1],
            webhook_lag=webhooks[2] / 1000,
            memory=_number(memory.get("used_memory")),
            memory_limit=_number(memory.get("maxmemory")),
            writes_to_disk=_is_ok(disk.get("aof_last_write_status")),
        )


class _Counts:
    """The counts of Redis by name. Labels are given by their place."""

    def __init__(
        self,
        flat: Sequence[str],
        seconds: Sequence[str],
        models: frozenset[str],
        routes: frozenset[str],
    ) -> None:
        self._seconds = (*seconds, "+Inf")
        self._models = models
        self._routes = routes
        self._by_name: dict[str, list[tuple[list[str], int]]] = {}
        for field, count in zip(flat[::2], flat[1::2], strict=True):
            name, *labels = field.split("\t")
            self._by_name.setdefault(name, []).append((labels, int(count)))

    def one(self, name: str) -> int:
        return sum(count for _, count in self._by_name.get(name, ()))

    def of(
        self,
        name: str,
        *,
        keep: int,
        models: int | None = None,
        routes: int | None = None,
        weight: int | None = None,
        where: tuple[int, Sequence[str]] | None = None,
    ) -> dict[Labels, float]:
        """Sums by the first `keep` labels. `models` and `routes` say which of them are held to
        the catalog, `weight` the label that is a number and times which each counts, `where` which
        label has to be one of what."""
        sums: dict[Labels, float] = {}
        for labels, count in self._by_name.get(name, ()):
            if where is not None and labels[where[0]] not in where[1]:
                continue
            times = 1 if weight is None else int(labels[weight])
            kept = list(labels[:keep])
            if models is not None and kept[models] not in self._models:
                kept[models] = OTHER
            if routes is not None and kept[routes] and kept[routes] not in self._routes:
                kept[routes] = OTHER
            sums[tuple(kept)] = sums.get(tuple(kept), 0) + count * times
        return sums

    def spreads(
        self, name: str, *, models: int | None = None, routes: int | None = None
    ) -> dict[str, Spread]:
        parts: dict[str, dict[str, float]] = {}
        for (label, part), count in self.of(name, keep=2, models=models, routes=routes).items():
            parts.setdefault(label, {})[part] = count
        return {label: self._spread(found) for label, found in parts.items()}

    def _spread(self, parts: Mapping[str, float]) -> Spread:
        so_far, buckets = 0, []
        for most in self._seconds:
            so_far += int(parts.get(most, 0))
            buckets.append((most, so_far))
        return Spread(tuple(buckets), parts.get("ms", 0) / 1000)


def _lines(text: str) -> dict[str, str]:
    """What `INFO` says."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None else None


def _is_ok(text: str | None) -> bool | None:
    return text == "ok" if text is not None else None
