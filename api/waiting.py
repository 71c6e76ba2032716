"""Waiting for tasks to end, without asking Redis over and over.

The store publishes the id of every task that ends. One subscription per process, started by the
first waiter, hears them all and wakes whoever waits.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

import redis

from common.connection import allow_redis
from common.logging import get_logger
from common.store import ENDED_CHANNEL, TaskStore
from common.task import Task

__all__ = ["REDIS_SECONDS", "Waiting"]

# What a request may spend on Redis before it is answered with 503, and anew each time that it has
# waited for its task.
REDIS_SECONDS = 1.6

# A connection can die without a sign, so that nothing is heard any more: each waiter looks by
# itself this often, in seconds.
_LOOK_AGAIN = 8.0

_RECONNECT = 0.5  # seconds

log = get_logger(__name__)


class Waiting:
    """Holds requests until their task is final. `client` needs one connection of its own."""

    def __init__(self, client: redis.Redis, store: TaskStore) -> None:
        self._redis = client
        self._store = store
        self._lock = threading.Lock()
        self._waiters: dict[str, set[threading.Event]] = {}
        self._listening = False
        self._released = False

    def until_final(self, task_id: str, seconds: float) -> Task | None:
        """The task once it is final, or as it is after `seconds`; None when it is gone.

        Raises StoreUnavailable when it cannot be read.
        """
        return self.until(task_id, seconds, lambda task: task.status.final)

    def until(self, task_id: str, seconds: float, enough: Callable[[Task], bool]) -> Task | None:
        """The same for a task that is `enough`, if that is something the store publishes."""
        deadline = time.monotonic() + seconds
        with self._waiter(task_id) as woken:
            while True:
                # Cleared before the read: an end after it sets the event again and is not missed.
                woken.clear()
                allow_redis(REDIS_SECONDS)  # however long the request has been held
                task = self._store.read(task_id)
                left = deadline - time.monotonic()
                if task is None or enough(task) or left <= 0 or self._released:
                    return task
                woken.wait(min(left, _LOOK_AGAIN * random.uniform(0.8, 1.2)))  # noqa: S311

    def release(self) -> None:
        """Let everybody go with what is known: this process is about to stop."""
        self._released = True
        self._wake_all()

    @contextlib.contextmanager
    def _waiter(self, task_id: str) -> Iterator[threading.Event]:
        woken = threading.Event()
        with self._lock:
            self._waiters.setdefault(task_id, set()).add(woken)
            if not self._listening:
                self._listening = True
                threading.Thread(target=self._listen, name="task-ends", daemon=True).start()
        try:
            yield woken
        finally:
            with self._lock:
                waiters = self._waiters[task_id]
                waiters.discard(woken)
                if not waiters:
                    del self._waiters[task_id]

    def _listen(self) -> None:
        while True:
            try:
                with self._redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(ENDED_CHANNEL)
                    while True:
                        self._hear(subscription.get_message(timeout=5))
            except redis.RedisError as error:
                log.warning("subscription lost", reason=repr(error))
                time.sleep(_RECONNECT)

    def _hear(self, message: dict[str, str] | None) -> None:
        if message is None:
            return
        if message["type"] == "message":
            with self._lock:
                waiters = tuple(self._waiters.get(message["data"], ()))
            for woken in waiters:
                woken.set()
        elif message["type"] == "subscribe":
            self._wake_all()  # whatever ended before we listened was not heard

    def _wake_all(self) -> None:
        with self._lock:
            everybody = [woken for waiters in self._waiters.values() for woken in waiters]
        for woken in everybody:
            woken.set()
