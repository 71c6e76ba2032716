"""Which of the tasks that this process holds are to be cancelled.

The store publishes the id of a task when its owner asks for it, and one subscription per process
hears it at once. What it does not hear, because its connection was lost, the heartbeat tells.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator

import redis

from common.logging import get_logger
from common.store import CANCEL_CHANNEL
from common.task import Claim

__all__ = ["Cancels"]

_RECONNECT = 0.5  # seconds

log = get_logger(__name__)


class Cancels:
    """One instance serves all threads of a worker. `client` needs one connection of its own."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._asked: set[str] = set()
        self._over = threading.Event()

    def start(self) -> None:
        """Begin to listen, in a thread that ends with the process."""
        threading.Thread(target=self._listen, name="cancels", daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        self._over.set()

    @contextlib.contextmanager
    def holding(self, claim: Claim) -> Iterator[None]:
        """Hear of the claim's task for the length of the block."""
        task_id = claim.task.id
        with self._lock:
            self._held.add(task_id)
            if claim.task.cancellation == "requested":
                self._asked.add(task_id)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(task_id)
                self._asked.discard(task_id)

    def tell(self, task_ids: Iterable[str]) -> None:
        """Say that these tasks are to be cancelled; those that are not held here are no matter."""
        with self._lock:
            self._asked |= self._held.intersection(task_ids)

    def asked(self, task_id: str) -> bool:
        """Whether the task is to be cancelled."""
        return task_id in self._asked

    def forget(self, task_id: str) -> None:
        """The task was found not to be cancellable. It may be asked for again."""
        with self._lock:
            self._asked.discard(task_id)

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                with self._redis.pubsub(ignore_subscribe_messages=True) as heard:  # type: ignore[no-untyped-call]
                    heard.subscribe(CANCEL_CHANNEL)
                    while not self._over.is_set():
                        message = heard.get_message(timeout=1)
                        if message is not None:
                            self.tell([message["data"]])
            except redis.RedisError as error:
                log.warning("subscription lost", reason=repr(error))
                self._over.wait(_RECONNECT)
