"""What the store keeps of the history of a task for its owner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.file_signer import FileSigner
from common.outbox import Outbox
from common.storage import ImageStorage
from common.store import Offer, TaskStore
from common.task import Call, CallState, Claim, Failure
from common.task_body import TaskBody
from common.webhook import Try
from tests.common.tasks import (
    FAILURE,
    REQUEST,
    RESULT,
    call,
    claim,
    claimed,
    create,
    let_lease_run_out,
    record_key,
)
from tests.common.webhooks import webhook
from tests.valkey import Valkey

ROUTE = "bfl/flux-pro-1.1"
SUBMITTING = call(CallState.SUBMITTING)
HOST = "build-7.internal:4711"


def offer(*calls: Call, cap: int = 0) -> Offer:
    return Offer(ROUTE, cap, calls or (SUBMITTING,))


def told(store: TaskStore, task_id: str) -> list[tuple[str, dict[str, Any]]]:
    task = store.read(task_id)
    assert task is not None
    return [(entry.event, dict(entry.about)) for entry in task.timeline]


def events(store: TaskStore, held: Claim) -> list[str]:
    return [event for event, _ in told(store, held.task.id)]


def test_the_life_of_a_task_is_told_in_order(store: TaskStore) -> None:
    held = claim(store, create(store), f"{HOST}:3fa9c1")
    store.begin(held, [offer()])
    store.journal(held, call(CallState.ACCEPTED), progress=3)
    store.complete(held.task.id, held.task.generation, RESULT)

    assert told(store, held.task.id) == [
        ("accepted", {}),
        ("claimed", {"worker": "3fa9c1"}),
        ("submitted", {"provider": "bfl", "model": "flux-pro-1.1", "calls": 1}),
        ("job_accepted", {"call": 0}),
        ("stored", {"images": 1}),
        ("completed", {}),
    ]
    task = store.read(held.task.id)
    assert task is not None
    assert (task.timeline[0].at, task.timeline[-1].at) == (task.created, task.ended)


def test_attempts_and_their_errors_are_told(store: TaskStore, valkey: Valkey) -> None:
    held = claim(store, create(store), f"{HOST}:3fa9c1")
    store.begin(held, [offer()])
    failure = Failure("all_channels_failed", "secret words", billed="no")
    store.journal(held, call(CallState.TURNED_AWAY, failure=failure, error="rate_limited"))
    store.defer(held, 0, blocked="rate_limited", reason="rate_limited")
    again = claim(store, held.task.id, f"{HOST}:777777")
    let_lease_run_out(valkey, again)
    last = claim(store, held.task.id, f"{HOST}:888888")
    store.fail(held.task.id, last.task.generation, FAILURE)

    assert told(store, held.task.id)[3:] == [
        ("turned_away", {"call": 0, "error": "rate_limited", "billed": "no"}),
        ("deferred", {"reason": "rate_limited", "wait_seconds": 0}),
        ("claimed", {"worker": "777777"}),
        ("worker_lost", {"worker": "777777"}),
        ("claimed", {"worker": "888888"}),
        ("failed", {"error": "upstream_error", "billed": "no"}),
    ]


def test_a_late_answer_is_told(store: TaskStore) -> None:
    held = claimed(store)
    store.begin(held, [offer()])
    store.journal(held, call(CallState.IN_DOUBT))
    store.defer(held, 60, reason="in_doubt")

    assert store.adopt(held.task.id, call(CallState.ACCEPTED))

    assert told(store, held.task.id)[3:] == [
        ("in_doubt", {"call": 0}),
        ("deferred", {"reason": "in_doubt", "wait_seconds": 60}),
        ("late_answer", {"call": 0, "state": "accepted"}),
    ]


def test_the_end_of_a_webhook_is_told_to_whoever_asks_but_not_by_the_webhook_itself(
    store: TaskStore, valkey: Valkey, tmp_path: Path
) -> None:
    """Every try says the same, also one that is asked for later."""
    task_id = create(store, webhook=webhook())
    held = claim(store, task_id)
    store.fail(task_id, held.task.generation, FAILURE)
    outbox = Outbox(valkey.redis, waits=(), lease=10)
    (due,) = outbox.take(1)
    assert outbox.told(due, Try(due.at, 200, ms=5))

    task = store.read(task_id)
    bodies = TaskBody(
        FileSigner(valkey.redis, "secret"), ImageStorage.open(tmp_path.as_uri()), lambda: ""
    )

    assert task is not None
    assert told(store, task_id)[-1] == ("notified", {"outcome": "delivered"})
    assert bodies.any(task)["timeline"][-1]["event"] == "notified"
    assert bodies.told(task) == bodies.told(due.task)


def test_nothing_is_told_that_the_owner_may_not_see(store: TaskStore, valkey: Valkey) -> None:
    request = replace(REQUEST, prompt="a red apple")
    held = claim(store, create(store, request=request), f"{HOST}:3fa9c1")
    store.begin(held, [offer()])
    job = {"id": "job-1", "state": {"url": "https://10.0.0.1/job-1"}}
    store.journal(held, call(CallState.ACCEPTED, job=job))
    failure = Failure("upstream_error", "they said: a red apple", billed="unknown")
    store.journal(held, call(CallState.FAILED, failure=failure, error="bad_answer"))
    store.fail(held.task.id, held.task.generation, failure)

    kept = str(valkey.redis.hget(record_key(held.task.id), "timeline"))
    assert len(kept.splitlines()) == 6
    for secret in ("apple", "10.0.0.1", "job-1", "internal", "4711", "key_a", "images."):
        assert secret not in kept


def test_of_too_many_entries_those_in_the_middle_are_dropped(store: TaskStore) -> None:
    held = claimed(store)
    for number in range(100):
        store.journal(held, call(CallState.TURNED_AWAY, error=f"error_{number}"))

    kept = told(store, held.task.id)

    assert kept[:2] == [("accepted", {}), ("claimed", {"worker": "worker"})]
    errors = [about.get("error") for _, about in kept[2:]]
    # 16, the entry that stands for 39 others, and 47: 64 of what would be 102.
    assert errors == [
        *(f"error_{number}" for number in range(14)),
        None,
        *(f"error_{number}" for number in range(53, 100)),
    ]
    assert kept[16] == ("omitted", {"entries": 39})


def test_progress_and_renewals_are_no_entries(store: TaskStore) -> None:
    held = claimed(store)
    before = events(store, held)

    store.journal(held, progress=10)
    store.renew("worker", {held.task.id: held.task.generation})

    assert events(store, held) == before


@pytest.mark.parametrize(("state", "event"), [("accepted", "job_accepted"), ("received",) * 2])
def test_a_task_costs_less_than_250_bytes_of_timeline(
    store: TaskStore, valkey: Valkey, state: str, event: str
) -> None:
    held = claim(store, create(store), f"{HOST}:3fa9c1")
    store.begin(held, [offer()])
    store.journal(held, call(CallState(state)))
    store.complete(held.task.id, held.task.generation, RESULT)

    assert event in events(store, held)
    assert valkey.redis.hstrlen(record_key(held.task.id), "timeline") < 250  # type: ignore[operator]
