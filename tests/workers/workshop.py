"""A runner at work: over a real store and a real directory, with providers made by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from common.errors import GenerationFailed
from common.pictures import ImageLimits
from common.storage import ImageStorage
from common.store import TaskStore
from common.task import Call, CallState, Claim, Failure, Result, Task
from tests.common.tasks import claim, create, record_key
from tests.valkey import Valkey
from tests.workers.plain import CATALOG, REQUEST, Plain
from workers.cancels import Cancels
from workers.courier import Courier, Patience
from workers.providers.base import Job
from workers.runner import Runner

JOB = Job("job-1", {"url": "https://provider.example/job-1"})
LIMITS = ImageLimits(1_000_000, 1_000_000)
PATIENCE = Patience(doubt=0, shut=60, failing=60)


class Workshop:
    """A store, a directory and runners on both."""

    def __init__(self, store: TaskStore, storage: ImageStorage, valkey: Valkey) -> None:
        self.store = store
        self.storage = storage
        self.valkey = valkey
        self.stopping = threading.Event()
        self.patience = PATIENCE
        self.cancels = Cancels(valkey.redis)

    def runner(self, provider: Plain, second: Plain | None = None) -> Runner:
        providers = {"plain": provider} | ({"second": second} if second else {})
        courier = Courier(
            self.store,
            self.storage,
            providers,
            limits=LIMITS,
            patience=self.patience,
            stopping=self.stopping,
            cancels=self.cancels,
        )
        return Runner(self.store, CATALOG, providers, courier, stopping=self.stopping)

    def claim(self, *journal: Call, n: int = 1, deadline: float = 600, **said: Any) -> Claim:
        """A claim; with a journal, that of a task that an earlier worker had begun."""
        request = replace(REQUEST, n=n, **said)
        task_id = create(self.store, request=request, deadline=deadline)
        held = claim(self.store, task_id)
        if journal:
            self.store.journal(held, *journal)
            held = self.again(held)
        return held

    def again(self, held: Claim) -> Claim:
        """Put a task down and take it up."""
        self.store.defer(held, 0)
        return claim(self.store, held.task.id)

    def due(self, held: Claim) -> Claim:
        """Take up a task that was put down for a while, as if the while were over."""
        self.valkey.redis.hdel(record_key(held.task.id), "retry_at")
        return claim(self.store, held.task.id)

    def run(
        self,
        provider: Plain,
        held: Claim | None = None,
        *,
        second: Plain | None = None,
        **options: Any,
    ) -> Result:
        return self.runner(provider, second).run(held or self.claim(**options))

    def fail(self, provider: Plain, held: Claim | None = None, **options: Any) -> Failure:
        with pytest.raises(GenerationFailed) as caught:
            self.run(provider, held, **options)
        return caught.value.failure

    def read(self, held: Claim) -> Task:
        task = self.store.read(held.task.id)
        assert task is not None
        return task

    def journal(self, task_id: str) -> dict[int, dict[str, Any]]:
        """What the record says of paid calls at this moment."""
        record: Any = self.valkey.redis.hgetall(record_key(task_id))
        calls = {k: json.loads(v) for k, v in record.items() if k.startswith("call:")}
        return {int(name.removeprefix("call:")): entry for name, entry in calls.items()}

    def states(self, task_id: str) -> list[str]:
        return [entry["state"] for _, entry in sorted(self.journal(task_id).items())]


def entry(state: CallState, first: int = 0, count: int = 1, **options: Any) -> Call:
    return Call(first, count, "plain", "plain-1", state, **options)


def accepted(first: int = 0) -> Call:
    return entry(CallState.ACCEPTED, first, job={"id": JOB.id, "state": JOB.state})


def raising(error: Exception) -> Callable[..., NoReturn]:
    def act(*_: object) -> NoReturn:
        raise error

    return act


def never(*_: object) -> NoReturn:
    raise AssertionError("this was not to be asked for")


def in_turn(*steps: Any) -> Callable[..., Any]:
    """Does one step after another: an exception is raised, anything else is returned."""
    left = list(steps)

    def act(*_: object) -> Any:
        step = left.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    return act
