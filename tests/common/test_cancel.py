"""What the store does with the wish to cancel a task: one winner, whatever else happens to it."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from common.errors import LeaseLost
from common.store import CANCEL_CHANNEL, ENDED_CHANNEL, Grant, Offer, TaskStore
from common.task import Call, CallState, Claim, Failure, Status, Task
from tests.common.tasks import (
    QUEUE,
    RESULT,
    call,
    claim,
    claimed,
    create,
    let_lease_run_out,
    record_key,
)
from tests.processes import until
from tests.valkey import Valkey

MakeStore = Callable[..., TaskStore]

ROUTE = "bfl/flux-pro-1.1"
OWNER = "key_a"

JOB = call(CallState.ACCEPTED, stoppable=True)


def offer(first: int = 0, cap: int = 0, **options: Any) -> Offer:
    return Offer(ROUTE, cap, (call(CallState.SUBMITTING, first, **options),))


def begin(store: TaskStore, held: Claim, cap: int = 0, **options: Any) -> Call:
    grant = store.begin(held, [offer(cap=cap, **options)])
    assert isinstance(grant, Grant)
    return grant.calls[0]


def cancel(store: TaskStore, task_id: str) -> tuple[str, Task]:
    answer = store.cancel(task_id, OWNER)
    assert answer is not None
    return answer


def read(store: TaskStore, task_id: str) -> Task:
    task = store.read(task_id)
    assert task is not None
    return task


def assert_cancelled(task: Task, billed: str = "no") -> None:
    assert (task.status, task.cancellation) == (Status.FAILED, "cancelled")
    assert task.failure is not None
    assert (task.failure.code, task.failure.billed) == ("cancelled", billed)
    assert (
        not task.failure.retryable
    )  # a client that repeats by itself would buy what was not wanted


def last_event(store: TaskStore, task_id: str) -> str:
    return read(store, task_id).timeline[-1].event


# -- what has bought nothing


def test_a_pending_task_is_over_at_once(store: TaskStore, valkey: Valkey) -> None:
    task_id = create(store)

    outcome, task = cancel(store, task_id)

    assert outcome == "cancelled"
    assert_cancelled(task)
    assert task == read(store, task_id)
    assert last_event(store, task_id) == "cancelled"
    assert store.claim(task_id, "worker") is None
    assert valkey.redis.zscore("darkroom:due", task_id) is None
    assert valkey.redis.exists(f"darkroom:called:{QUEUE}") == 0  # it gave its turn to the next


def test_a_task_that_was_claimed_and_has_sent_nothing_may_not_begin_any_more(
    store: TaskStore,
) -> None:
    held = claimed(store)

    outcome, task = cancel(store, held.task.id)

    assert outcome == "cancelled"
    assert_cancelled(task)
    with pytest.raises(LeaseLost):
        store.begin(held, [offer()])
    assert not store.complete(held.task.id, held.task.generation, RESULT)
    assert read(store, held.task.id) == task


def test_a_task_that_waits_after_it_was_turned_away_is_over_at_once(store: TaskStore) -> None:
    held = claimed(store)
    begin(store, held)
    failure = Failure("all_channels_failed", "later", billed="no")
    store.journal(held, call(CallState.TURNED_AWAY, failure=failure))
    store.defer(held, 60)

    assert_cancelled(cancel(store, held.task.id)[1])


def test_a_task_that_waits_in_a_line_leaves_it(store: TaskStore, valkey: Valkey) -> None:
    first, second = claimed(store), claimed(store)
    begin(store, first, cap=1)
    assert not isinstance(store.begin(second, [offer(cap=1)]), Grant)
    store.defer(second, 60)

    assert_cancelled(cancel(store, second.task.id)[1])

    assert valkey.redis.exists(f"darkroom:routes:waits:{ROUTE}") == 0
    assert valkey.redis.hlen("darkroom:routes:lines") == 0


@pytest.mark.parametrize("billed", ["no", "unknown", "yes"])
def test_what_failed_calls_may_have_cost_is_told(store: TaskStore, billed: str) -> None:
    held = claimed(store)
    begin(store, held)
    failed = call(CallState.FAILED, failure=Failure("upstream_error", "no", billed=billed))  # type: ignore[arg-type]
    store.journal(held, failed)

    outcome, task = cancel(store, held.task.id)

    assert outcome == "cancelled"
    assert_cancelled(task, billed)


def test_cancelling_says_nothing_of_the_model(store: TaskStore) -> None:
    cancel(store, create(store))
    held = claimed(store)
    store.fail(held.task.id, held.task.generation, Failure("cancelled", "The task was cancelled."))

    assert store.outcomes() == {}


@pytest.mark.parametrize(("billed", "images"), [("no", 0), ("unknown", 1), ("yes", 1)])
def test_what_was_cancelled_counts_as_used_if_it_may_have_been_bought(
    store: TaskStore, billed: Any, images: int
) -> None:
    held = claimed(store)
    begin(store, held)
    store.journal(
        held, call(CallState.FAILED, failure=Failure("upstream_error", "no", billed=billed))
    )
    cancel(store, create(store))
    cancel(store, held.task.id)

    usage = store.usage(OWNER)
    assert usage.open_tasks == 0
    assert sum(used.images for used in usage.today.models.values()) == images


def test_an_end_by_cancelling_is_published(store: TaskStore, valkey: Valkey) -> None:
    task_id = create(store)
    client: Any = valkey.redis
    with client.pubsub(ignore_subscribe_messages=True) as ended:
        ended.subscribe(ENDED_CHANNEL)
        ended.get_message(timeout=5)
        cancel(store, task_id)

        assert until(lambda: ended.get_message(timeout=5))["data"] == task_id


def test_cancelling_again_changes_nothing(store: TaskStore, valkey: Valkey) -> None:
    task_id = create(store)
    cancel(store, task_id)
    before = valkey.redis.hgetall(record_key(task_id))

    assert cancel(store, task_id)[0] == "cancelled"
    assert valkey.redis.hgetall(record_key(task_id)) == before


@pytest.mark.parametrize("end", ["complete", "fail"])
def test_what_is_over_is_not_cancelled(store: TaskStore, valkey: Valkey, end: str) -> None:
    held = claimed(store)
    if end == "complete":
        store.complete(held.task.id, held.task.generation, RESULT)
    else:
        store.fail(held.task.id, held.task.generation, Failure("upstream_error", "no"))
    before = valkey.redis.hgetall(record_key(held.task.id))

    assert cancel(store, held.task.id)[0] == "over"
    assert valkey.redis.hgetall(record_key(held.task.id)) == before


def test_nobody_cancels_other_peoples_tasks(store: TaskStore, valkey: Valkey) -> None:
    task_id = create(store)

    assert store.cancel(task_id, "key_b") is None
    assert store.cancel("imgtask_" + "0" * 32, OWNER) is None
    assert read(store, task_id).status is Status.PENDING
    assert not valkey.redis.exists(record_key("imgtask_" + "0" * 32))


# -- what is in flight


@pytest.mark.parametrize(
    ("entry", "outcome"),
    [
        (call(CallState.SUBMITTING), "unstoppable"),
        (call(CallState.SUBMITTING, stoppable=True), "sending"),
        (call(CallState.ACCEPTED), "unstoppable"),
        (call(CallState.IN_DOUBT), "in_doubt"),
        (call(CallState.MISSED), "in_doubt"),
    ],
)
def test_what_cannot_be_stopped_goes_on(
    store: TaskStore, valkey: Valkey, entry: Call, outcome: str
) -> None:
    held = claimed(store)
    store.journal(held, JOB, call(CallState.RECEIVED, 1), entry)
    before = valkey.redis.hgetall(record_key(held.task.id))

    assert cancel(store, held.task.id)[0] == outcome
    assert valkey.redis.hgetall(record_key(held.task.id)) == before
    assert store.complete(held.task.id, held.task.generation, RESULT)


@pytest.mark.parametrize("entry", [JOB, call(CallState.RECEIVED)])
def test_what_its_worker_has_to_see_to_is_asked_for(store: TaskStore, entry: Call) -> None:
    held = claimed(store)
    store.journal(held, entry)

    for _ in range(2):
        outcome, task = cancel(store, held.task.id)
        assert (outcome, task.status, task.cancellation) == (
            "requested",
            Status.PROCESSING,
            "requested",
        )
    events = [entry.event for entry in read(store, held.task.id).timeline]
    assert events.count("cancel_requested") == 1


def test_the_worker_that_holds_the_task_hears_of_it(store: TaskStore, valkey: Valkey) -> None:
    held = claimed(store)
    store.journal(held, JOB)
    client: Any = valkey.redis
    with client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(CANCEL_CHANNEL)
        heard.get_message(timeout=5)
        assert store.renew("worker", {held.task.id: held.task.generation}).to_cancel == set()
        cancel(store, held.task.id)

        assert until(lambda: heard.get_message(timeout=5))["data"] == held.task.id
    renewal = store.renew("worker", {held.task.id: held.task.generation})
    assert renewal == (frozenset(), {held.task.id})


def test_a_task_that_nobody_holds_is_due_at_once_and_whoever_claims_it_is_told(
    store: TaskStore,
) -> None:
    held = claimed(store)
    store.journal(held, JOB)
    store.defer(held, 300)

    cancel(store, held.task.id)

    assert store.sweep("a").announced == 1
    assert claim(store, held.task.id).task.cancellation == "requested"


def test_whoever_takes_over_from_a_dead_worker_is_told(store: TaskStore, valkey: Valkey) -> None:
    held = claimed(store)
    store.journal(held, JOB)
    cancel(store, held.task.id)
    let_lease_run_out(valkey, held)

    assert claim(store, held.task.id, "another").task.cancellation == "requested"


def test_nothing_is_bought_for_a_task_that_is_to_be_cancelled(
    store: TaskStore, valkey: Valkey
) -> None:
    held = claimed(store)
    begin(store, held, stoppable=True)
    store.journal(held, JOB)
    cancel(store, held.task.id)
    before = valkey.redis.hgetall(record_key(held.task.id))

    assert store.begin(held, [offer(1)], going=[JOB]) is None
    assert valkey.redis.hgetall(record_key(held.task.id)) == before


def test_a_task_whose_cancelling_was_declined_goes_on(store: TaskStore, valkey: Valkey) -> None:
    held = claimed(store)
    store.journal(held, JOB)
    cancel(store, held.task.id)
    client: Any = valkey.redis
    with client.pubsub(ignore_subscribe_messages=True) as told:
        told.subscribe(ENDED_CHANNEL)
        told.get_message(timeout=5)
        assert store.decline(held)
        assert until(lambda: told.get_message(timeout=5))["data"] == held.task.id

    assert read(store, held.task.id).cancellation == "declined"
    assert last_event(store, held.task.id) == "cancel_declined"
    assert not store.renew("worker", {held.task.id: held.task.generation}).to_cancel
    assert isinstance(store.begin(held, [offer(1, stoppable=True)], going=[JOB]), Grant)
    assert cancel(store, held.task.id)[0] == "sending"


def test_only_the_holder_of_a_claim_declines(store: TaskStore, valkey: Valkey) -> None:
    held = claimed(store)
    store.journal(held, JOB)
    cancel(store, held.task.id)
    let_lease_run_out(valkey, held)
    claim(store, held.task.id, "another")

    assert not store.decline(held)
    assert read(store, held.task.id).cancellation == "requested"


def test_a_task_that_completed_before_it_was_stopped_says_so(store: TaskStore) -> None:
    held = claimed(store)
    store.journal(held, JOB)
    cancel(store, held.task.id)

    assert store.complete(held.task.id, held.task.generation, RESULT)

    task = read(store, held.task.id)
    assert (task.status, task.cancellation) == (Status.COMPLETED, "declined")
    assert cancel(store, held.task.id)[0] == "over"


def test_a_worker_that_stopped_the_job_ends_the_task_as_cancelled(store: TaskStore) -> None:
    held = claimed(store)
    begin(store, held, cap=1, stoppable=True)
    store.journal(held, JOB)
    cancel(store, held.task.id)

    failure = Failure("cancelled", "The task was cancelled.", billed="unknown")
    assert store.fail(held.task.id, held.task.generation, failure)

    assert_cancelled(read(store, held.task.id), "unknown")
    other = claimed(store)
    begin(store, other, cap=1)  # its place is free


# -- races


def test_each_of_many_races_has_one_winner(store: TaskStore, make_store: MakeStore) -> None:
    """A worker goes through claim, begin, a job and its end, and a caller cancels somewhere on the
    way. Whoever bought is completed or not cancelled; whoever is cancelled never bought."""
    tasks = [create(store) for _ in range(300)]
    bought: dict[str, int] = Counter()
    completed: set[str] = set()
    cancelled: set[str] = set()
    stores = [make_store(lease=300) for _ in range(4)]
    gates = {task_id: threading.Barrier(2, timeout=60) for task_id in tasks}

    def work(mine: TaskStore, task_id: str, lead: float) -> None:
        gates[task_id].wait()
        time.sleep(max(0, -lead))
        held = mine.claim(task_id, "worker")
        if held is None:
            return
        time.sleep(random.Random(task_id).uniform(0, 0.0005))
        try:
            grant = mine.begin(held, [offer()])
        except LeaseLost:
            return
        assert isinstance(grant, Grant)
        bought[task_id] += 1  # only now may the call be sent
        if mine.complete(task_id, held.task.generation, RESULT):
            completed.add(task_id)

    def call_off(mine: TaskStore, task_id: str, lead: float) -> None:
        gates[task_id].wait()
        time.sleep(max(0, lead))
        outcome, _ = cancel(mine, task_id)
        assert outcome in ("cancelled", "unstoppable", "over")
        if outcome == "cancelled":
            cancelled.add(task_id)

    # The worker's lead grows with each race it loses and shrinks with each it wins, so that both
    # keep arriving together however fast the machine is.
    lead = 0.0
    with ThreadPoolExecutor(4) as pool:
        for first in range(0, len(tasks), 2):
            pair = tasks[first : first + 2]
            jobs = [
                pool.submit(action, stores[2 * side + n], task_id, lead)
                for n, task_id in enumerate(pair)
                for side, action in enumerate((work, call_off))
            ]
            for job in jobs:
                job.result()
            lead += 0.0002 * (len(cancelled.intersection(pair)) - 1)

    assert completed | cancelled == set(tasks)
    assert not completed & cancelled
    assert set(bought) == completed
    assert set(bought.values()) == {1}
    assert min(len(completed), len(cancelled)) >= 10, "one side never won: that was no race"
    for task_id in tasks:
        task = read(store, task_id)
        if task_id in cancelled:
            assert_cancelled(task)
        else:
            assert (task.status, task.result) == (Status.COMPLETED, RESULT)
