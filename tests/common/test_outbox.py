"""What is owed is in the record, and a try belongs to one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from common.connection import connect
from common.outbox import DueDelivery, Outbox, WebhookSecrets
from common.store import TaskStore
from common.task import Task
from common.webhook import Try, Webhook
from tests.common.tasks import (
    FAILURE,
    RESULT,
    claim,
    claimed,
    create,
    let_deadline_pass,
    let_lease_run_out,
    pass_milliseconds,
    record_key,
)
from tests.common.webhooks import ended, webhook
from tests.valkey import Valkey, close

WAITS = (100, 200, 400)
MakeOutbox = Callable[..., Outbox]


@pytest.fixture
def make_outbox(valkey: Valkey) -> Iterator[MakeOutbox]:
    with contextlib.ExitStack() as stack:

        def make(*, waits: Sequence[float] = WAITS, lease: float = 300) -> Outbox:
            client = connect(valkey.url)
            stack.callback(close, client)
            return Outbox(client, waits=waits, lease=lease)

        yield make


@pytest.fixture
def outbox(make_outbox: MakeOutbox) -> Outbox:
    return make_outbox()


@pytest.fixture
def secrets(valkey: Valkey) -> WebhookSecrets:
    return WebhookSecrets(valkey.redis)


def state(store: TaskStore, task_id: str) -> Webhook:
    task = store.read(task_id)
    assert task is not None
    assert task.webhook is not None
    return task.webhook


def take(outbox: Outbox) -> DueDelivery:
    (due,) = outbox.take(10)
    return due


def answer(outbox: Outbox, due: DueDelivery, status: int, **options: Any) -> bool:
    return outbox.told(due, Try(due.at, status, ms=5), **options)


def make_due(valkey: Valkey, store: TaskStore, task_id: str) -> None:
    """Make time pass until the next try of a delivery is due."""
    task = store.read(task_id)
    assert task is not None
    assert task.webhook is not None
    lane = f"{task.owner} {task.webhook.host}"
    valkey.redis.zadd(f"darkroom:webhooks:lane:{lane}", {task_id: 1})
    valkey.redis.zadd("darkroom:webhooks", {lane: 1})


def nothing_waits(valkey: Valkey) -> bool:
    return not list(valkey.redis.scan_iter("darkroom:webhooks*"))


# -- What is owed


@pytest.mark.parametrize("failed", [False, True])
def test_an_end_is_owed_from_the_moment_it_is_one(
    store: TaskStore, outbox: Outbox, failed: bool
) -> None:
    task_id = create(store, webhook=webhook())
    assert state(store, task_id).delivery is None
    held = claim(store, task_id)
    assert outbox.take(10) == []

    if failed:
        store.fail(task_id, held.task.generation, FAILURE)
    else:
        store.complete(task_id, held.task.generation, RESULT)

    assert state(store, task_id).delivery == "pending"
    due = take(outbox)
    assert (due.task.id, due.number, due.round) == (task_id, 1, 1)
    assert (due.task.result, due.task.failure) == ((None, FAILURE) if failed else (RESULT, None))
    assert due.webhook.url == webhook().url


def end_by_sweep(store: TaskStore, valkey: Valkey) -> Task:
    task_id = create(store, webhook=webhook())
    let_deadline_pass(valkey, task_id)
    valkey.redis.zadd("darkroom:due", {task_id: 1})
    assert store.sweep("a").timed_out == 1
    return read(store, task_id)


def end_by_claim(store: TaskStore, valkey: Valkey) -> Task:
    task_id = create(store, webhook=webhook())
    let_deadline_pass(valkey, task_id)
    assert store.claim(task_id, "late") is None
    return read(store, task_id)


def end_by_losses(store: TaskStore, valkey: Valkey) -> Task:
    held = claimed(store, webhook=webhook())
    for _ in range(2):
        let_lease_run_out(valkey, held)
        held = claim(store, held.task.id)
    let_lease_run_out(valkey, held)
    assert store.claim(held.task.id, "fourth") is None
    return read(store, held.task.id)


def end_by_celery(store: TaskStore, valkey: Valkey) -> Task:
    task_id = create(store, webhook=webhook())
    assert store.fail(task_id, None, FAILURE)
    return read(store, task_id)


def read(store: TaskStore, task_id: str) -> Task:
    task = store.read(task_id)
    assert task is not None
    return task


@pytest.mark.parametrize("end", [end_by_sweep, end_by_claim, end_by_losses, end_by_celery])
def test_however_a_task_ends_its_webhook_is_owed(
    store: TaskStore, valkey: Valkey, outbox: Outbox, end: Callable[[TaskStore, Valkey], Task]
) -> None:
    task = end(store, valkey)

    assert task.failure is not None
    assert take(outbox).task.failure == task.failure


@pytest.mark.parametrize(("events", "failed"), [(("failed",), False), (("completed",), True)])
def test_an_end_that_was_not_asked_for_is_not_owed(
    store: TaskStore, valkey: Valkey, outbox: Outbox, events: Any, failed: bool
) -> None:
    task_id = ended(store, events=events, failed=failed)

    assert state(store, task_id).delivery is None
    assert outbox.take(10) == []
    assert nothing_waits(valkey)
    assert outbox.redeliver(task_id) == "unasked"


def test_a_task_without_a_webhook_owes_nothing(
    store: TaskStore, valkey: Valkey, outbox: Outbox
) -> None:
    held = claimed(store)
    store.complete(held.task.id, held.task.generation, RESULT)

    assert outbox.redeliver(held.task.id) == "nowhere"
    assert nothing_waits(valkey)


# -- Who may make a try


def test_a_try_is_nobody_elses_until_its_lease_ends(
    store: TaskStore, valkey: Valkey, outbox: Outbox, make_outbox: MakeOutbox
) -> None:
    task_id = ended(store)
    take(outbox)

    assert make_outbox().take(10) == []
    make_due(valkey, store, task_id)
    assert make_outbox().take(10) == []


def test_a_try_whose_maker_died_is_made_again_and_told(
    store: TaskStore, valkey: Valkey, make_outbox: MakeOutbox
) -> None:
    task_id = ended(store)
    dead = take(make_outbox(lease=0.001))
    pass_milliseconds(valkey, 3)

    again = take(make_outbox())

    assert again.number == 2
    (first,) = state(store, task_id).tries
    assert (first.at, first.status, first.error) == (dead.at, None, "the worker was lost")


def test_who_lost_a_try_has_no_say_in_it(
    store: TaskStore, valkey: Valkey, make_outbox: MakeOutbox
) -> None:
    task_id = ended(store)
    frozen = make_outbox(lease=0.001)
    late = take(frozen)
    pass_milliseconds(valkey, 3)
    current = make_outbox()
    again = take(current)

    assert not answer(frozen, late, 410)

    assert state(store, task_id).delivery == "pending"
    assert answer(current, again, 204)
    assert state(store, task_id).delivery == "delivered"
    assert not answer(current, again, 410)


def test_what_kills_its_worker_does_not_go_on_for_ever(
    store: TaskStore, valkey: Valkey, make_outbox: MakeOutbox
) -> None:
    task_id = ended(store)
    deadly = make_outbox(waits=(1, 1), lease=0.001)
    for _ in range(3):
        take(deadly)
        pass_milliseconds(valkey, 3)

    assert deadly.take(10) == []
    assert state(store, task_id).delivery == "failed"
    assert [tried.error for tried in state(store, task_id).tries] == ["the worker was lost"] * 3


# -- What follows from a try


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_success_ends_it(store: TaskStore, valkey: Valkey, outbox: Outbox, status: int) -> None:
    task_id = ended(store)

    assert answer(outbox, take(outbox), status)

    done = state(store, task_id)
    assert (done.delivery, done.next_at) == ("delivered", None)
    assert [(tried.status, tried.ms) for tried in done.tries] == [(status, 5)]
    assert nothing_waits(valkey)


def test_gone_ends_it_as_well(store: TaskStore, valkey: Valkey, outbox: Outbox) -> None:
    task_id = ended(store)

    answer(outbox, take(outbox), 410)

    assert state(store, task_id).delivery == "gone"
    assert nothing_waits(valkey)


@pytest.mark.parametrize(
    "status", [199, 300, 301, 302, 307, 308, 400, 401, 404, 408, 429, 500, 503]
)
def test_anything_else_is_tried_again(
    store: TaskStore, valkey: Valkey, outbox: Outbox, status: int
) -> None:
    task_id = ended(store)

    answer(outbox, due := take(outbox), status)

    waiting = state(store, task_id)
    assert waiting.delivery == "pending"
    assert waiting.next_at is not None
    assert 100_000 <= waiting.next_at - due.at <= 111_000
    assert outbox.take(10) == []


def test_the_waits_grow_as_they_should_and_then_it_has_failed(
    store: TaskStore, valkey: Valkey, outbox: Outbox
) -> None:
    task_id = ended(store)
    for number, wait in enumerate(WAITS, start=1):
        due = take(outbox)
        assert outbox.told(due, Try(due.at, error="no connection could be made"))
        next_at = state(store, task_id).next_at
        assert next_at is not None
        assert wait <= (next_at - due.at) / 1000 <= 1.1 * wait + 1
        assert len(state(store, task_id).tries) == number
        make_due(valkey, store, task_id)

    answer(outbox, take(outbox), 500)

    over = state(store, task_id)
    assert (over.delivery, over.next_at, len(over.tries)) == ("failed", None, 4)
    assert nothing_waits(valkey)


@pytest.mark.parametrize(
    ("status", "retry_after", "seconds"),
    [(429, 250, 250), (503, 250, 250), (503, 1, 100), (500, 250, 100), (503, None, 100)],
)
def test_a_receiver_may_ask_for_more_time(
    store: TaskStore, outbox: Outbox, status: int, retry_after: float | None, seconds: float
) -> None:
    task_id = ended(store)

    answer(outbox, due := take(outbox), status, retry_after=retry_after)

    next_at = state(store, task_id).next_at
    assert next_at is not None
    assert seconds <= (next_at - due.at) / 1000 <= 1.1 * seconds + 1


def test_the_last_try_comes_while_its_pictures_are_there(
    make_store: Callable[..., TaskStore], valkey: Valkey, outbox: Outbox
) -> None:
    """A wait beyond nine tenths of the retention ends there, and with it all tries."""
    store = make_store(retention=60)
    task_id = ended(store)
    task = read(store, task_id)
    assert task.ended is not None

    answer(outbox, take(outbox), 500)

    assert state(store, task_id).next_at == task.ended + 54_000
    valkey.redis.hset(record_key(task_id), "ended", valkey.now() - 54_001)
    valkey.redis.hset(record_key(task_id), "expires", valkey.now() + 5_999)
    make_due(valkey, store, task_id)
    answer(outbox, take(outbox), 500)
    assert state(store, task_id).delivery == "failed"


def test_what_is_owed_does_not_outlive_its_record(
    store: TaskStore, valkey: Valkey, outbox: Outbox
) -> None:
    task_id = ended(store)
    valkey.redis.delete(record_key(task_id))

    assert outbox.take(10) == []
    assert nothing_waits(valkey)


def test_only_the_last_tries_are_kept(
    store: TaskStore, valkey: Valkey, make_outbox: MakeOutbox
) -> None:
    outbox = make_outbox(waits=(1,) * 30)
    task_id = ended(store)
    for status in range(400, 425):
        if status == 410:
            continue
        answer(outbox, take(outbox), status)
        make_due(valkey, store, task_id)

    statuses = [tried.status for tried in state(store, task_id).tries]

    assert statuses == [status for status in range(404, 425) if status != 410]


# -- Once more


@pytest.mark.parametrize("status", [204, 410, 500])
def test_a_delivery_can_be_asked_for_again(
    store: TaskStore, make_outbox: MakeOutbox, status: int
) -> None:
    outbox = make_outbox(waits=())
    task_id = ended(store)
    answer(outbox, take(outbox), status)
    assert state(store, task_id).delivery in ("delivered", "gone", "failed")

    assert outbox.redeliver(task_id) == "asked"

    assert state(store, task_id).delivery == "pending"
    due = take(outbox)
    assert (due.number, due.round) == (2, 1)
    assert answer(outbox, due, 200)
    assert [tried.status for tried in state(store, task_id).tries] == [status, 200]


def test_asking_again_brings_the_next_try_forward(store: TaskStore, outbox: Outbox) -> None:
    task_id = ended(store)
    answer(outbox, take(outbox), 500)
    assert outbox.take(10) == []

    assert outbox.redeliver(task_id) == "asked"

    assert (take(outbox).round) == 1


def test_asking_again_does_not_double_a_try_under_way(store: TaskStore, outbox: Outbox) -> None:
    task_id = ended(store)
    due = take(outbox)

    assert outbox.redeliver(task_id) == "asked"

    assert outbox.take(10) == []
    assert answer(outbox, due, 200)
    assert state(store, task_id).delivery == "delivered"


def test_nothing_is_delivered_before_the_end(store: TaskStore, outbox: Outbox) -> None:
    held = claimed(store, webhook=webhook())

    assert outbox.redeliver(held.task.id) == "open"
    assert outbox.take(10) == []


# -- Many


def test_a_dead_host_keeps_nobody_else_waiting(store: TaskStore, outbox: Outbox) -> None:
    """A thousand deliveries to one host take its share and no more, also of the same key's."""
    for _ in range(1000):
        ended(store, url="https://dead.example.com/")
    others = {ended(store, url=f"https://alive-{i}.example.com/", owner="key_b") for i in range(5)}
    mine = ended(store, url="https://mine.example.com/")

    taken = outbox.take(32)

    hosts = [due.webhook.host for due in taken]
    assert hosts.count("dead.example.com") == 8
    assert {due.task.id for due in taken} >= {*others, mine}
    assert outbox.take(32) == []


def test_a_place_that_is_given_back_is_taken_at_once(store: TaskStore, outbox: Outbox) -> None:
    tasks = {ended(store, url="https://busy.example.com/") for _ in range(20)}
    seen: set[str] = set()
    while taken := outbox.take(32):
        seen |= {due.task.id for due in taken}
        for due in taken:
            answer(outbox, due, 200)

    assert seen == tasks


def test_one_key_gets_no_more_than_its_share(store: TaskStore, outbox: Outbox) -> None:
    for i in range(40):
        ended(store, url=f"https://host-{i}.example.com/", owner="key_a")
    other = ended(store, owner="key_b")

    taken = outbox.take(32)

    assert len([due for due in taken if due.task.owner == "key_a"]) == 24
    assert other in {due.task.id for due in taken}


def test_as_many_are_taken_as_there_is_room_for(store: TaskStore, outbox: Outbox) -> None:
    for _ in range(5):
        ended(store)

    assert [len(outbox.take(room)) for room in (0, 2, 2, 10)] == [0, 2, 2, 1]


def test_the_places_of_the_dead_come_back(
    store: TaskStore, valkey: Valkey, make_outbox: MakeOutbox
) -> None:
    for _ in range(16):
        ended(store)
    assert len(make_outbox(lease=0.001).take(32)) == 8
    pass_milliseconds(valkey, 3)
    valkey.redis.zadd("darkroom:webhooks", {"key_a shop.example.com": 1})

    assert len(make_outbox().take(32)) == 8


def test_a_redis_at_its_memory_limit_lets_deliveries_through(
    store: TaskStore, valkey: Valkey, outbox: Outbox, secrets: WebhookSecrets
) -> None:
    task_id = ended(store)

    with valkey.full():
        due = take(outbox)
        assert secrets.of(due.task.owner)
        assert answer(outbox, due, 200)

    assert state(store, task_id).delivery == "delivered"


# -- Secrets


def test_a_secret_is_made_once(secrets: WebhookSecrets) -> None:
    (first,) = secrets.of("key_a")

    assert first.startswith("whsec_")
    assert secrets.of("key_a") == (first,)
    assert secrets.of("key_b") != (first,)


def test_an_old_secret_signs_beside_the_new_one_for_a_day(
    secrets: WebhookSecrets, valkey: Valkey
) -> None:
    (old,) = secrets.of("key_a")

    new, *others = secrets.rotate("key_a")

    assert others == [old]
    assert secrets.of("key_a") == (new, old)
    entry = valkey.redis.hget("darkroom:webhook_secrets", "key_a")
    assert entry is not None
    assert f'"until":{valkey.now() + 24 * 3600 * 1000}'[:-4] in entry
    _, *others = secrets.rotate("key_a")
    assert others == [new, old]


def test_an_old_secret_ends_at_its_time(secrets: WebhookSecrets, valkey: Valkey) -> None:
    secrets.of("key_a")
    new, _ = secrets.rotate("key_a", keep=0.05)

    pass_milliseconds(valkey, 60)

    assert secrets.of("key_a") == (new,)
    assert len(secrets.rotate("key_a", keep=0)) == 1


def test_the_first_secret_may_be_rotated_before_it_was_needed(secrets: WebhookSecrets) -> None:
    assert len(secrets.rotate("key_a")) == 1
