"""The story of a task as server-sent events, told from its record alone.

A record only moves forward. So what has happened, and the id of each event, follow from it: every
front end tells the same, and goes on behind whatever was told by another. Nothing is kept for it.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import orjson

from api.waiting import Waiting
from common.errors import StoreUnavailable
from common.logging import get_logger
from common.store import TaskStore
from common.task import Status, Task
from common.task_body import TaskBody

__all__ = ["EventStream", "last_event", "told_all"]

# The ids, in the order of what they stand for.
_PENDING = 0
_PROCESSING = 1  # and 1 + p for a progress of p percent
_ENDED = 102
_FIRST_IMAGE = 103
_DONE = 999

_ID = re.compile(r"[0-9]{1,3}", re.ASCII)

log = get_logger(__name__)


def last_event(text: str | None) -> int:
    """The event that a client names as the last it got; before all of them if it names none."""
    return int(text) if text is not None and _ID.fullmatch(text) else -1


def told_all(task: Task, after: int) -> bool:
    """Whether there is nothing to tell behind the event `after`, nor will be."""
    return task.status.final and after >= _DONE


class EventStream:
    """Tells of tasks.

    A silence is broken every `heartbeat` seconds, so that no proxy takes it for death. A stream
    ends after `longest` seconds, so that a key which is no longer valid learns nothing for ever.
    """

    def __init__(
        self,
        store: TaskStore,
        bodies: TaskBody,
        waiting: Waiting,
        *,
        heartbeat: float = 15,
        longest: float = 600,
        retry: float = 2,
    ) -> None:
        self._store = store
        self._bodies = bodies
        self._waiting = waiting
        self._heartbeat = heartbeat
        self._longest = longest
        self._retry = round(retry * 1000)

    def of(
        self, task_id: str, after: int, connection: socket.socket | None = None
    ) -> Iterator[bytes]:
        """What happens to a task behind the event `after`, as it happens.

        Ends with the task, and sooner when it is gone, the client goes, the process stops, the
        pictures cannot be read, or it has lasted long enough: a client then comes again.
        """
        began, told = time.monotonic(), 0
        try:
            yield b"retry: %d\n\n" % self._retry
            with self._waiting.hold(task_id, connection, _any_news, every_move=True) as held:
                task = self._store.read(task_id)
                while task is not None and not held.over:
                    news = [event for event in self._story(task) if event[0] > after]
                    if news:
                        yield b"".join(_event(number, name, data()) for number, name, data in news)
                        after = news[-1][0]
                        told += len(news)
                    if task.status.final:
                        return
                    while not held.wait(self._heartbeat):
                        if time.monotonic() > began + self._longest:
                            return
                        yield b":\n\n"
                    task = held.task
        except StoreUnavailable as error:
            log.warning("events cut off", task_id=task_id, reason=repr(error.__cause__))
        finally:
            seconds = round(time.monotonic() - began, 1)
            log.info("events", task_id=task_id, told=told, seconds=seconds)

    def _story(self, task: Task) -> Iterator[tuple[int, str, Callable[[], dict[str, Any]]]]:
        """All that has happened to a task: the number, name and data of each event."""
        yield _PENDING, "status", lambda: _status(task, Status.PENDING)
        if task.started is not None:
            yield _PROCESSING, "status", lambda: _status(task, Status.PROCESSING)
        if task.progress > 0 and task.status is not Status.FAILED:
            yield _PROCESSING + task.progress, "progress", lambda: _progress(task)
        if not task.status.final:
            return
        yield _ENDED, "status", lambda: _status(task, task.status)
        for index in range(len(task.result.images) if task.result else 0):
            yield _FIRST_IMAGE + index, "image", partial(self._image, task, index)
        yield _DONE, "done", lambda: self._bodies.any(task, linked=True)

    def _image(self, task: Task, index: int) -> dict[str, Any]:
        return {"task_id": task.id, "index": index} | self._bodies.image(task, index)


def _any_news(_: Task) -> bool:
    return True


def _status(task: Task, status: Status) -> dict[str, Any]:
    return {"task_id": task.id, "status": status}


def _progress(task: Task) -> dict[str, Any]:
    return {"task_id": task.id, "progress": task.progress}


def _event(number: int, name: str, data: dict[str, Any]) -> bytes:
    # JSON has no line breaks of its own, so that it is one line of data.
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, name.encode(), orjson.dumps(data))
