"""The runs by their letters: what each of them breaks, and by what it is judged."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos.bench import Bench
from tests.chaos.runs.adversity import surroundings_fail
from tests.chaos.runs.processes import (
    front_ends_and_workers_are_replaced,
    messages_vanish_with_their_worker,
    workers_are_frozen_and_thawed,
    workers_are_killed,
)
from tests.chaos.runs.providers import providers_fail
from tests.chaos.runs.redis import redis_breaks_under_load, redis_does_not_answer

__all__ = ["RUNS"]

RUNS: dict[str, Callable[[Bench], None]] = {
    "A": workers_are_killed,
    "B": redis_breaks_under_load,
    "C": messages_vanish_with_their_worker,
    "D": workers_are_frozen_and_thawed,
    "E": front_ends_and_workers_are_replaced,
    "F": redis_does_not_answer,
    "G": providers_fail,
    "H": surroundings_fail,
}
"""Each breaks the system in one way; its docstring says how, its checks what must come of it."""
