"""How the models did lately, and which of their routes are shut."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from common.catalog import Model
from common.errors import StoreUnavailable
from common.logging import get_logger
from common.store import Outcomes, Shut, TaskStore, Why

__all__ = ["ENOUGH_SAMPLES", "RecentOutcomes"]

ENOUGH_SAMPLES = 5  # to say something of a model by what ended
_REMEMBER = 5.0  # seconds
# Waiting does not open these, or nobody knows when.
_FOR_GOOD = frozenset({"no_credit", "bad_key", "not_served", "paused"})

log = get_logger(__name__)


class RecentOutcomes:
    """How models did lately, counted every few seconds at most.

    While Redis is away the last count stands, and with none all models lack samples: the list of
    models is worth more than an error.
    """

    def __init__(self, store: TaskStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._looked = 0.0
        self._outcomes: dict[str, Outcomes] = {}
        self._shut: dict[str, Shut] = {}
        self.updated_at: int | None = None

    def of(self, model: Model) -> Outcomes:
        self._look()
        return self._outcomes.get(model.id, Outcomes())

    def is_usable(self, model: Model, providers: Collection[str]) -> bool:
        """Whether one of the model's routes is configured and its account not closed to us."""
        return any(why not in _FOR_GOOD for why in self._shut_routes(model, providers))

    def why_shut(self, model: Model, providers: Collection[str]) -> Why | None:
        """Why no route of the model takes a call at the moment; None when one does."""
        reasons = self._shut_routes(model, providers)
        return reasons[0] if reasons and all(reasons) else None

    def _shut_routes(self, model: Model, providers: Collection[str]) -> list[Why | None]:
        """Of each configured route why it is shut, or None."""
        self._look()
        return [
            next((self._shut[name].why for name in names if name in self._shut), None)
            for route in model.routes
            if route.provider in providers
            for names in [(f"model:{model.id}", route.provider, route.name)]
        ]

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked >= _REMEMBER:
            self._looked = now  # before asking: whoever comes meanwhile need not ask as well
            try:
                self._outcomes = self._store.outcomes()
                self._shut = self._store.routes()
                self.updated_at = int(now)
            except StoreUnavailable as error:
                log.warning("no recent outcomes", reason=str(error))
