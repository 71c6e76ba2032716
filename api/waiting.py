"""Requests that are held until something becomes of their task, without polling Redis.

The store publishes the id of each task that ends, and of each that has come further. A process
subscribes to the former while it holds requests, to the latter while some of them want to hear of
it. What was heard of is read for all of them together.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import redis

from api.departures import Departures
from common.connection import allow_redis
from common.errors import StoreUnavailable
from common.logging import get_logger
from common.store import ENDED_CHANNEL, MOVED_CHANNEL, TaskStore
from common.task import Task

__all__ = ["REDIS_SECONDS", "Held", "Waiting"]

# What a request may spend on Redis before it is answered with 503, and anew each time that it has
# waited for its task.
REDIS_SECONDS = 1.6

_AT_ONCE = 100  # records per round trip: the first are answered while the next are read
_QUIET = 2.0  # seconds without a message after which a subscription is asked whether it lives
_RECONNECT = 0.5  # seconds

log = get_logger(__name__)


class Held:
    """A request that is held for the news of one task."""

    __slots__ = ("_enough", "_news", "over", "task")

    def __init__(self, enough: Callable[[Task], bool]) -> None:
        self._enough = enough
        self.task: Task | None = None  # as the last news had it; None when it is gone
        self.over = False  # its client has gone, or the process is about to stop
        self._news = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Wait for news, at most so long. Whether there are any, `over` among them."""
        heard = self._news.wait(seconds)
        if heard:  # else news may come just now, and are for the next wait
            self._news.clear()
        return heard

    def tell(self, task: Task | None) -> None:
        if task is None or self._enough(task):
            self.task = task
            self._news.set()

    def end(self) -> None:
        self.over = True
        self._news.set()


class Waiting:
    """Holds requests, `most` at a time: the other connections are for polls.

    `client` needs four connections of its own; `report` is told of each request that begins to be
    held, 1, and of its end, -1. A subscription outlasts its last listener by `linger` seconds.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        most: int = 6000,
        linger: float = 5,
        report: Callable[[int], object] = lambda change: None,
    ) -> None:
        self._store = TaskStore(client)
        self._most = most
        self._report = report
        self._departures = Departures()
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._held: dict[str, set[Held]] = {}
        self._count = 0
        self._released = False
        self._ends = _Subscription(client, ENDED_CHANNEL, self._look_at, linger)
        self._moves = _Subscription(client, MOVED_CHANNEL, self._look_at, linger)

    @property
    def held(self) -> int:
        """How many requests are held."""
        return self._count

    @property
    def full(self) -> bool:
        """Whether no more are held for now."""
        return self._count >= self._most

    def until_final(
        self,
        task_id: str,
        seconds: float,
        read: Callable[[], Task | None],
        connection: socket.socket | None = None,
    ) -> Task | None:
        """The task once it is final; as it is after `seconds`, or sooner when the request cannot be
        held, its client goes or the process stops; None when the task is gone.

        `read` reads it, in one round trip. Raises what that raises.
        """
        return self.until(task_id, seconds, _is_final, read, connection)

    def until(
        self,
        task_id: str,
        seconds: float,
        enough: Callable[[Task], bool],
        read: Callable[[], Task | None],
        connection: socket.socket | None = None,
    ) -> Task | None:
        """The same for a task that is `enough`, if the store publishes that as it does an end."""
        deadline = time.monotonic() + seconds
        with self.hold(task_id, connection, enough) as held:
            task = read()  # now that its end would be heard
            if task is None or enough(task) or held.over:
                return task
            while not held.over and (left := deadline - time.monotonic()) > 0:
                if held.wait(left) and not held.over:
                    return held.task
        allow_redis(REDIS_SECONDS)  # however long the request was held
        return read()

    @contextlib.contextmanager
    def hold(
        self,
        task_id: str,
        connection: socket.socket | None,
        enough: Callable[[Task], bool],
        *,
        every_move: bool = False,
    ) -> Iterator[Held]:
        """Hear in the block when the task has ended, and with `every_move` whenever it has come
        further, if the task is `enough` then.

        News come as the record was after them; several may come as one. Whatever happened before
        the block is not told. `connection` is the client's.
        """
        held = Held(enough)
        with self._lock:
            held.over = self._released or self.full
            self._count += 1
            self._held.setdefault(task_id, set()).add(held)
        self._report(1)
        try:
            with (
                self._ends.listened_to(),
                self._moves.listened_to() if every_move else contextlib.nullcontext(),
                self._departures.watched(connection, held.end),
            ):
                yield held
        finally:
            self._report(-1)
            with self._lock:
                self._count -= 1
                same = self._held[task_id]
                same.discard(held)
                if not same:
                    del self._held[task_id]

    def release(self) -> None:
        """Let everybody go with what is known: this process is about to stop."""
        for subscription in (self._ends, self._moves):
            subscription.stop()
        with self._lock:
            self._released = True
            everybody = [held for same in self._held.values() for held in same]
        for held in everybody:
            held.end()

    def _look_at(self, task_ids: Iterable[str] | None) -> None:
        """Read tasks, all that requests are held for if None, and tell those who wait for them."""
        with self._looking:  # or news could be overtaken by older ones
            with self._lock:
                wanted = [
                    i for i in (self._held if task_ids is None else task_ids) if i in self._held
                ]
            for first in range(0, len(wanted), _AT_ONCE):
                some = wanted[first : first + _AT_ONCE]
                allow_redis(REDIS_SECONDS)
                for task_id, task in zip(some, self._store.read_many(some), strict=True):
                    self._tell(task_id, task)

    def _tell(self, task_id: str, task: Task | None) -> None:
        with self._lock:
            told = tuple(self._held.get(task_id, ()))
        for held in told:
            held.tell(task)


class _Subscription:
    """Hears one channel while somebody listens, and has `look_at` look at the tasks named there.

    After it begins, and whenever it was broken, at all of them (None): what was published before
    it was not heard.
    """

    def __init__(
        self,
        client: redis.Redis,
        channel: str,
        look_at: Callable[[Iterable[str] | None], None],
        linger: float,
    ) -> None:
        self._redis = client
        self._channel = channel
        self._look_at = look_at
        self._linger = linger
        self._lock = threading.Lock()
        self._listeners = 0
        self._left = 0.0  # when the last listener did
        self._running = False
        self._stopped = False

    @contextlib.contextmanager
    def listened_to(self) -> Iterator[None]:
        with self._lock:
            self._listeners += 1
            if not (self._running or self._stopped):
                self._running = True
                threading.Thread(target=self._run, name=self._channel, daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._listeners -= 1
                self._left = time.monotonic()

    def stop(self) -> None:
        """Hear no more, from a few seconds on at the latest."""
        with self._lock:
            self._stopped = True

    def _run(self) -> None:
        while True:
            try:
                with self._redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(self._channel)
                    self._listen(subscription)
                    return
            except (redis.RedisError, StoreUnavailable) as error:
                log.warning("subscription lost", channel=self._channel, reason=repr(error))
                time.sleep(_RECONNECT)
            if not self._wanted():
                return

    def _wanted(self) -> bool:
        """Whether to go on. Once it says no, somebody else may have begun."""
        with self._lock:
            wanted = self._listeners > 0 or time.monotonic() - self._left < self._linger
            self._running = wanted and not self._stopped
            return self._running

    def _listen(self, subscription: redis.client.PubSub) -> None:
        asked = False
        while self._wanted():
            message = subscription.get_message(timeout=_QUIET)
            if message is None and asked:
                raise redis.ConnectionError("no answer")
            # A connection can die without a sign, and then nothing would be heard any more.
            if asked := message is None:
                subscription.ping()
            named: dict[str, None] = {}  # in their order
            while message is not None:
                if message["type"] == "subscribe":
                    self._look_at(None)
                elif message["type"] == "message":
                    named[message["data"]] = None
                message = subscription.get_message() if len(named) < _AT_ONCE else None
            self._look_at(named)


def _is_final(task: Task) -> bool:
    return task.status.final
