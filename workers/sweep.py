"""The sweep: announces what is due, ends what is past its deadline, deletes old images.

It is what makes the system live: every task that waits, for a retry, for a worker that died, for
a message that was lost, waits in the due set and is found here. Any number of sweeps may run; a
record is never touched by two of them in a way that matters. It runs in a process of its own and
not as a Celery task, so that a full queue or a wedged worker cannot stop it.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable

from common.errors import StoreUnavailable
from common.logging import get_logger
from common.oversight import SAMPLE_SECONDS
from common.storage import ImageStorage
from common.store import TaskStore

__all__ = ["Sweeper"]

log = get_logger(__name__)

_BATCH = 500
_PURGE_SECONDS = 3600.0
# After Redis was away, workers that are alive get to renew their leases before anybody looks for
# dead ones: they retry every second.
_HEAD_START_SECONDS = 3.0


class Sweeper:
    """Looks for due tasks every `every` seconds until told to stop. `retention` is in seconds.

    `turned` is called before every look, also one that found Redis away, and `sample` every
    SAMPLE_SECONDS, to take down how things stand.
    """

    def __init__(
        self,
        store: TaskStore,
        storage: ImageStorage,
        *,
        name: str,
        every: float,
        retention: float,
        turned: Callable[[], None] = lambda: None,
        sample: Callable[[], object] = lambda: None,
    ) -> None:
        self._store = store
        self._storage = storage
        self._name = name
        self._every = every
        self._retention = retention
        self._turned = turned
        self._sample = sample

    def run(self, stop: threading.Event) -> None:
        """Sweep until `stop` is set."""
        purge_at = sample_at = time.monotonic()
        wait, away = 0.0, False
        while not stop.wait(wait):
            self._turned()
            try:
                if away:
                    self._store.health()
                    wait, away = max(self._every, _HEAD_START_SECONDS), False
                    continue
                self._sweep()
                wait = self._every
                if time.monotonic() >= sample_at:
                    sample_at = time.monotonic() + SAMPLE_SECONDS
                    self._sample()
                if time.monotonic() >= purge_at:
                    purge_at = time.monotonic() + _PURGE_SECONDS
                    # Beside the loop: to go through a large store takes minutes.
                    threading.Thread(target=self._purge, name="purge", daemon=True).start()
            except StoreUnavailable as error:
                log.warning("the sweep could not look", reason=str(error))
                wait, away = self._every, True

    def _sweep(self) -> None:
        while True:
            seen = self._store.sweep(self._name, limit=_BATCH)
            if seen.announced or seen.timed_out:
                log.info(
                    "swept",
                    due=seen.due,
                    announced=seen.announced,
                    timed_out=seen.timed_out,
                    lag_seconds=round(seen.lag, 3),
                )
            if seen.due < _BATCH:
                return

    def _purge(self) -> None:
        age = datetime.timedelta(seconds=self._retention)
        try:
            if deleted := self._storage.delete_older_than(age):
                log.info("old images deleted", images=deleted)
        except StoreUnavailable as error:
            log.warning("old images could not be deleted", reason=str(error))
