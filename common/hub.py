"""Ways past gevent's event loop, in the processes that have one."""

from __future__ import annotations

import contextlib
import importlib
import select
import socket
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

__all__ = ["Threads", "at_most", "give_way", "is_readable", "off_the_hub", "unpatched"]

T = TypeVar("T")

_TURN = 0.005  # seconds that gevent's loop may take for a turn before work is put off to the next
_MOMENT = 0.0005


def off_the_hub(action: Callable[[], T]) -> T:
    """Run `action`, in a real thread if this process runs on gevent, and return its result.

    A call into native code (image codecs, the object store) would hold the loop, and with it
    every other request, for its whole length.
    """
    if not _on_gevent():
        return action()
    from gevent import get_hub

    result: T = _result(get_hub().threadpool.apply(_outcome, (action,)))
    return result


class Threads:
    """`off_the_hub` with `most` real threads of its own, for what may stand still for long.

    All else that goes past the loop, the resolver of names included, shares few threads; were they
    taken, the whole process would wait.
    """

    def __init__(self, most: int, *, patience: float) -> None:
        self._most = most
        self._patience = patience
        self._pool: Any = None
        self._free: Any = None

    def run(self, action: Callable[[], T]) -> T:
        """The result of `action`. Raises TimeoutError when no thread gets free within `patience`
        seconds."""
        if not _on_gevent():
            return action()
        if self._pool is None:
            from gevent.lock import BoundedSemaphore
            from gevent.threadpool import ThreadPool

            self._pool = ThreadPool(self._most)
            # The pool itself would take one more. A semaphore of `threading` sends those that wait
            # back to the end of the line when somebody else was quicker, until some wait for ever.
            self._free = BoundedSemaphore(self._most)
        if not self._free.acquire(timeout=self._patience):
            raise TimeoutError("no thread got free in time")
        try:
            result: T = _result(self._pool.apply(_outcome, (action,)))
        finally:
            self._free.release()
        return result


def at_most(seconds: float) -> contextlib.AbstractContextManager[None]:
    """End the block with TimeoutError when it waits for longer, if this process runs on gevent.

    Elsewhere the time-outs of whatever it waits for have to do.
    """
    return _AtMost(seconds) if _on_gevent() else contextlib.nullcontext()


class _AtMost(contextlib.AbstractContextManager[None]):
    def __init__(self, seconds: float) -> None:
        from gevent import Timeout

        # gevent's own, which is no Exception, until it is out: a TimeoutError is caught on its way.
        self._limit = Timeout(max(seconds, 0.001))

    def __enter__(self) -> None:
        self._limit.start()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._limit.close()
        if error is self._limit:
            raise TimeoutError("waited for too long") from None


def give_way() -> None:
    """Let the others have the event loop, if it has not turned for long; elsewhere do nothing.

    For code that many greenlets come to in the same moment, each with a millisecond's work and
    nothing to wait for: they would keep everybody else waiting until the last of them is done.
    """
    if _on_gevent():
        _turns().wait()


class _Turns:
    """Puts off to a later turn of gevent's loop what does not fit into this one, in order."""

    def __init__(self, hub: Any) -> None:
        from gevent import sleep
        from gevent.lock import BoundedSemaphore

        self._sleep = sleep
        self._first = BoundedSemaphore(1)
        self._began = time.perf_counter()
        # Called once in each turn, right after the loop has looked for what has happened.
        self._watcher = hub.loop.check(ref=False)
        self._watcher.start(self._next)

    def wait(self) -> None:
        if not self._is_over():
            return
        with self._first:  # one alone looks for the next turn; the others would wake for nothing
            while self._is_over():
                self._sleep(_MOMENT)

    def _is_over(self) -> bool:
        return time.perf_counter() - self._began > _TURN

    def _next(self) -> None:
        self._began = time.perf_counter()


def _turns() -> _Turns:
    """Those of this thread's loop."""
    from gevent import get_hub

    hub: Any = get_hub()
    turns: _Turns | None = getattr(hub, "darkroom_turns", None)
    if turns is None:
        turns = hub.darkroom_turns = _Turns(hub)
    return turns


def is_readable(sock: socket.socket) -> bool:
    """Whether a socket has something to be read, or its end; asked without gevent's loop."""
    poller = unpatched("select", "poll")()
    poller.register(sock.fileno(), select.POLLIN)
    return bool(poller.poll(0))


@cache
def unpatched(module: str, name: str) -> Any:
    """A function of the standard library as it is without gevent: it knows no event loop.

    For what has to go on, or hold, when the loop does not.
    """
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(importlib.import_module(module), name)


def _outcome(action: Callable[[], T]) -> tuple[T, None] | tuple[None, Exception]:
    """What `action` returns or raises: gevent prints whatever leaves one of its threads by an
    exception, however well it is expected by who waits for it."""
    try:
        return action(), None
    except Exception as error:  # noqa: BLE001 - to be raised where it is waited for
        return None, error


def _result(outcome: Any) -> Any:
    value, error = outcome
    if error is not None:
        raise error
    return value


def _on_gevent() -> bool:
    # Looked up, not imported: a process without gevent must not pay for it.
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))
