"""What Celery tells Flower of tasks, a few times a second and not with each step.

A publication costs a worker more than a call to the store, and how much it tells makes little
difference. Celery gathers events only until its loop turns, which it does at once, and under
gevent not at all.
"""

from __future__ import annotations

import threading
from typing import Any

from celery import bootsteps
from celery.app.events import Events
from celery.events import EventDispatcher

__all__ = ["GatheredEvents", "LastEvents"]

_SECONDS = 0.25  # that an event is kept for, so that others can go with it
_MOST = 200  # events in one publication: about 100 kB


class Gathering(EventDispatcher):
    """Publishes the events of tasks together. Each says itself when it was."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._kept = threading.Event()
        self._over = threading.Event()
        self._teller: threading.Thread | None = None
        gather = {
            "buffer_group": frozenset({"task"}),
            "buffer_limit": _MOST,
            "on_send_buffered": self._kept.set,
        }
        super().__init__(*args, **options | gather)

    def enable(self) -> None:
        """Begin to publish, in a thread that ends with the dispatcher."""
        super().enable()
        if self._teller is None:
            self._teller = threading.Thread(target=self._tell, name="events", daemon=True)
            self._teller.start()

    def close(self) -> None:
        self._over.set()
        self._kept.set()
        super().close()

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over what another one, whose connection broke, could not tell."""
        super().extend_buffer(other)
        kept: Any = self
        for group, events in vars(other)["_group_buffer"].items():
            kept._group_buffer[group] += events

    def _tell(self) -> None:
        while not self._over.is_set():
            self._kept.wait()
            self._over.wait(_SECONDS)
            self._kept.clear()
            self.flush()


class GatheredEvents(Events):
    """`app.events`, with the dispatcher above."""

    dispatcher_cls = f"{__name__}:{Gathering.__name__}"


class LastEvents(bootsteps.StartStopStep):
    """Tells what is still kept when a worker stops, before the connection for it is closed."""

    requires = ("celery.worker.consumer.events:Events",)

    def shutdown(self, consumer: Any) -> None:
        """All tasks have ended; Celery shuts the later steps down first, and this one is later."""
        if consumer.event_dispatcher is not None:
            consumer.event_dispatcher.flush()
