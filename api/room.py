"""Whether there is room for new work. Accepted work is finished in what is kept back for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import redis

from api.errors import ApiError
from common.connection import store_errors
from common.logging import get_logger
from common.storage import ImageStorage

__all__ = ["Lack", "Room"]

Lack = Literal["memory", "disk"]

_MOST_MEMORY = (
    0.75  # of Redis' maxmemory; tasks grow until they end, and a queue of hints with them
)
_REMEMBER = 1.0  # seconds
_COME_BACK = 10  # seconds

log = get_logger(__name__)


class Room:
    """Looks at most once a second, so that a submit seldom costs more than its one round trip.

    `reserve`: bytes that have to be free where the pictures go, if that is a directory.
    """

    def __init__(
        self,
        client: redis.Redis,
        storage: ImageStorage,
        *,
        reserve: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = client
        self._storage = storage
        self._reserve = reserve
        self._clock = clock
        self._looked = -_REMEMBER
        self._lacks: list[Lack] = []

    def lacks(self) -> list[Lack]:
        """What there is not enough of. Raises StoreUnavailable when Redis does not say."""
        now = self._clock()
        if now - self._looked >= _REMEMBER:
            self._looked = now  # before asking: whoever comes meanwhile need not ask as well
            lacks: list[Lack] = ["memory"] if self._is_memory_short() else []
            if not self._storage.has_room(self._reserve):
                lacks.append("disk")
            if lacks != self._lacks:
                log.warning("room for new tasks", lacks=lacks)
            self._lacks = lacks
        return self._lacks

    def require(self) -> None:
        """Refuse a new task for which there is no room. Raises ApiError and StoreUnavailable."""
        if self.lacks():
            raise ApiError(
                "service_unavailable",
                "There is no room for new tasks at the moment. Those that were accepted are not "
                "affected.",
                retry_after=_COME_BACK,
                retryable=True,
            )

    def _is_memory_short(self) -> bool:
        with store_errors():
            try:
                memory: Any = self._redis.info("memory")
            except redis.ResponseError:  # a hosted Redis may keep this to itself
                return False
        # What replicas are owed does not count towards the limit.
        used = memory.get("used_memory", 0) - memory.get("mem_not_counted_for_evict", 0)
        limit = memory.get("maxmemory", 0)
        return bool(limit) and used > _MOST_MEMORY * limit
