"""Has a worker whose slots were all taken look again soon after one of them is free.

Celery asks for a message only when its loop turns, and it turns when something arrives, or after
one to four seconds. A task that ends in a thread or a greenlet is nothing that arrives: a full
worker with a provider of half a second stood idle for half of its time.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps

__all__ = ["LOOK_SECONDS", "FreeSlots"]

LOOK_SECONDS = 0.25
"""For a loop that waits in `drain_events`, under gevent: each time it comes back for nothing, kombu
also looks for messages that were never acknowledged, in every tenth with a call to Redis."""

_TURN_SECONDS = 0.05  # for kombu's own loop, on threads: a turn costs less than 100 µs


class FreeSlots(bootsteps.StartStopStep):
    """Has kombu's loop turn twenty times a second, on threads."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._turns: Any = None

    def start(self, consumer: Any) -> None:
        if consumer.hub is not None:
            self._turns = consumer.hub.call_repeatedly(_TURN_SECONDS, _look)

    def stop(self, consumer: Any) -> None:
        if self._turns is not None:
            self._turns.cancel()
            self._turns = None


def _look() -> None:
    """The loop looks by itself, whenever it turns."""
