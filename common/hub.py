"""Ways past gevent's event loop, in the processes that have one."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

__all__ = ["Threads", "at_most", "off_the_hub", "unpatched"]

T = TypeVar("T")


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
        self._free = threading.BoundedSemaphore(most)  # the pool itself would take one more
        self._pool: Any = None

    def run(self, action: Callable[[], T]) -> T:
        """The result of `action`. Raises TimeoutError when no thread gets free within `patience`
        seconds."""
        if not _on_gevent():
            return action()
        if self._pool is None:
            from gevent.threadpool import ThreadPool

            self._pool = ThreadPool(self._most)
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
