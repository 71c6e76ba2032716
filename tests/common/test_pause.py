"""What an operator pauses buys nothing, whoever races for it, and goes on when it is resumed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from common.catalog import Catalog
from common.connection import connect
from common.oversight import Oversight
from common.store import Grant, Offer, TaskStore
from common.task import CallState, Claim
from tests.common.tasks import (
    REQUEST,
    call,
    claimed,
    create,
    pass_milliseconds,
    record_key,
)
from tests.processes import until
from tests.valkey import Valkey, close, open_store

ROUTE = "bfl/flux-pro-1.1"
CALL = call(CallState.SUBMITTING)
OFFER = Offer(ROUTE, 0, (CALL,))
ONE_AT_A_TIME = Offer(ROUTE, 1, (CALL,))
ELSEWHERE = Offer("fal/f", 0, (CALL,))
NAMES = [ROUTE, "bfl", "model:flux-pro"]


@pytest.fixture
def oversight(valkey: Valkey) -> Iterator[Oversight]:
    client = connect(valkey.url)
    yield Oversight(client, Catalog.load())
    close(client)


def begin(store: TaskStore, held: Claim, *offers: Offer) -> str:
    """The route that was taken, or why the first one takes no call."""
    got = store.begin(held, list(offers) or [OFFER])
    if isinstance(got, Grant):
        return (list(offers) or [OFFER])[got.offer].route
    assert got is not None
    return got[0].why


def wait(store: TaskStore, held: Claim) -> None:
    """Do what a worker does with a task that met a pause."""
    assert begin(store, held) == "paused"
    store.defer(held, 300, blocked="paused")


@pytest.mark.parametrize("name", NAMES)
def test_no_call_begins_while_it_is_paused(
    store: TaskStore, oversight: Oversight, valkey: Valkey, name: str
) -> None:
    held = claimed(store)

    oversight.pause(name)

    assert begin(store, held) == "paused"
    assert store.read(held.task.id).generation == 1  # type: ignore[union-attr]
    assert not [f for f in valkey.redis.hkeys(record_key(held.task.id)) if f.startswith("call:")]
    assert store.routes()[name].why == "paused"
    oversight.resume(name)
    assert begin(store, held) == ROUTE
    assert store.routes() == {}


def test_another_route_is_taken_where_there_is_one(store: TaskStore, oversight: Oversight) -> None:
    oversight.pause("bfl")

    assert begin(store, claimed(store), OFFER, ELSEWHERE) == ELSEWHERE.route


def test_calls_in_flight_go_on(store: TaskStore, oversight: Oversight) -> None:
    held = claimed(store)
    assert begin(store, held) == ROUTE

    oversight.pause(ROUTE)

    store.journal(held, call(CallState.ACCEPTED))
    store.journal(held, call(CallState.RECEIVED))


def test_a_success_does_not_open_what_is_paused(store: TaskStore, oversight: Oversight) -> None:
    oversight.pause(ROUTE)

    store.judge(ROUTE, "fine")

    assert begin(store, claimed(store)) == "paused"


def test_nothing_slips_through_a_pause_under_load(
    store: TaskStore, oversight: Oversight, valkey: Valkey
) -> None:
    """Eight workers begin calls as fast as they can. None of them begins one after the pause."""
    over, paused_met = threading.Event(), threading.Semaphore(0)

    def work(number: int) -> None:
        with open_store(valkey.url, lease=300) as mine:
            while not over.is_set():
                if begin(mine, claimed(mine, owner=f"key_{number}")) == "paused":
                    paused_met.release()

    def begun() -> int:
        counts = valkey.redis.hgetall("darkroom:counts")
        return sum(int(n) for field, n in counts.items() if f"{ROUTE}\tsubmitting" in field)

    with ThreadPoolExecutor(8) as pool:
        workers = [pool.submit(work, number) for number in range(8)]
        until(lambda: begun() > 50, "calls begin")
        oversight.pause("bfl")
        at_the_pause = begun()
        for _ in range(200):
            assert paused_met.acquire(timeout=30)
        after = begun()
        over.set()
        for worker in workers:
            worker.result(30)

    assert after == begun() == at_the_pause


def test_what_waits_is_due_when_it_is_resumed(store: TaskStore, oversight: Oversight) -> None:
    oversight.pause(ROUTE)
    waiting = [claimed(store) for _ in range(3)]
    for held in waiting:
        wait(store, held)
    assert store.claim(waiting[0].task.id, "worker") is None

    oversight.resume(ROUTE)

    for held in waiting:
        assert store.claim(held.task.id, "worker")


def test_more_than_one_step_can_wake_are_all_due(
    store: TaskStore, oversight: Oversight, valkey: Valkey
) -> None:
    oversight.pause(ROUTE)
    held = claimed(store)
    wait(store, held)
    strangers = {f"imgtask_{n}": 0 for n in range(2500)}  # who met the pause before
    now = valkey.now()
    valkey.redis.zadd("darkroom:routes:paused", dict.fromkeys(strangers, now - 1000))

    oversight.resume(ROUTE)

    assert store.claim(held.task.id, "worker")
    assert valkey.redis.zcard("darkroom:routes:paused") == 0


def test_a_pause_that_ends_before_the_task_is_put_back_delays_it_by_nothing(
    store: TaskStore, oversight: Oversight
) -> None:
    oversight.pause(ROUTE)
    held = claimed(store)
    assert begin(store, held) == "paused"

    oversight.resume(ROUTE)
    store.defer(held, 300, blocked="paused")

    assert store.claim(held.task.id, "worker")


def test_who_waits_for_a_place_may_go_elsewhere(store: TaskStore, oversight: Oversight) -> None:
    first, waiting = claimed(store), claimed(store)
    begin(store, first, ONE_AT_A_TIME)
    assert begin(store, waiting, ONE_AT_A_TIME) == "full"
    store.defer(waiting, 300, blocked="full")
    assert store.claim(waiting.task.id, "worker") is None

    oversight.pause(ROUTE)

    again = store.claim(waiting.task.id, "worker")
    assert again is not None
    assert begin(store, again, ONE_AT_A_TIME, ELSEWHERE) == ELSEWHERE.route


def test_a_paused_line_is_not_called_up_again_and_again(
    store: TaskStore, oversight: Oversight
) -> None:
    first, waiting = claimed(store), claimed(store)
    begin(store, first, ONE_AT_A_TIME)
    assert begin(store, waiting, ONE_AT_A_TIME) == "full"
    oversight.pause(ROUTE)
    wait(store, waiting)
    store.journal(first, call(CallState.TURNED_AWAY))
    store.defer(first, 300)  # its place is free

    store.sweep("a")

    assert store.claim(waiting.task.id, "worker") is None
    oversight.resume(ROUTE)
    assert store.claim(waiting.task.id, "worker")


def test_a_paused_model_keeps_no_other_one_waiting(store: TaskStore, oversight: Oversight) -> None:
    """They share a route with one place, and the paused one's task is first in its line."""
    first, paused = claimed(store), claimed(store)
    other = claimed(store, request=replace(REQUEST, model="flux-dev"))
    begin(store, first, ONE_AT_A_TIME)
    assert begin(store, paused, ONE_AT_A_TIME) == "full"
    assert begin(store, other, ONE_AT_A_TIME) == "full"

    oversight.pause("model:flux-pro")
    assert begin(store, paused, ONE_AT_A_TIME) == "paused"
    store.journal(first, call(CallState.TURNED_AWAY))
    store.defer(first, 300)

    assert begin(store, other, ONE_AT_A_TIME) == ROUTE


def test_a_pause_outlives_a_restart_of_redis(valkey: Valkey, oversight: Oversight) -> None:
    """It is kept where everything else is, and nothing makes it expire."""
    oversight.pause(ROUTE)
    since = oversight.pause(ROUTE)  # a second time changes nothing

    assert valkey.redis.ttl("darkroom:routes") == -1
    assert valkey.redis.hget("darkroom:routes", f"{ROUTE}:paused") == str(since)


# -- the oldest tasks


def test_the_oldest_are_found_wherever_they_wait(
    store: TaskStore, oversight: Oversight, valkey: Valkey
) -> None:
    """In the queue, in a line, held, put back for later: the oldest is told first."""
    deferred = claimed(store, owner="key_d")
    store.defer(deferred, 300)
    held = claimed(store, owner="key_h")
    waiting = [create(store, owner="key_w") for _ in range(9)]  # four announced, five in line

    found = [one.task.id for one in oversight.oldest(100)]

    assert sorted(found) == sorted([deferred.task.id, held.task.id, *waiting])
    ages = [one.task.created for one in oversight.oldest(100)]
    assert ages == sorted(ages)
    assert [one.task.id for one in oversight.oldest(2)] == found[:2]


def test_a_task_that_hangs_at_a_worker_is_found_behind_any_number_that_wait(
    store: TaskStore, oversight: Oversight, valkey: Valkey
) -> None:
    held = claimed(store)
    pass_milliseconds(valkey, 2)
    for number in range(520):  # all of which are to be looked at before its lease ends
        create(store, owner=f"key_{number}")

    assert [one.task.id for one in oversight.oldest(1)] == [held.task.id]


def test_what_is_looked_at_is_bounded(
    store: TaskStore, oversight: Oversight, valkey: Valkey
) -> None:
    for number in range(40):
        for _ in range(60):
            create(store, owner=f"key_{number}")
    valkey.redis.config_resetstat()

    assert len(oversight.oldest(50)) == 50

    calls = valkey.redis.info("commandstats")["cmdstat_hmget"]["calls"]
    assert calls <= 500 + 64 + 400 + 500
