"""Ends a worker that lives and takes no work, so that its supervisor starts another.

A worker can hang in ways that neither its process number nor a ping shows: code that holds gevent's
loop, a pool whose threads are all stuck, a connection that is open on one side only, a consumer
that did not come back after an outage. So progress is what counts. A message that asks for nothing
goes through a queue of the worker's own every few seconds, and the worker's pool notes when it was
really worked off.

The watch itself is a thread of the operating system that touches no lock of the others: it goes on
when they do not. What would stop it as well, a frozen process or code that never gives up the
interpreter, is seen from outside (`common/liveness.py`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import redis
from celery.worker import WorkController
from kombu import Queue

from common.hub import unpatched
from common.liveness import Liveness
from common.logging import LogFormat, last_words
from common.queue import TURN, hint_template

__all__ = ["STALLED", "Watchdog"]

STALLED = 70  # the exit code of a worker that was ended for want of progress

_LOOKS = 30  # in the time that a worker may take for a turn
_FRAMES = 8  # of the main thread that are named at the end


class Watchdog:
    """Watches one worker process. `stall` is how many seconds without a turn are too many.

    Silence counts only where a turn could be expected. It does not while Redis is away or refuses
    writes, while the worker stops, or while every slot of the pool is taken by a generation that
    has time left: then the message waits for its turn like any other.
    """

    def __init__(
        self, client: redis.Redis, liveness: Liveness, *, worker: str, stall: float, fmt: LogFormat
    ) -> None:
        """`client` is for the watchdog alone, and gives up quickly. `stall` 0 is no watch."""
        self._redis = client
        self._liveness = liveness
        self._queue = f"turns.{worker}"
        self._worker = worker
        self._stall = stall
        self._format = fmt
        self._slots = 0
        self._main_thread = 0
        # Written by the pool, read by the watch: single steps of the interpreter, no locks.
        self._turned = 0.0
        self._pulsed = 0.0
        self._busy: dict[object, float] = {}
        self._stopping = threading.Event()

    def start(self, worker: WorkController) -> None:
        """Begin to watch the worker of this process, before it consumes."""
        if not self._stall:
            return
        worker.app.task(name=TURN, ignore_result=True, send_events=False)(self._turn)
        # Not declared: a list needs no declaration, and nobody would take the binding back.
        queue = Queue(self._queue, routing_key=self._queue, no_declare=True)
        worker.app.amqp.queues.select_add(queue)
        self._slots = worker.concurrency  # type: ignore[attr-defined]
        self._main_thread = unpatched("_thread", "get_ident")()
        self._turned = self._pulsed = time.monotonic()
        self._liveness.begin()
        threading.Thread(target=self._pulse, name="pulse", daemon=True).start()
        unpatched("_thread", "start_new_thread")(self._watch, ())

    def stop(self) -> None:
        """The worker stops, and takes nothing new: that takes as long as it takes."""
        self._stopping.set()

    @contextlib.contextmanager
    def busy(self, seconds: float) -> Iterator[None]:
        """A slot of the pool is taken for the length of the block, rightly for `seconds`."""
        token = object()
        self._busy[token] = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._busy[token]

    @property
    def _every(self) -> float:
        return self._stall / _LOOKS

    def _turn(self) -> None:
        self._turned = time.monotonic()

    def _pulse(self) -> None:
        """Under gevent a greenlet, which says whether the loop turns while no slot is free."""
        while not self._stopping.wait(self._every):
            self._pulsed = time.monotonic()

    def _watch(self) -> None:
        sleep = unpatched("time", "sleep")
        good = looked = time.monotonic()
        while True:
            sleep(self._every)
            self._liveness.show()
            before, looked = looked, time.monotonic()
            asked = self._ask()
            now = time.monotonic()
            # When even this thread did not get to run, the whole process was frozen or starved.
            starved = looked - before > self._stall / 2
            if starved or not asked or self._stopping.is_set():
                good = now
            elif self._is_full(now):
                good = max(good, self._pulsed)
            good = max(good, self._turned)
            if now - good > self._stall - self._every:
                self._end(now - good)

    def _ask(self) -> bool:
        """Put a message into the queue in place of the last; False when Redis does not take it."""
        now = time.time()
        message = hint_template(TURN)
        for name, value in {
            "@ID@": f"turn-{now:.3f}",
            "@TAG@": f"{now:.6f}",
            "@SUMMARY@": "",
            "@QUEUE@": self._queue,
        }.items():
            message = message.replace(name, value)
        try:
            with self._redis.pipeline() as pipe:
                pipe.lpush(self._queue, message)
                pipe.ltrim(self._queue, 0, 0)
                pipe.pexpire(self._queue, round(2000 * self._stall))
                pipe.execute()
        except redis.RedisError:
            return False
        return True

    def _is_full(self, now: float) -> bool:
        """Whether no slot is free, and at least one is rightly taken and will be."""
        ends = list(self._busy.values())
        return len(ends) >= self._slots and max(ends) > now

    def _end(self, silence: float) -> None:
        # Whoever hangs may hold the locks of logging, or of the interpreter's own shutdown.
        last_words(
            self._format,
            __name__,
            "this worker took no work although there was some, and is ended",
            worker=self._worker,
            silent_seconds=round(silence, 1),
            busy=len(self._busy),
            slots=self._slots,
            main_thread=_where_is(self._main_thread),
        )
        os._exit(STALLED)


def _where_is(thread: int) -> str:
    """The innermost lines that a thread is at, without what their variables hold."""
    frame: Any = sys._current_frames().get(thread)
    lines: list[str] = []
    while frame is not None and len(lines) < _FRAMES:
        lines.append(f"{frame.f_globals.get('__name__')}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines)
