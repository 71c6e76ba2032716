"""What one task costs in calls to Redis: counted in commands, so that no timing decides."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.processes import until
from tests.stack import Stack


@contextmanager
def watching(stack: Stack) -> Iterator[list[str]]:
    """The commands that Redis gets meanwhile."""
    seen: list[str] = []
    ends = threading.Event()
    with stack.redis.monitor() as monitor:

        def listen() -> None:
            while not ends.is_set():
                command = monitor.next_command()
                if command["command"].startswith("PING"):
                    continue
                seen.append(command["command"])

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        yield seen
        ends.set()
        stack.redis.ping()
        listener.join(10)


def operations(stack: Stack, model: str) -> list[str]:
    """What is called on the record of one task from its submit to its end, in order.

    Progress is written as often as the provider tells it, and leases are renewed by the clock.
    """
    stack.finished(stack.submit("so that the script is known", model))
    with watching(stack) as commands:
        task = stack.submit("counted", model)
        until(lambda: any(f"finish {task['id']}" in call for call in commands), "the end")
    calls = [c for c in commands if c.startswith("FCALL") and task["id"] in c]
    calls = [c for c in calls if " renew " not in c and not (" step " in c and " progress " in c)]
    return [c[: c.index(f" {task['id']}")].rpartition(" ")[2] for c in calls]


@pytest.mark.parametrize("model", ["dall-e-2", "flux-pro"])
def test_a_task_costs_five_calls_to_the_store(stack: Stack, model: str) -> None:
    """Beside what kombu needs. `begin` announces the call, `step` says what was answered."""
    assert operations(stack, model) == ["create", "claim", "begin", "step", "finish"]
