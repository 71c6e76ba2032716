"""Keeps the leases of one worker process, all of them in one round trip."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from common.errors import StoreUnavailable
from common.logging import get_logger
from common.store import TaskStore
from common.task import Claim
from workers.cancels import Cancels

__all__ = ["Heartbeat"]

log = get_logger(__name__)

_RETRY_SECONDS = 1.0  # after Redis did not answer: a lease must not run out over one lost renewal


class Heartbeat:
    """Renews the leases of the claims that are held, three times per lease.

    A process that holds nothing still shows itself, so that readiness can tell a worker exists.
    What each renewal says of tasks that are to be cancelled is passed on to `cancels`.
    """

    def __init__(self, store: TaskStore, worker: str, cancels: Cancels) -> None:
        self._store = store
        self._worker = worker
        self._cancels = cancels
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to beat, in a thread that ends with the process."""
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; leases that are still held run out by themselves."""
        self._stop.set()

    @contextlib.contextmanager
    def holding(self, claim: Claim) -> Iterator[None]:
        """Keep the claim's lease for the length of the block."""
        with self._lock:
            self._held[claim.task.id] = claim.task.generation
        try:
            with self._cancels.holding(claim):
                yield
        finally:
            with self._lock:
                # A later claim of the same task may have taken the place in this very process.
                if self._held.get(claim.task.id) == claim.task.generation:
                    del self._held[claim.task.id]

    def _beat(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            with self._lock:
                held = dict(self._held)
            try:
                lost, to_cancel = self._store.renew(self._worker, held)
            except StoreUnavailable as error:
                log.warning("leases could not be renewed", held=len(held), reason=str(error))
                wait = _RETRY_SECONDS
                continue
            wait = self._store.lease / 3
            self._cancels.tell(to_cancel)
            with self._lock:
                for task_id in lost:
                    if self._held.get(task_id) == held[task_id]:
                        del self._held[task_id]
