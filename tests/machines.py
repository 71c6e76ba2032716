"""How state machines of Hypothesis are run here: the same way each time, and not for longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

__all__ = ["try_orders"]


def try_orders(
    machine: Callable[[], RuleBasedStateMachine], *, examples: int, steps: int = 30
) -> None:
    """Try so many orders of events, each of at most so many steps."""
    maker: Any = machine  # Hypothesis' types want a class; any maker will do
    run_state_machine_as_test(
        maker,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=[Phase.generate],  # shrinking would outlast the test's own timeout
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
