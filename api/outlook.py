"""What a task that is not over has before it: its place in the queue, the time it will take, and
what stands in its way. What is not known is left out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from typing import Any

from api.recent import ENOUGH_SAMPLES, RecentOutcomes
from common.catalog import Catalog
from common.task import Status, Task

__all__ = ["Outlook"]

_LONGEST_RETRY = 30  # seconds


class Outlook:
    """Measures by what ended lately. `clock` gives Unix seconds."""

    def __init__(
        self,
        catalog: Catalog,
        providers: Collection[str],
        outcomes: RecentOutcomes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalog = catalog
        self._providers = providers
        self._outcomes = outcomes
        self._clock = clock

    def of(self, task: Task) -> dict[str, Any]:
        """`queue_position`, `eta_seconds` and `blocked_reason` of a task, as far as they are
        known; nothing for one that is over."""
        if task.status.final:
            return {}
        eta = self._eta(task)
        known = {
            "queue_position": task.queue_position,
            "eta_seconds": None if eta is None else math.ceil(eta),
            "blocked_reason": self._blocked(task),
        }
        return {name: value for name, value in known.items() if value is not None}

    def retry_after(self, model_id: str, task: Task | None = None) -> int:
        """Seconds after which asking again makes sense."""
        eta = None if task is None else self._eta(task)
        if eta is not None:
            return max(1, min(_LONGEST_RETRY, round(eta / 4)))
        model = self._catalog.get(model_id)
        return 2 if model is None else max(1, min(5, round(model.typical_seconds / 4)))

    def _eta(self, task: Task) -> float | None:
        model = self._catalog.get(task.request.model)
        if model is None:
            return None
        seen = self._outcomes.of(model)
        if seen.mean_run is None or seen.succeeded < ENOUGH_SAMPLES:
            return None
        if task.status is Status.PENDING:
            return None if task.begins_in is None else task.begins_in + seen.mean_run
        if task.started is None or task.blocked is not None:
            return None
        left = task.started / 1000 + seen.mean_run - self._clock()
        return left if left > 0 else None  # it takes longer than others: nobody knows how long

    def _blocked(self, task: Task) -> str | None:
        if task.status is Status.PROCESSING:
            return task.blocked
        model = self._catalog.get(task.request.model)
        return None if model is None else self._outcomes.why_shut(model, self._providers)
