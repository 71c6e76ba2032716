"""The numbers of the fleet: what is counted, once, and what is looked up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from common.catalog import Catalog, Route
from common.fleet import OTHER, Backlog, Figures, Fleet
from common.outbox import Outbox
from common.store import Offer, TaskStore
from common.task import Call, CallState, Claim
from common.webhook import Try, Webhook
from tests.common.tasks import (
    FAILURE,
    QUEUE,
    REQUEST,
    RESULT,
    WORKER,
    call,
    claim,
    claimed,
    create,
    let_deadline_pass,
    let_lease_run_out,
    pass_milliseconds,
    record_key,
)
from tests.valkey import Valkey

ROUTE = "bfl/flux-pro-1.1"
CAPPED = "bfl/capped"


def catalog() -> Catalog:
    models = list(Catalog.load())
    (flux,) = [model for model in models if model.id == "flux-pro"]
    routes = (*flux.routes, Route("bfl", "capped", cap=3))
    return Catalog([*models, replace(flux, id="capped", routes=routes)])


@pytest.fixture
def look(valkey: Valkey) -> Callable[[], Figures]:
    return Fleet(valkey.redis, catalog()).look


def begin(store: TaskStore, holder: Claim, *calls: Call, route: str = ROUTE, cap: int = 0) -> None:
    store.begin(holder, [Offer(route, cap, calls)])


def test_nothing_has_happened_yet(look: Callable[[], Figures]) -> None:
    figures = look()

    assert figures.accepted == figures.ended == figures.calls == figures.spent == {}
    assert figures.queues[QUEUE] == Backlog(0, 0, 0.0)
    assert figures.in_flight[CAPPED] == figures.waiting[CAPPED] == 0
    assert (figures.open_tasks, figures.due_tasks, figures.sweep_lag) == (0, 0, 0.0)
    assert figures.workers == figures.sweeps == figures.shut == {}
    assert figures.memory is not None
    assert figures.writes_to_disk is True


def test_it_is_one_round_trip_that_writes_nothing(
    store: TaskStore, valkey: Valkey, look: Callable[[], Figures]
) -> None:
    claimed(store)
    look()
    valkey.redis.config_resetstat()
    dirty = valkey.redis.info("persistence")["rdb_changes_since_last_save"]

    look()

    assert valkey.redis.info("persistence")["rdb_changes_since_last_save"] == dirty
    assert valkey.commands()["fcall"] == 1


def test_a_task_is_counted_from_its_submit_to_its_end(
    store: TaskStore, look: Callable[[], Figures]
) -> None:
    task_id = create(store, request=replace(REQUEST, n=3), price=0.05)
    assert look().queues[QUEUE].waiting == 1

    holder = claim(store, task_id)
    one = call(CallState.SUBMITTING, count=3, begun=1.0)
    begin(store, holder, one)
    store.journal(holder, replace(one, state=CallState.ACCEPTED))
    figures = look()
    assert (figures.queues[QUEUE].waiting, figures.queues[QUEUE].taken) == (0, 1)
    assert figures.open_tasks == 1

    usage = {"cost_usd": 0.12, "seconds": 3.5}
    assert store.complete(task_id, holder.task.generation, replace(RESULT, usage=usage))

    figures = look()
    assert figures.accepted == {("flux-pro",): 1}
    assert figures.asked == {("flux-pro",): 3}
    assert figures.ended == {("flux-pro", ROUTE, "completed", "", ""): 1}
    assert figures.calls == {(ROUTE, "submitting", ""): 1, (ROUTE, "accepted", ""): 1}
    assert figures.bought == {(ROUTE,): 3}
    assert figures.spent == {("flux-pro", ROUTE): 0.12}
    assert figures.open_tasks == 0
    assert figures.queues[QUEUE].taken == 0
    took = figures.provider_times[ROUTE]
    assert took.total == 3.5
    assert dict(took.buckets)["2"] == 0
    assert dict(took.buckets)["4"] == dict(took.buckets)["+Inf"] == 1
    assert dict(figures.task_times["flux-pro"].buckets)["+Inf"] == 1


def test_a_failure_has_its_code_and_what_is_known_of_the_bill(
    store: TaskStore, look: Callable[[], Figures]
) -> None:
    holder = claimed(store)
    failure = replace(FAILURE, code="outcome_unknown", billed="unknown")
    one = call(CallState.SUBMITTING)
    begin(store, holder, one)
    store.journal(
        holder, replace(one, state=CallState.FAILED, failure=failure, error="outcome_unknown")
    )
    assert store.fail(holder.task.id, holder.task.generation, failure)

    figures = look()

    assert figures.ended == {("flux-pro", "", "failed", "outcome_unknown", "unknown"): 1}
    assert figures.calls[ROUTE, "failed", "outcome_unknown"] == 1
    assert figures.bought == figures.provider_times == {}


def test_what_the_sweep_ends_is_counted_too(
    store: TaskStore, valkey: Valkey, look: Callable[[], Figures]
) -> None:
    task_id = create(store)
    let_deadline_pass(valkey, task_id)
    valkey.redis.zadd("darkroom:due", {task_id: 0})

    store.sweep("tests")

    assert look().ended == {("flux-pro", "", "failed", "timeout", "no"): 1}


def test_a_write_that_is_repeated_counts_once(
    store: TaskStore, look: Callable[[], Figures]
) -> None:
    holder = claimed(store)
    one = call(CallState.SUBMITTING)
    received = replace(one, state=CallState.RECEIVED)

    for _ in range(3):
        begin(store, holder, one)
    for _ in range(3):
        store.journal(holder, received)

    figures = look()
    assert figures.calls == {(ROUTE, "submitting", ""): 1, (ROUTE, "received", ""): 1}
    assert figures.bought == {(ROUTE,): 1}


def test_a_call_that_is_sent_again_counts_again(
    store: TaskStore, look: Callable[[], Figures]
) -> None:
    holder = claimed(store)
    one = call(CallState.SUBMITTING)
    begin(store, holder, one)
    away = replace(one, state=CallState.TURNED_AWAY, failure=FAILURE, error="rate_limited")
    store.journal(holder, away)

    begin(store, holder, one)

    assert look().calls == {
        (ROUTE, "submitting", ""): 2,
        (ROUTE, "turned_away", "rate_limited"): 1,
    }


def test_a_late_answer_counts_as_bought(
    store: TaskStore, valkey: Valkey, look: Callable[[], Figures]
) -> None:
    holder = claimed(store)
    one = call(CallState.SUBMITTING)
    begin(store, holder, one)
    let_lease_run_out(valkey, holder)
    claim(store, holder.task.id, "another")

    assert store.adopt(holder.task.id, replace(one, state=CallState.RECEIVED))

    figures = look()
    assert figures.bought == {(ROUTE,): 1}
    assert figures.leases_lost == 1


def test_what_is_put_back_is_neither_waiting_nor_taken(
    store: TaskStore, look: Callable[[], Figures]
) -> None:
    holder = claimed(store)

    assert store.defer(holder, 60)

    figures = look()
    assert (figures.queues[QUEUE].waiting, figures.queues[QUEUE].taken) == (0, 0)
    assert figures.open_tasks == 1


def test_a_dead_workers_task_stays_taken_until_somebody_has_it(
    store: TaskStore, valkey: Valkey, look: Callable[[], Figures]
) -> None:
    holder = claimed(store)
    let_lease_run_out(valkey, holder)
    assert look().queues[QUEUE].taken == 1

    again = claim(store, holder.task.id, "another")
    assert look().queues[QUEUE].taken == 1

    assert store.complete(again.task.id, again.task.generation, RESULT)
    assert look().queues[QUEUE].taken == 0


def test_the_oldest_of_a_queue_is_as_old_as_its_submit(
    store: TaskStore, valkey: Valkey, look: Callable[[], Figures]
) -> None:
    create(store)
    task_id = create(store)
    valkey.redis.hincrby(record_key(task_id), "created", -60_000)

    assert 60 <= look().queues[QUEUE].oldest < 70


def test_a_line_is_looked_into(
    store: TaskStore, valkey: Valkey, look: Callable[[], Figures]
) -> None:
    ids = [create(store) for _ in range(5)]
    valkey.redis.zincrby(f"darkroom:line:{QUEUE}:key_a", -90e6, ids[4])

    backlog = look().queues[QUEUE]

    assert backlog.waiting == 5
    assert 89 <= backlog.oldest < 100


def test_capped_routes_tell_who_is_on_them_and_who_waits(
    store: TaskStore, look: Callable[[], Figures]
) -> None:
    def capped(first: int) -> Call:
        return Call(first, 1, "bfl", "capped", CallState.SUBMITTING)

    busy, waits = claimed(store), claimed(store)
    begin(store, busy, *map(capped, range(3)), route=CAPPED, cap=3)
    begin(store, waits, capped(0), route=CAPPED, cap=3)

    figures = look()

    assert figures.in_flight[CAPPED] == 3
    assert figures.waiting[CAPPED] == 1


def test_due_tasks_and_how_late_the_sweep_is(
    store: TaskStore, valkey: Valkey, look: Callable[[], Figures]
) -> None:
    task_id = create(store)
    valkey.redis.zadd("darkroom:due", {task_id: valkey.now() - 30_000})

    figures = look()

    assert figures.due_tasks == 1
    assert 30 <= figures.sweep_lag < 40
    assert store.sweep("tests").due == 1
    assert look().due_tasks == 0


def test_a_lost_message_is_counted_when_it_is_sent_again(
    make_store: Callable[..., TaskStore], valkey: Valkey, look: Callable[[], Figures]
) -> None:
    store = make_store(check=0.001)
    create(store)
    valkey.redis.delete(QUEUE)
    pass_milliseconds(valkey, 3)

    assert store.sweep("tests").announced == 1

    assert look().announced_again == 1


def test_processes_and_routes_that_are_shut(store: TaskStore, look: Callable[[], Figures]) -> None:
    store.renew(WORKER, {})
    store.sweep("tests")
    store.judge(ROUTE, "rate_limited", 30)
    store.judge(ROUTE, "no_credit", 300)
    store.judge("gone/model", "rate_limited", 30)

    figures = look()

    assert set(figures.workers) == {WORKER}
    assert set(figures.sweeps) == {"sweep:tests"}
    assert {name: shut.why for name, shut in figures.shut.items()} == {
        ROUTE: "rate_limited",
        "bfl": "no_credit",
    }


def test_webhooks_that_are_owed(
    store: TaskStore, valkey: Valkey, look: Callable[[], Figures]
) -> None:
    webhook = Webhook("https://shop.example/", "shop.example", ("completed",), "http://here")
    holder = claimed(store, webhook=webhook)
    assert store.complete(holder.task.id, holder.task.generation, RESULT)
    figures = look()
    assert (figures.webhook_lanes, figures.webhooks_owed) == (1, 1)

    outbox = Outbox(valkey.redis, waits=(60,), lease=30)
    (due,) = outbox.take(1)
    assert outbox.told(due, Try(due.at, 500, None, 3))
    assert look().webhook_tries == {("again",): 1}

    assert outbox.redeliver(holder.task.id) == "asked"
    (due,) = outbox.take(1)
    assert outbox.told(due, Try(due.at, 200, None, 3))
    figures = look()
    assert figures.webhook_tries == {("again",): 1, ("delivered",): 1}
    assert figures.webhooks_owed == 0


def test_what_the_catalog_does_not_have_goes_by_one_name(
    store: TaskStore, valkey: Valkey, look: Callable[[], Figures]
) -> None:
    for model in ("once", "another"):
        holder = claimed(store, request=replace(REQUEST, model=model))
        one = Call(0, 1, "gone", model, CallState.SUBMITTING)
        begin(store, holder, one, route=f"gone/{model}")
        result: Any = replace(RESULT, provider="gone", provider_model=model)
        assert store.complete(holder.task.id, holder.task.generation, result)

    figures = look()

    assert figures.accepted == {(OTHER,): 2}
    assert figures.calls == {(OTHER, "submitting", ""): 2}
    assert figures.ended == {(OTHER, OTHER, "completed", "", ""): 2}


def test_a_redis_that_tells_nothing_of_itself_is_no_trouble(
    store: TaskStore, valkey: Valkey, look: Callable[[], Figures]
) -> None:
    create(store)
    look()
    valkey.redis.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        figures = look()
    finally:
        valkey.redis.execute_command("ACL", "SETUSER", "default", "+info")

    assert figures.open_tasks == 1
    assert figures.memory is figures.memory_limit is figures.writes_to_disk is None
