"""Waiting for a task, with its progress in sight."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ops.client.screen import FINAL, Screen
from ops.client.server import HOLD, Server

__all__ = ["follow"]


def follow(
    server: Server,
    screen: Screen,
    task: dict[str, Any],
    given_up: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The task once it is over, or `given_up` says that nobody waits any more; shown on the way.

    Raises what the server raises.
    """
    screen.show(task)
    while task["status"] not in FINAL and not given_up():
        asked = time.monotonic()
        task = server.task(task["id"], held=True)
        screen.show(task)
        if task["status"] not in FINAL:  # a busy server may not hold the answer
            time.sleep(max(0.0, asked + HOLD - time.monotonic()))
    return task
