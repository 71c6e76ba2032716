"""What one task costs in calls to Redis: counted in commands, so that no timing decides."""

from __future__ import annotations

import json
import re
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.processes import until
from tests.stack import Stack


@contextmanager
def watching(stack: Stack) -> Iterator[list[str]]:
    """The commands that clients send to Redis meanwhile."""
    seen: list[str] = []
    ends = threading.Event()
    with stack.redis.monitor() as monitor:

        def listen() -> None:
            while not ends.is_set():
                command = monitor.next_command()
                if command["command"].startswith("PING") or command["client_type"] == "lua":
                    continue
                seen.append(command["command"])

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield seen
        finally:
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


_BODY = re.compile(r'"body": "([A-Za-z0-9+/=]+)"')


def events(command: str) -> list[dict[str, Any]]:
    """What a command publishes for Flower."""
    body = _BODY.search(command) if command.startswith("PUBLISH") else None
    told = [] if body is None else json.loads(b64decode(body[1]))
    return [event for event in told if "type" in event] if isinstance(told, list) else [told]


def test_an_inline_task_costs_the_worker_eight_round_trips(stack: Stack) -> None:
    """Four to the store, a look into the queues, and what is told to Flower."""
    stack.finished(stack.submit("so that the functions are known", "dall-e-2"))
    with watching(stack) as commands:
        task_id = stack.submit("counted", "dall-e-2")["id"]
        end = (task_id, "task-succeeded")
        until(
            lambda: any((e.get("uuid"), e.get("type")) == end for c in commands for e in events(c)),
            "the event of the end",
        )
    calls = [c for c in commands if c.startswith("FCALL") and task_id in c]
    to_the_store = [c for c in calls if " renew " not in c]
    published = [c for c in commands if any(e.get("uuid") == task_id for e in events(c))]

    assert len(to_the_store) == 5  # the submit's among them
    assert len(published) <= 2  # its begin and its end, with those of all others in that moment
