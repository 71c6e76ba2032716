"""A worker for as long as a test needs one: tasks end at once, most of them well."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

from common.queue import queue_for
from common.task import Claim, Failure, Result, StoredImage
from tests.api.conftest import Stack, picture

__all__ = ["end", "working"]

_QUEUES = [queue_for("openai"), queue_for("bfl")]
_PICTURE = picture()
_FAILURES = [
    Failure("content_policy_violation", "The prompt was refused."),
    Failure("upstream_error", "The provider broke.", retryable=True, billed="unknown"),
]


def end(stack: Stack, claim: Claim, failure: Failure | None = None) -> None:
    """Bring a claimed task to its end: with its pictures, or with a failure."""
    task = claim.task
    if failure is not None:
        stack.store.fail(task.id, task.generation, failure)
        return
    images = []
    for index in range(task.request.n):
        name = f"{task.id}/{index}.png"
        stack.storage.put(name, _PICTURE)
        images.append(StoredImage(name, "png", 64, 48, len(_PICTURE), "0" * 64))
    result = Result(tuple(images), provider="bfl", provider_model="flux-pro-1.1")
    stack.store.complete(task.id, task.generation, result)


@contextlib.contextmanager
def working(stack: Stack) -> Iterator[None]:
    """Let every task of `stack` end as soon as it is announced, one in five with a failure."""
    over = threading.Event()
    thread = threading.Thread(target=_work, args=(stack, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(20)


def _work(stack: Stack, over: threading.Event) -> None:
    ends = itertools.cycle([None] * 4 + _FAILURES[:1] + [None] * 4 + _FAILURES[1:])
    seen = 0.0
    while not over.is_set():
        if time.monotonic() - seen > 1:  # what /readyz looks at
            seen = time.monotonic()
            stack.store.renew("tests", {})
            stack.store.sweep("tests")
        announced: Any = stack.redis.brpop(_QUEUES, timeout=0.2)
        if announced is not None:
            task_id = json.loads(announced[1])["headers"]["id"]
            if (claim := stack.store.claim(task_id, "tests")) is not None:
                end(stack, claim, next(ends))
