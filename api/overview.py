"""How the fleet stands, as JSON for operators: from the numbers of /metrics, by name."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

from common.catalog import Catalog, Model
from common.fleet import Figures
from common.oversight import Holding, Point

__all__ = ["history", "overview"]


def overview(
    of: Figures,
    holdings: Iterable[Holding],
    catalog: Catalog,
    providers: Collection[str],
    *,
    alive: float,
) -> dict[str, Any]:
    """The body of `/v1/admin/overview`. `providers` are those that are configured; a process that
    was seen within `alive` seconds is there."""
    queues = of.queues.values()
    return {
        "object": "admin.overview",
        "tasks": {
            "open": of.open_tasks,
            "waiting": sum(queue.waiting for queue in queues),
            "taken": sum(queue.taken for queue in queues),
            "due": of.due_tasks,
            "oldest_waiting_seconds": max((queue.oldest for queue in queues), default=0.0),
            "sweep_lag_seconds": of.sweep_lag,
        },
        "queues": [
            {
                "queue": name,
                "waiting": queue.waiting,
                "taken": queue.taken,
                "oldest_waiting_seconds": queue.oldest,
            }
            for name, queue in of.queues.items()
            if queue.waiting or queue.taken or name.partition(".")[2] in providers
        ],
        "processes": _processes(of, list(holdings), alive),
        "accounts": [
            {"provider": name, "configured": name in providers} | _state(of, name)
            for name in sorted(catalog.providers())
        ],
        "routes": _routes(of, catalog, providers),
        "models": [
            {
                "model": model.id,
                "routes": list(dict.fromkeys(route.name for route in model.routes)),
                "paused_seconds": of.paused.get(f"model:{model.id}"),
            }
            for model in catalog
        ],
        "webhooks": {"owed": of.webhooks_owed, "lag_seconds": of.webhook_lag},
        "redis": {
            "memory_bytes": of.memory,
            "memory_limit_bytes": of.memory_limit,
            "writes_to_disk": of.writes_to_disk,
        },
    }


def history(points: Iterable[Point]) -> dict[str, Any]:
    """The body of `/v1/admin/history`."""
    data = [
        {
            "at": point.at,
            "waiting": point.waiting,
            "taken": point.taken,
            "completed_per_minute": point.completed,
            "failed_per_minute": point.failed,
            "p50_seconds": point.p50,
            "p95_seconds": point.p95,
        }
        for point in points
    ]
    return {"object": "admin.history", "data": data}


def _processes(of: Figures, holdings: list[Holding], alive: float) -> list[dict[str, Any]]:
    """Those seen lately, and such as still hold tasks."""
    kinds = {"worker": of.workers, "sweep": of.sweeps}
    return [
        {
            "name": name.removeprefix("sweep:"),
            "kind": kind,
            "alive": age <= alive,
            "seen_seconds": age,
            "holds": [
                {"model": held.model, "tasks": held.tasks, "oldest_seconds": held.oldest}
                for held in holdings
                if held.worker == name
            ],
        }
        for kind, ages in kinds.items()
        for name, age in sorted(ages.items(), key=lambda seen: (seen[1] > alive, seen[0]))
    ]


def _routes(of: Figures, catalog: Catalog, providers: Collection[str]) -> list[dict[str, Any]]:
    serving: dict[str, list[Model]] = {}
    by_name = {route.name: route for model in catalog for route in model.routes}
    for model in catalog:
        for name in dict.fromkeys(route.name for route in model.routes):
            serving.setdefault(name, []).append(model)
    return [
        {
            "route": name,
            "provider": route.provider,
            "models": [model.id for model in serving[name]],
            "configured": route.provider in providers,
            "cap": route.cap or None,
            "in_flight": of.in_flight.get(name),
            "waiting": of.waiting.get(name),
        }
        | _state(of, name)
        for name, route in sorted(by_name.items())
    ]


def _state(of: Figures, name: str) -> dict[str, Any]:
    shut, paused = of.shut.get(name), of.paused.get(name)
    state = "open" if shut is None else "shut" if paused is None else "paused"
    return {
        "state": state,
        "reason": None if shut is None else shut.why,
        "opens_in_seconds": shut.wait if shut is not None and math.isfinite(shut.wait) else None,
        "paused_seconds": paused,
    }
