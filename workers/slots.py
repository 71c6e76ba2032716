"""Has a worker whose slots were all taken look again soon after one of them is free.

Celery asks for a message only when its loop turns, and it turns when something arrives, or after
one to four seconds. A task that ends in a thread or a greenlet is nothing that arrives: a full
worker with a provider of half a second stood idle for half of its time.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps, signals
from celery.worker import state

__all__ = ["LOOK_SECONDS", "FreeSlots"]

LOOK_SECONDS = 0.25
"""For a loop that waits in `drain_events`, under gevent: each time it comes back for nothing, kombu
also looks for messages that were never acknowledged, in every tenth with a call to Redis."""

_TURN_SECONDS = 0.05  # for kombu's own loop, on threads


class FreeSlots(bootsteps.StartStopStep):
    """Has kombu's loop turn twenty times a second while all slots are taken, on threads."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._consumer = consumer
        self._next: Any = None

    def start(self, consumer: Any) -> None:
        if consumer.hub is not None:
            signals.task_received.connect(self._received, weak=False)
            self._look()

    def stop(self, consumer: Any) -> None:
        signals.task_received.disconnect(self._received)
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _received(self, **_: Any) -> None:
        # Celery counts it among those that have slots just after this.
        if self._next is None and self._are_taken(but=1):
            self._look_later()

    def _look(self) -> None:
        """The loop turns for this, and by itself asks for a message if a slot is free."""
        self._next = None
        if self._are_taken():
            self._look_later()

    def _look_later(self) -> None:
        self._next = self._consumer.hub.call_later(_TURN_SECONDS, self._look)

    def _are_taken(self, but: int = 0) -> bool:
        slots: int = self._consumer.pool.num_processes
        return len(state.reserved_requests) + but >= slots
