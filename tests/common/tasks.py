"""Tasks to test with: a request, and the shortest way to a record in the store."""

from __future__ import annotations

from typing import Any

from common.store import TaskStore
from common.task import (
    Call,
    CallState,
    Claim,
    Failure,
    ImageRequest,
    Result,
    StoredImage,
    new_task_id,
)
from tests.processes import until
from tests.valkey import Valkey, open_store

QUEUE = "images.bfl"
WORKER = "worker"

REQUEST = ImageRequest("flux-pro", "a red apple", size="64x48")

RESULT = Result(
    images=(StoredImage("name/0.png", "png", 64, 48, 123, "0" * 64, "a redder apple", 7),),
    provider="bfl",
    provider_model="flux-pro-1.1",
    usage={"cost_usd": 0.04},
)

FAILURE = Failure("upstream_error", "It did not work.", retryable=True)


def create(store: TaskStore, *, request: ImageRequest = REQUEST, **options: Any) -> str:
    """A new pending task; its id."""
    task_id = new_task_id()
    fields: dict[str, Any] = {"owner": "key_a", "queue": QUEUE, "deadline": 600} | options
    assert store.create(task_id, request=request, **fields) is not None
    return task_id


def claim(store: TaskStore, task_id: str, worker: str = WORKER) -> Claim:
    """The claim of a task that can be claimed."""
    claimed = store.claim(task_id, worker)
    assert claimed is not None
    return claimed


def claimed(store: TaskStore, **options: Any) -> Claim:
    """A new task, already claimed."""
    return claim(store, create(store, **options))


def call(state: CallState, first: int = 0, count: int = 1, **options: Any) -> Call:
    """A journal entry of the route that the model takes."""
    return Call(first, count, "bfl", "flux-pro-1.1", state, **options)


def let_lease_run_out(valkey: Valkey, holder: Claim) -> None:
    """Make time pass for one lease: it is renewed for a millisecond, and that is waited for."""
    with open_store(valkey.url, lease=0.001) as brief:
        assert not brief.renew(WORKER, {holder.task.id: holder.task.generation}).lost
    pass_milliseconds(valkey, 2)


def let_deadline_pass(valkey: Valkey, task_id: str) -> None:
    """Make time pass for one task's deadline."""
    valkey.redis.hset(record_key(task_id), "deadline", valkey.now() - 1)


def pass_milliseconds(valkey: Valkey, milliseconds: int) -> None:
    """Wait by the server's clock."""
    start = valkey.now()
    until(lambda: valkey.now() >= start + milliseconds)


def record_key(task_id: str) -> str:
    return f"darkroom:task:{task_id}"
