"""What the task store promises, over a real Valkey."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import common.script
import common.store
from common.connection import connect
from common.errors import LeaseLost, QueueFull, StoreUnavailable
from common.settings import load_settings
from common.store import ENDED_CHANNEL, Offer, TaskStore
from common.task import (
    CallState,
    Claim,
    Failure,
    ImageRequest,
    Status,
    Task,
    TimelineEntry,
    new_task_id,
)
from tests.common.tasks import (
    FAILURE,
    QUEUE,
    REQUEST,
    RESULT,
    call,
    claim,
    claimed,
    create,
    let_deadline_pass,
    let_lease_run_out,
    pass_milliseconds,
    record_key,
)
from tests.processes import free_port, until
from tests.valkey import Valkey, open_store

MakeStore = Callable[..., TaskStore]

OFFER = Offer("bfl/flux-pro-1.1", 2, (call(CallState.SUBMITTING),))

WRITES: dict[str, Callable[[TaskStore, Claim], Any]] = {
    "begin": lambda store, held: store.begin(held, [OFFER]),
    "journal": lambda store, held: store.journal(held, call(CallState.SUBMITTING)),
    "complete": lambda store, held: store.complete(held.task.id, held.task.generation, RESULT),
    "fail": lambda store, held: store.fail(held.task.id, held.task.generation, FAILURE),
    "defer": lambda store, held: store.defer(held, 0),
    "renew": lambda store, held: (
        held.task.id not in store.renew("worker", {held.task.id: held.task.generation}).lost
    ),
}


def written(write: str, store: TaskStore, held: Claim) -> bool:
    """Whether the store let a claim write."""
    try:
        return WRITES[write](store, held) is not False
    except LeaseLost:
        return False


def read(store: TaskStore, task_id: str) -> Task:
    task = store.read(task_id)
    assert task is not None
    return task


def failure(store: TaskStore, task_id: str) -> Failure:
    found = read(store, task_id).failure
    assert found is not None
    return found


def messages(valkey: Valkey, queue: str = QUEUE) -> list[str]:
    """The ids of the tasks that the messages of a queue announce, oldest first."""
    waiting: Any = valkey.redis.lrange(queue, 0, -1)
    return [json.loads(message)["headers"]["id"] for message in reversed(waiting)]


# -- create


def test_a_new_task_is_kept_whole_and_pending(store: TaskStore) -> None:
    request = ImageRequest("flux-pro", "ein Apfel 🍎\n\"'", n=3, seed=0, user="u", style="vivid")
    task_id = new_task_id()

    created = store.create(
        task_id,
        owner="key_a",
        queue=QUEUE,
        request=request,
        deadline=60,
        warnings=["one", "two"],
        sandbox=True,
    )

    assert created is not None
    assert created.replayed is None
    assert store.read(task_id) == Task(
        id=task_id,
        owner="key_a",
        request=request,
        queue=QUEUE,
        created=created.at,
        deadline=created.at + 60_000,
        warnings=("one", "two"),
        sandbox=True,
        queue_position=1,
        timeline=(TimelineEntry(created.at, "accepted", {}),),
    )


def test_an_id_that_is_taken_is_not_created_again(store: TaskStore, valkey: Valkey) -> None:
    task_id = create(store)
    before = valkey.redis.hgetall(record_key(task_id))

    again = store.create(task_id, owner="key_b", queue="other", request=REQUEST, deadline=1)

    assert again is None
    assert valkey.redis.hgetall(record_key(task_id)) == before
    assert messages(valkey) == [task_id]
    assert not valkey.redis.exists("other", "darkroom:owner:key_b")


def test_a_new_task_is_announced_at_once(store: TaskStore, valkey: Valkey) -> None:
    first, second = create(store), create(store, queue="images.openai")

    assert messages(valkey) == [first]
    assert messages(valkey, "images.openai") == [second]


def test_all_times_are_by_the_clock_of_redis(store: TaskStore, valkey: Valkey) -> None:
    before = valkey.now()
    held = claimed(store, deadline=60)
    store.complete(held.task.id, held.task.generation, RESULT)
    after = valkey.now()

    task = read(store, held.task.id)

    assert task.started is not None
    assert task.ended is not None
    assert before <= task.created <= task.started <= task.ended <= after
    assert task.deadline == task.created + 60_000
    assert task.expires == task.ended + 24 * 3600 * 1000
    assert not {"time", "datetime"} & vars(common.store).keys()


# -- claim


def test_a_pending_task_can_be_claimed(store: TaskStore) -> None:
    task_id = create(store, deadline=60)

    held = claim(store, task_id)

    assert held.task == read(store, task_id)
    assert held.task.status is Status.PROCESSING
    assert held.task.generation == 1
    assert held.calls == ()
    assert held.attempt == 1
    assert 50 < held.time_left <= 60


def test_a_task_that_is_worked_on_cannot_be_claimed(store: TaskStore) -> None:
    held = claimed(store)

    assert store.claim(held.task.id, "another") is None
    assert read(store, held.task.id) == held.task


def test_an_unknown_task_cannot_be_claimed(store: TaskStore, valkey: Valkey) -> None:
    task_id = new_task_id()

    assert store.claim(task_id, "worker") is None
    assert store.read(task_id) is None
    assert not valkey.redis.exists(record_key(task_id))


@pytest.mark.parametrize("end", ["complete", "fail"])
def test_a_final_task_cannot_be_claimed(store: TaskStore, end: str) -> None:
    held = claimed(store)
    assert written(end, store, held)

    assert store.claim(held.task.id, "another") is None


def test_a_deferred_task_cannot_be_claimed_before_its_time(
    store: TaskStore, valkey: Valkey
) -> None:
    later, now = claimed(store), claimed(store)
    assert store.defer(later, 60)
    assert store.defer(now, 0.001)
    pass_milliseconds(valkey, 2)

    assert store.claim(later.task.id, "worker") is None
    assert claim(store, now.task.id).task.generation == 2
    assert read(store, later.task.id).status is Status.PROCESSING


def test_an_expired_lease_can_be_claimed_with_all_that_is_known(
    store: TaskStore, valkey: Valkey
) -> None:
    first = claimed(store)
    entry = call(CallState.ACCEPTED, count=2, job={"id": "j", "state": {"url": "x"}})
    other = call(CallState.RECEIVED, first=2, pictures=({"revised_prompt": "p", "seed": None},))
    store.journal(first, other, entry, progress=40)
    let_lease_run_out(valkey, first)

    second = claim(store, first.task.id, "another")

    assert second.calls == (entry, other)
    assert second.attempt == 2
    assert second.task.generation == 2
    assert second.task.progress == 40
    assert second.task.started == first.task.started


def test_generations_grow_with_each_claim(store: TaskStore) -> None:
    held = claimed(store)
    seen = [held.task.generation]
    for _ in range(5):
        store.defer(held, 0)
        held = claim(store, held.task.id)
        seen.append(held.task.generation)

    assert seen == [1, 2, 3, 4, 5, 6]
    assert held.attempt == 6


@pytest.mark.parametrize(
    ("states", "billed"),
    [
        ([], "no"),
        ([call(CallState.SUBMITTING)], "unknown"),
        ([call(CallState.ACCEPTED, job={"id": "j", "state": {}})], "yes"),
        ([call(CallState.RECEIVED)], "yes"),
        ([call(CallState.MISSED)], "yes"),
        ([call(CallState.FAILED, failure=Failure("x", "y", billed="no"))], "no"),
        ([call(CallState.FAILED, failure=Failure("x", "y", billed="unknown"))], "unknown"),
        ([call(CallState.FAILED, failure=Failure("x", "y", billed="yes"))], "yes"),
        ([call(CallState.RECEIVED), call(CallState.SUBMITTING, first=1)], "yes"),
        ([call(CallState.SUBMITTING), call(CallState.RECEIVED, first=1)], "yes"),
        (
            [
                call(CallState.FAILED, failure=Failure("x", "y", billed="no")),
                call(CallState.SUBMITTING, first=1),
            ],
            "unknown",
        ),
    ],
)
@pytest.mark.parametrize("finder", ["claim", "sweep"])
def test_what_is_past_its_deadline_fails_with_the_bill_that_the_journal_tells(
    store: TaskStore, valkey: Valkey, states: list[Any], billed: str, finder: str
) -> None:
    held = claimed(store)
    if states:
        store.journal(held, *states)
    let_lease_run_out(valkey, held)
    let_deadline_pass(valkey, held.task.id)

    if finder == "claim":
        assert store.claim(held.task.id, "another") is None
    else:
        assert store.sweep("a").timed_out == 1

    found = failure(store, held.task.id)
    assert (found.code, found.billed) == ("timeout", billed)
    assert found.retryable is (billed == "no")


def test_a_pending_task_past_its_deadline_fails_instead_of_being_claimed(
    store: TaskStore, valkey: Valkey
) -> None:
    task_id = create(store, deadline=0.001)
    pass_milliseconds(valkey, 2)

    assert store.claim(task_id, "worker") is None
    assert failure(store, task_id).code == "timeout"


def test_a_deferred_task_past_its_deadline_fails_when_it_is_claimed(
    store: TaskStore, valkey: Valkey
) -> None:
    held = claimed(store)
    store.defer(held, 60)
    let_deadline_pass(valkey, held.task.id)

    assert store.claim(held.task.id, "worker") is None
    assert failure(store, held.task.id).code == "timeout"


# -- writes of a claim


@pytest.mark.parametrize("write", WRITES)
def test_a_claim_may_write(store: TaskStore, write: str) -> None:
    assert written(write, store, claimed(store))


@pytest.mark.parametrize("write", WRITES)
def test_a_claim_whose_lease_ran_out_may_write_while_nobody_else_has_the_task(
    store: TaskStore, valkey: Valkey, write: str
) -> None:
    held = claimed(store)
    let_lease_run_out(valkey, held)

    assert written(write, store, held)


@pytest.mark.parametrize("write", WRITES)
def test_a_stale_claim_is_refused_and_changes_nothing(
    store: TaskStore, valkey: Valkey, write: str
) -> None:
    stale = claimed(store)
    let_lease_run_out(valkey, stale)
    claim(store, stale.task.id, "another")
    before = valkey.redis.hgetall(record_key(stale.task.id))

    assert not written(write, store, stale)
    assert valkey.redis.hgetall(record_key(stale.task.id)) == before


@pytest.mark.parametrize("write", WRITES)
def test_a_claim_that_was_put_down_is_refused(store: TaskStore, valkey: Valkey, write: str) -> None:
    held = claimed(store)
    store.defer(held, 0)
    before = valkey.redis.hgetall(record_key(held.task.id))

    assert not written(write, store, held)
    assert valkey.redis.hgetall(record_key(held.task.id)) == before


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("end", ["complete", "fail"])
def test_a_final_record_never_changes(
    store: TaskStore, valkey: Valkey, end: str, write: str
) -> None:
    held = claimed(store)
    assert written(end, store, held)
    before = valkey.redis.hgetall(record_key(held.task.id))

    assert not written(write, store, held)
    assert not store.fail(held.task.id, None, FAILURE)
    assert store.claim(held.task.id, "another") is None
    store.sweep("a")
    assert valkey.redis.hgetall(record_key(held.task.id)) == before


def test_nothing_is_written_to_a_task_that_was_never_created(
    store: TaskStore, valkey: Valkey
) -> None:
    task_id = new_task_id()

    assert not store.complete(task_id, 1, RESULT)
    assert not store.fail(task_id, 1, FAILURE)
    assert not store.fail(task_id, None, FAILURE)
    assert store.renew("worker", {task_id: 1}).lost == {task_id}
    assert not valkey.redis.exists(record_key(task_id))


def test_a_report_without_a_claim_ends_only_what_nobody_holds(
    store: TaskStore, valkey: Valkey
) -> None:
    pending, held, dead = create(store), claimed(store), claimed(store)
    let_lease_run_out(valkey, dead)

    assert store.fail(pending, None, FAILURE)
    assert not store.fail(held.task.id, None, FAILURE)
    assert store.fail(dead.task.id, None, FAILURE)
    assert read(store, held.task.id).status is Status.PROCESSING


def test_a_completed_task_holds_its_result(store: TaskStore) -> None:
    held = claimed(store)

    store.complete(held.task.id, held.task.generation, RESULT)

    task = read(store, held.task.id)
    assert task.status is Status.COMPLETED
    assert task.result == RESULT
    assert task.progress == 100
    assert task.failure is None


def test_a_failed_task_holds_its_failure(store: TaskStore) -> None:
    held = claimed(store)

    store.fail(held.task.id, held.task.generation, FAILURE)

    task = read(store, held.task.id)
    assert task.status is Status.FAILED
    assert task.failure == FAILURE
    assert task.result is None


def test_the_end_of_a_task_is_published_once(store: TaskStore, valkey: Valkey) -> None:
    held = claimed(store)
    client: Any = valkey.redis  # its types lack this command
    with client.pubsub(ignore_subscribe_messages=True) as ended:
        ended.subscribe(ENDED_CHANNEL)
        ended.get_message(timeout=5)

        store.complete(held.task.id, held.task.generation, RESULT)
        store.fail(held.task.id, held.task.generation, FAILURE)
        valkey.redis.publish(ENDED_CHANNEL, "last")

        heard = [until(lambda: ended.get_message(timeout=5))["data"] for _ in range(2)]
    assert heard == [held.task.id, "last"]


def test_writing_the_journal_renews_the_lease(
    store: TaskStore, make_store: MakeStore, valkey: Valkey
) -> None:
    held = claim(make_store(lease=0.001), create(store))
    store.journal(held, call(CallState.SUBMITTING))
    pass_milliseconds(valkey, 2)

    assert store.claim(held.task.id, "another") is None


def test_renewing_keeps_what_is_held_and_names_what_is_lost(
    store: TaskStore, make_store: MakeStore, valkey: Valkey
) -> None:
    brief = make_store(lease=0.001)
    kept, taken, over = claim(brief, create(store)), claimed(store), claimed(store)
    let_lease_run_out(valkey, taken)
    claim(store, taken.task.id, "another")
    store.complete(over.task.id, over.task.generation, RESULT)

    renewal = store.renew("worker", {c.task.id: c.task.generation for c in (kept, taken, over)})
    pass_milliseconds(valkey, 2)

    assert renewal.lost == {taken.task.id, over.task.id}
    assert store.claim(kept.task.id, "another") is None


def test_no_lease_outlives_the_deadline_by_much(valkey: Valkey, store: TaskStore) -> None:
    held = claimed(store, deadline=1)

    store.renew("worker", {held.task.id: held.task.generation})
    store.journal(held, call(CallState.SUBMITTING))

    lease = float(valkey.redis.hget(record_key(held.task.id), "lease") or 0)
    assert lease - held.task.deadline <= 15_000


# -- sweep


def test_the_task_of_a_dead_worker_is_announced_once_until_it_is_claimed(
    store: TaskStore, make_store: MakeStore, valkey: Valkey
) -> None:
    impatient = make_store(lease=300, check=0.001)
    held = claimed(store)
    valkey.redis.delete(QUEUE)  # the message it was claimed by
    let_lease_run_out(valkey, held)

    announced = 0
    for _ in range(5):
        announced += impatient.sweep("a").announced
        pass_milliseconds(
            valkey, int(valkey.redis.zscore("darkroom:due", held.task.id) or 0) - valkey.now() + 1
        )

    assert announced == 1
    assert messages(valkey) == [held.task.id]
    assert claim(store, held.task.id).task.generation == 2


def test_the_task_of_a_dead_worker_is_announced_though_an_older_message_waits(
    store: TaskStore, valkey: Valkey
) -> None:
    held = claimed(store)  # by another message than the one that is still in the queue
    let_lease_run_out(valkey, held)

    assert store.sweep("a").announced == 1


def test_a_live_lease_is_not_announced(make_store: MakeStore, valkey: Valkey) -> None:
    store = make_store(lease=300, check=0.001)
    held = claimed(store)
    valkey.redis.delete(QUEUE)
    pass_milliseconds(valkey, 3)

    seen = store.sweep("a")

    assert (seen.due, seen.announced) == (0, 0)
    assert read(store, held.task.id).status is Status.PROCESSING


def test_a_lost_message_is_sent_again_but_not_before_its_check(
    store: TaskStore, make_store: MakeStore, valkey: Valkey
) -> None:
    patient, impatient = make_store(check=60), make_store(check=0.001)
    waits, lost = create(patient), create(impatient)
    valkey.redis.delete(QUEUE)
    pass_milliseconds(valkey, 2)

    seen = store.sweep("a")

    assert (seen.due, seen.announced) == (1, 1)
    assert messages(valkey) == [lost]
    assert read(store, waits).status is Status.PENDING


def test_a_message_that_is_lost_twice_is_sent_twice(make_store: MakeStore, valkey: Valkey) -> None:
    store = make_store(check=0.001)
    task_id = create(store)

    for _ in range(2):
        valkey.redis.lpop(QUEUE)
        until(lambda: store.sweep("a").announced == 1)
        assert messages(valkey) == [task_id]


def test_a_message_that_was_sent_again_is_looked_after_as_soon_as_the_first(
    make_store: MakeStore, valkey: Valkey
) -> None:
    """However old its task: a worker that died may have taken the second one with it as well."""
    store = make_store(check=0.05)
    task_id = create(store)
    old = valkey.now() - 200_000
    valkey.redis.hset(record_key(task_id), mapping={"created": old, "hinted": old})
    valkey.redis.lpop(QUEUE)

    pass_milliseconds(valkey, 60)
    assert store.sweep("a").announced == 1

    look = int(valkey.redis.zscore("darkroom:due", task_id) or 0)
    assert look - valkey.now() <= 50


def test_a_message_that_waits_is_looked_after_ever_more_rarely(
    make_store: MakeStore, valkey: Valkey
) -> None:
    store = make_store(check=0.05)
    task_id = create(store)
    until(lambda: store.sweep("a").due == 1)
    first = int(valkey.redis.zscore("darkroom:due", task_id) or 0) - valkey.now()
    until(lambda: store.sweep("a").due == 1)
    second = int(valkey.redis.zscore("darkroom:due", task_id) or 0) - valkey.now()

    assert messages(valkey) == [task_id]
    assert first < second - 20


def test_a_long_queue_is_never_announced_a_second_time(
    make_store: MakeStore, valkey: Valkey
) -> None:
    store = make_store(check=0.001)
    ids = [create(store, owner=f"key_{n}") for n in range(1000)]
    pass_milliseconds(valkey, 2)

    seen = store.sweep("a", limit=2000)

    assert seen.due == 1000
    assert seen.announced == 0
    assert messages(valkey) == ids


def test_a_message_lost_from_a_queue_is_sent_again_when_only_younger_ones_are_left(
    make_store: MakeStore, valkey: Valkey
) -> None:
    store = make_store(check=0.001)
    older = create(store)
    pass_milliseconds(valkey, 2)
    lost = create(store)
    pass_milliseconds(valkey, 2)
    younger = create(store)
    raw: Any = valkey.redis.lindex(QUEUE, 1)
    valkey.redis.lrem(QUEUE, 1, raw)
    pass_milliseconds(valkey, 2)

    with_an_older_one = store.sweep("a").announced
    valkey.redis.rpop(QUEUE)
    claim(store, older)
    until(lambda: store.sweep("a").announced == 1)

    assert with_an_older_one == 0
    assert messages(valkey) == [younger, lost]


def test_the_queues_of_different_providers_are_judged_apart(
    make_store: MakeStore, valkey: Valkey
) -> None:
    store = make_store(check=0.001)
    create(store)
    lost = create(store, queue="images.openai")
    valkey.redis.delete("images.openai")
    pass_milliseconds(valkey, 2)

    assert store.sweep("a").announced == 1
    assert messages(valkey, "images.openai") == [lost]


def test_a_deferred_task_is_announced_at_its_time_and_not_before(
    store: TaskStore, valkey: Valkey
) -> None:
    later, now = claimed(store), claimed(store)
    valkey.redis.delete(QUEUE)
    store.defer(later, 60)
    store.defer(now, 0.001)
    pass_milliseconds(valkey, 2)

    assert store.sweep("a").announced == 1
    assert messages(valkey) == [now.task.id]


def test_a_task_that_killed_three_workers_is_not_given_to_a_fourth(
    store: TaskStore, valkey: Valkey
) -> None:
    held = claimed(store)
    store.journal(held, call(CallState.ACCEPTED, job={"id": "j", "state": {}}))
    let_lease_run_out(valkey, held)
    for _ in range(2):
        held = claim(store, held.task.id)
        let_lease_run_out(valkey, held)

    assert store.claim(held.task.id, "fourth") is None
    found = failure(store, held.task.id)
    assert (found.code, found.billed) == ("attempts_exhausted", "yes")


def test_putting_a_task_down_in_order_is_no_loss(store: TaskStore, valkey: Valkey) -> None:
    held = claimed(store)
    for _ in range(2):
        let_lease_run_out(valkey, held)
        held = claim(store, held.task.id)
    for _ in range(10):
        store.defer(held, 0)
        held = claim(store, held.task.id)

    assert held.attempt == 13


@pytest.mark.parametrize("leased", [True, False])
def test_the_deadline_ends_what_is_still_open(
    store: TaskStore, valkey: Valkey, leased: bool
) -> None:
    task_id = create(store)
    if leased:
        let_lease_run_out(valkey, claim(store, task_id))
    let_deadline_pass(valkey, task_id)
    valkey.redis.zadd("darkroom:due", {task_id: valkey.now() - 1})

    seen = store.sweep("a")

    assert (seen.due, seen.announced, seen.timed_out) == (1, 0, 1)
    assert failure(store, task_id).code == "timeout"
    assert store.sweep("a").due == 0


def test_an_open_task_is_looked_at_by_its_deadline_at_the_latest(
    make_store: MakeStore, valkey: Valkey
) -> None:
    patient, impatient = make_store(check=60), make_store(check=0.001)
    task_id = create(impatient, deadline=30)
    pass_milliseconds(valkey, 2)

    assert patient.sweep("a").due == 1

    assert valkey.redis.zscore("darkroom:due", task_id) == read(patient, task_id).deadline


def test_the_sweep_looks_at_no_more_than_its_limit_and_tells_its_lag(
    make_store: MakeStore, valkey: Valkey
) -> None:
    store = make_store(check=0.001)
    for n in range(5):
        create(store, owner=f"key_{n}")
    pass_milliseconds(valkey, 20)

    first, second = store.sweep("a", limit=3), store.sweep("a", limit=3)

    assert (first.due, second.due) == (3, 2)
    assert 0.018 <= first.lag < 60


def test_two_sweeps_side_by_side_announce_nothing_twice(
    store: TaskStore, make_store: MakeStore, valkey: Valkey
) -> None:
    brief = make_store(lease=0.001)
    ids = {claim(brief, create(store, owner=f"key_{n}")).task.id for n in range(200)}
    valkey.redis.delete(QUEUE)
    pass_milliseconds(valkey, 2)
    sweepers = [make_store() for _ in range(4)]
    threads = [threading.Thread(target=sweeper.sweep, args=("a",)) for sweeper in sweepers]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(messages(valkey)) == sorted(ids)


def test_one_of_many_workers_gets_the_claim(store: TaskStore, make_store: MakeStore) -> None:
    task_id = create(store)
    stores, won = [make_store() for _ in range(8)], []
    threads = [
        threading.Thread(target=lambda s=each: won.append(s.claim(task_id, "w"))) for each in stores
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(each is not None for each in won) == 1


# -- what is kept, and for how long


def test_a_record_is_kept_until_it_is_over_and_then_for_its_retention(
    make_store: MakeStore, valkey: Valkey
) -> None:
    """However long no sweep runs, what was accepted is there when one does."""
    store = make_store(retention=100)
    held = claimed(store, deadline=1000)
    open_ttl = valkey.redis.pttl(record_key(held.task.id))

    store.complete(held.task.id, held.task.generation, RESULT)

    assert open_ttl == -1
    assert 60_000 < valkey.redis.pttl(record_key(held.task.id)) <= 100_000


def test_a_finished_record_expires(make_store: MakeStore) -> None:
    store = make_store(retention=0.05)
    held = claimed(store)
    store.complete(held.task.id, held.task.generation, RESULT)

    until(lambda: store.read(held.task.id) is None)

    assert store.claim(held.task.id, "worker") is None


def test_nothing_is_left_in_the_due_set_of_what_is_over_or_gone(
    make_store: MakeStore, valkey: Valkey
) -> None:
    store = make_store(check=0.001, retention=0.05)
    done, gone = claimed(store), create(store, deadline=0.001)
    store.complete(done.task.id, done.task.generation, RESULT)
    valkey.redis.delete(record_key(gone))

    until(lambda: store.sweep("a").due)

    assert valkey.redis.zcard("darkroom:due") == 0


def test_the_index_of_an_owner_lists_the_owners_tasks_and_expires(
    make_store: MakeStore, valkey: Valkey
) -> None:
    store = make_store(retention=100)
    mine, other = create(store, deadline=50), create(store, owner="key_b", deadline=50)

    assert valkey.redis.zrange("darkroom:owner:key_a", 0, -1) == [mine]
    assert valkey.redis.zrange("darkroom:owner:key_b", 0, -1) == [other]
    assert 100_000 < valkey.redis.pttl("darkroom:owner:key_a") <= 150_000


def test_the_index_of_an_owner_forgets_expired_tasks(make_store: MakeStore, valkey: Valkey) -> None:
    store = make_store(retention=0.001)
    create(store, deadline=0.001)
    pass_milliseconds(valkey, 4)
    newer = create(store, deadline=0.001)

    assert valkey.redis.zrange("darkroom:owner:key_a", 0, -1) in ([newer], [])


def test_everything_but_what_the_living_need_expires(store: TaskStore, valkey: Valkey) -> None:
    held = claimed(store)
    store.complete(held.task.id, held.task.generation, RESULT)
    pending = create(store)
    store.sweep("a")

    lasting = {key for key in valkey.redis.scan_iter() if valkey.redis.pttl(key) == -1}

    waiting = {record_key(pending), f"darkroom:called:{QUEUE}", f"darkroom:shares:{QUEUE}"}
    assert lasting == {QUEUE, "darkroom:due", "darkroom:seen", "darkroom:counts"} | waiting


# -- outcomes and health


def test_outcomes_are_counted_by_model_with_their_mean_time(
    store: TaskStore, valkey: Valkey
) -> None:
    for _ in range(2):
        held = claimed(store)
        valkey.redis.hincrby(record_key(held.task.id), "created", -3000)
        store.complete(held.task.id, held.task.generation, RESULT)
    held = claimed(store)
    store.fail(held.task.id, held.task.generation, FAILURE)
    other = claimed(store, request=ImageRequest("dall-e-3", "x"))
    store.fail(other.task.id, other.task.generation, FAILURE)

    outcomes = store.outcomes()

    assert outcomes.keys() == {"flux-pro", "dall-e-3"}
    flux = outcomes["flux-pro"]
    assert (flux.succeeded, flux.failed, flux.samples) == (2, 1, 3)
    assert flux.mean_seconds is not None
    assert 3 <= flux.mean_seconds < 30
    assert (outcomes["dall-e-3"].failed, outcomes["dall-e-3"].mean_seconds) == (1, None)


@pytest.mark.parametrize("code", ["content_policy_violation", "invalid_value", "cancelled"])
def test_what_is_the_callers_doing_does_not_count_against_the_model(
    store: TaskStore, code: str
) -> None:
    held = claimed(store)
    store.fail(held.task.id, held.task.generation, Failure(code, "no"))

    assert store.outcomes() == {}


def test_timeouts_and_dead_workers_count_against_the_model(
    store: TaskStore, valkey: Valkey
) -> None:
    late, poison = create(store), claimed(store)
    let_deadline_pass(valkey, late)
    store.claim(late, "worker")
    let_lease_run_out(valkey, poison)
    valkey.redis.hset(record_key(poison.task.id), "losses", 2)
    store.claim(poison.task.id, "worker")

    assert store.outcomes()["flux-pro"].failed == 2


def test_outcomes_that_were_refused_do_not_count(store: TaskStore) -> None:
    held = claimed(store)
    store.complete(held.task.id, held.task.generation, RESULT)
    store.fail(held.task.id, held.task.generation, FAILURE)

    assert store.outcomes()["flux-pro"].samples == 1


def test_outcomes_older_than_a_day_are_gone(store: TaskStore, valkey: Valkey) -> None:
    hour = valkey.now() // 3_600_000
    for back in (0, 22, 24, 30):
        valkey.redis.hset(f"darkroom:outcomes:{hour - back}", "flux-pro:failed", 1)

    assert store.outcomes()["flux-pro"].failed == 2


def test_health_names_the_workers_and_sweeps_that_were_seen(
    store: TaskStore, valkey: Valkey
) -> None:
    store.renew("idle", {})
    store.renew("old", {})
    store.sweep("a")
    valkey.redis.zadd("darkroom:seen", {"old": valkey.now() - 90_000})

    health = store.health()

    assert health.workers.keys() == {"idle", "old"}
    assert health.sweeps.keys() == {"sweep:a"}
    assert 0 <= health.workers["idle"] < 60
    assert 90 <= health.workers["old"] < 150


def test_health_tells_how_late_the_sweep_is(store: TaskStore, valkey: Valkey) -> None:
    assert store.health().lag == 0
    create(store)
    late = create(store)
    assert store.health().lag == 0
    valkey.redis.zadd("darkroom:due", {late: valkey.now() - 40_000})

    assert 40 <= store.health().lag < 60
    store.sweep("a")
    assert store.health().lag == 0


def test_workers_that_were_not_seen_for_an_hour_are_forgotten(
    store: TaskStore, valkey: Valkey
) -> None:
    valkey.redis.zadd("darkroom:seen", {"gone": valkey.now() - 3_601_000})
    store.renew("here", {})

    assert store.health().workers.keys() == {"here"}


# -- round trips and trouble

METHODS: dict[str, Callable[[TaskStore, Claim], Any]] = {
    "create": lambda store, held: create(store),
    "read": lambda store, held: store.read(held.task.id),
    "read_many": lambda store, held: store.read_many([held.task.id]),
    "inspect": lambda store, held: store.inspect(held.task.id),
    "open": lambda store, held: store.open(limit=10),
    "list": lambda store, held: store.list("key_a", limit=10),
    "claim": lambda store, held: store.claim(held.task.id, "another"),
    "sweep": lambda store, held: store.sweep("a"),
    "health": lambda store, held: store.health(),
    "outcomes": lambda store, held: store.outcomes(),
    "usage": lambda store, held: store.usage("key_a"),
    "judge": lambda store, held: store.judge("bfl/flux-pro-1.1", "failing", 1),
    "routes": lambda store, held: store.routes(),
    "cancel": lambda store, held: store.cancel(held.task.id, "key_a"),
    "decline": lambda store, held: store.decline(held),
    "adopt": lambda store, held: store.adopt(held.task.id, call(CallState.ACCEPTED, first=3)),
    **WRITES,
}
READS = {"read", "read_many", "inspect", "open", "list", "health", "outcomes", "routes", "usage"}


def test_every_public_method_is_among_the_methods_tested_here() -> None:
    public = {name for name, _ in inspect.getmembers(TaskStore, inspect.isfunction)}

    assert METHODS.keys() == {name for name in public if not name.startswith("_")}


GREETINGS = {"CLIENT", "HELLO", "PING"}  # of a connection that is new, or was idle for long


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_one_round_trip(store: TaskStore, valkey: Valkey, method: str) -> None:
    held = claimed(store)
    client: Any = valkey.redis  # its types lack this command
    with client.monitor() as monitor:
        METHODS[method](store, held)
        valkey.redis.echo("end")

        seen = []
        while not (command := monitor.next_command())["command"].startswith("ECHO"):
            name = command["command"].split()[0]
            if command["client_type"] != "lua" and name not in GREETINGS:
                seen.append(name)

    assert seen == ["FCALL"]


@pytest.mark.parametrize("method", METHODS)
def test_a_server_that_is_gone_is_reported_as_such(
    store: TaskStore, valkey: Valkey, method: str
) -> None:
    held = claimed(store)
    with (
        open_store(f"redis://127.0.0.1:{free_port()}/0") as orphan,
        pytest.raises(StoreUnavailable, match="cannot be reached"),
    ):
        METHODS[method](orphan, held)


def test_a_server_that_hangs_is_reported_within_the_timeout(
    store: TaskStore, valkey: Valkey, make_store: MakeStore
) -> None:
    held = claimed(store)
    stores = {name: make_store() for name in METHODS}
    for name, connected in stores.items():
        if name in READS:  # the others have yet to connect
            connected.read(held.task.id)
    waits: dict[str, float] = {}

    def measure(method: str) -> None:
        start = time.monotonic()
        try:
            METHODS[method](stores[method], held)
        except StoreUnavailable:
            waits[method] = time.monotonic() - start

    threads = [threading.Thread(target=measure, args=(method,)) for method in METHODS]
    with valkey.frozen():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert waits.keys() == METHODS.keys()
    assert max(waits.values()) < 2.5


@pytest.mark.parametrize("method", sorted(METHODS.keys() - READS))
def test_a_refusal_to_write_is_reported_and_nothing_is_half_written(
    store: TaskStore, valkey: Valkey, method: str
) -> None:
    held = claimed(store)
    store.journal(held, call(CallState.SUBMITTING, first=3))
    if method == "claim":
        let_lease_run_out(valkey, held)
    before = valkey.redis.hgetall(record_key(held.task.id))
    due = valkey.redis.zrange("darkroom:due", 0, -1, withscores=True)

    with valkey.refusing(), pytest.raises(StoreUnavailable, match="does not take writes"):
        METHODS[method](store, held)

    assert valkey.redis.hgetall(record_key(held.task.id)) == before
    assert valkey.redis.zrange("darkroom:due", 0, -1, withscores=True) == due


def test_a_server_that_refuses_to_write_can_still_be_read(store: TaskStore, valkey: Valkey) -> None:
    held = claimed(store)

    with valkey.refusing():
        for method in sorted(READS):
            METHODS[method](store, held)


def test_a_server_at_its_memory_limit_takes_no_new_task(store: TaskStore, valkey: Valkey) -> None:
    with valkey.full(), pytest.raises(StoreUnavailable, match="does not take writes"):
        create(store)

    assert valkey.redis.zcard("darkroom:due") == 0


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"create"}))
def test_a_server_at_its_memory_limit_lets_accepted_tasks_come_to_their_end(
    store: TaskStore, valkey: Valkey, method: str
) -> None:
    held = claimed(store)
    store.journal(held, call(CallState.SUBMITTING, first=3))

    with valkey.full():
        METHODS[method](store, held)


def test_a_server_that_forgot_its_scripts_is_no_trouble(store: TaskStore, valkey: Valkey) -> None:
    task_id = create(store)
    valkey.redis.script_flush()

    assert claim(store, task_id)


def test_a_server_that_has_forgotten_the_functions_is_given_them_again(
    store: TaskStore, valkey: Valkey
) -> None:
    task_id = create(store)
    valkey.redis.function_flush("SYNC")

    assert read(store, task_id).status is Status.PENDING
    assert claim(store, task_id)


def test_functions_of_another_version_are_left_alone(
    store: TaskStore, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(store)
    digest = hashlib.sha256(common.script._SOURCE.encode()).hexdigest()
    assert f"darkroom_{digest[:16]}" == common.script._LIBRARY  # another source has another name
    code = common.script._CODE.replace(common.script._LIBRARY, "darkroom_other")
    monkeypatch.setattr("common.script._LIBRARY", "darkroom_other")
    monkeypatch.setattr("common.script._CODE", code)
    create(store)
    monkeypatch.undo()
    create(store)

    libraries: Any = valkey.redis.function_list()
    assert len(libraries) == 2
    assert valkey.redis.zcard("darkroom:due") == 3


def test_the_settings_say_how_many_may_wait(valkey: Valkey) -> None:
    with contextlib.closing(connect(valkey.url)) as client:
        store = TaskStore.of(client, load_settings(queue_limit=1, redis_url=valkey.url))
        create(store)

        with pytest.raises(QueueFull):
            create(store, owner="key_b")
