"""The heartbeat: leases of the living hold, leases of the dead run out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from common.store import TaskStore
from tests.common.tasks import claim, claimed, create, record_key
from tests.processes import until
from tests.valkey import Valkey
from workers.cancels import Cancels
from workers.heartbeat import Heartbeat

LEASE = 0.6  # seconds


@pytest.fixture
def brief(make_store: Callable[..., TaskStore]) -> TaskStore:
    return make_store(lease=LEASE)


@pytest.fixture
def heartbeat(brief: TaskStore, valkey: Valkey) -> Iterator[Heartbeat]:
    beating = Heartbeat(brief, "worker", Cancels(valkey.redis))
    beating.start()
    yield beating
    stop(beating)


def stop(heartbeat: Heartbeat) -> None:
    """Stop a heartbeat and wait for its last beat, so that none falls into another test."""
    heartbeat.stop()
    for thread in threading.enumerate():
        if thread.name == "heartbeat":
            thread.join(20)


def claim_of(store: TaskStore, task_id: str) -> bool:
    return store.claim(task_id, "another") is not None


def lease_ends(valkey: Valkey, task_id: str) -> int:
    """When the lease of a task ends, in Unix milliseconds; 0 without one."""
    return int(valkey.redis.hget(record_key(task_id), "lease") or 0)


def test_a_lease_is_renewed_for_as_long_as_it_is_held(
    heartbeat: Heartbeat, store: TaskStore, valkey: Valkey
) -> None:
    held = claimed(store)
    far = lease_ends(valkey, held.task.id)

    with heartbeat.holding(held):
        until(lambda: lease_ends(valkey, held.task.id) < far)  # its own length, from now on
        first = lease_ends(valkey, held.task.id)
        until(lambda: lease_ends(valkey, held.task.id) > first + 2 * LEASE * 1000)
        assert store.claim(held.task.id, "another") is None

    until(lambda: claim_of(store, held.task.id))


def test_the_leases_of_all_tasks_are_renewed_at_once(
    heartbeat: Heartbeat, store: TaskStore, valkey: Valkey
) -> None:
    first, second = claimed(store), claimed(store)
    far = lease_ends(valkey, first.task.id)

    with heartbeat.holding(first), heartbeat.holding(second):
        until(lambda: lease_ends(valkey, first.task.id) < far)
        ends = {lease_ends(valkey, held.task.id) for held in (first, second)}

    assert len(ends) == 1


def test_a_task_that_was_taken_is_left_to_its_new_holder(
    heartbeat: Heartbeat, store: TaskStore, valkey: Valkey
) -> None:
    lost, kept = claimed(store), claimed(store)

    with heartbeat.holding(lost), heartbeat.holding(kept):
        store.defer(lost, 0)
        taken = claim(store, lost.task.id, "another")
        ends = lease_ends(valkey, lost.task.id)
        start = lease_ends(valkey, kept.task.id)
        until(lambda: lease_ends(valkey, kept.task.id) not in (start, 0))
        now = lease_ends(valkey, kept.task.id)
        until(lambda: lease_ends(valkey, kept.task.id) > now)

        assert lease_ends(valkey, lost.task.id) == ends
        assert store.read(lost.task.id) == taken.task


def test_a_task_that_the_same_process_claimed_anew_goes_on_being_held(
    heartbeat: Heartbeat, store: TaskStore, valkey: Valkey
) -> None:
    first = claimed(store)
    with heartbeat.holding(first):
        store.defer(first, 0)
        second = claim(store, first.task.id)
        later = heartbeat.holding(second)
        later.__enter__()
    far = lease_ends(valkey, first.task.id)

    until(lambda: lease_ends(valkey, first.task.id) < far)

    later.__exit__(None, None, None)


def test_an_idle_process_shows_that_it_lives(
    heartbeat: Heartbeat, store: TaskStore, valkey: Valkey
) -> None:
    until(lambda: "worker" in store.health().workers)
    valkey.redis.delete("darkroom:seen")

    until(lambda: "worker" in store.health().workers)


def test_the_heartbeat_goes_on_after_redis_was_away(
    heartbeat: Heartbeat, store: TaskStore, valkey: Valkey
) -> None:
    until(lambda: "worker" in store.health().workers)
    with valkey.refusing():
        until(lambda: store.health().workers["worker"] > LEASE)

    until(lambda: store.health().workers["worker"] < LEASE / 3)


def test_a_heartbeat_that_was_stopped_lets_leases_run_out(
    brief: TaskStore, store: TaskStore, valkey: Valkey
) -> None:
    heartbeat = Heartbeat(brief, "worker", Cancels(valkey.redis))
    heartbeat.start()
    held = claim(brief, create(store))

    with heartbeat.holding(held):
        stop(heartbeat)
        until(lambda: claim_of(store, held.task.id))
