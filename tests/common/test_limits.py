"""Limits of a key and what it has used: decided with the submit, put right at the end."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

import pytest

from common.errors import LimitExceeded
from common.limits import Limits, UsedByModel
from common.store import Created, TaskStore
from common.task import (
    CallState,
    Failure,
    ImageRequest,
    Result,
    StoredImage,
    new_task_id,
)
from tests.common.tasks import call, claim, let_deadline_pass, record_key
from tests.valkey import Valkey, open_store

OWNER = "key_a"
IMAGE = StoredImage("name/0.png", "png", 64, 48, 123, "0" * 64)
MINUTE = 60_000_000  # microseconds


def submit(
    store: TaskStore,
    limits: Limits,
    *,
    n: int = 1,
    price: float | None = 0.04,
    owner: str = OWNER,
    model: str = "flux-pro",
    deadline: float = 600,
) -> tuple[str, Created]:
    task_id = new_task_id()
    request = ImageRequest(model, "a red apple", n=n)
    created = store.create(
        task_id,
        owner=owner,
        queue="images.bfl",
        request=request,
        deadline=deadline,
        limits=limits,
        price=price,
    )
    assert created is not None
    return task_id, created


def refused(store: TaskStore, limits: Limits, **options: Any) -> LimitExceeded:
    with pytest.raises(LimitExceeded) as caught:
        submit(store, limits, **options)
    return caught.value


def complete(
    store: TaskStore,
    task_id: str,
    *,
    images: int = 1,
    missing: tuple[Failure, ...] = (),
    **usage: Any,
) -> None:
    held = claim(store, task_id)
    result = Result((IMAGE,) * images, "bfl", "flux-pro-1.1", usage, missing)
    assert store.complete(task_id, held.task.generation, result)


def fail(store: TaskStore, task_id: str, billed: Any) -> None:
    held = claim(store, task_id)
    assert store.fail(task_id, held.task.generation, Failure("x", "y", billed=billed))


def used(store: TaskStore) -> UsedByModel:
    usage = store.usage(OWNER)
    assert usage.month.total == usage.today.total
    return usage.month.total


def everything(valkey: Valkey) -> dict[str, Any]:
    """All that is in the server, by key."""
    client: Any = valkey.redis
    read = {
        "hash": client.hgetall,
        "string": client.get,
        "zset": lambda name: client.zrange(name, 0, -1, withscores=True),
        "list": lambda name: client.lrange(name, 0, -1),
    }
    return {name: read[client.type(name)](name) for name in client.scan_iter()}


LIMITS = [
    Limits(requests_per_minute=2),
    Limits(tasks_in_flight=2),
    Limits(images_per_day=2),
    Limits(usd_per_month=0.08),
]


@pytest.mark.parametrize("limits", LIMITS)
def test_what_the_limit_admits_is_accepted_and_the_next_leaves_no_trace(
    store: TaskStore, valkey: Valkey, limits: Limits
) -> None:
    submit(store, limits)
    submit(store, limits)
    before = everything(valkey)

    error = refused(store, limits)

    assert everything(valkey) == before
    assert error.used == pytest.approx(0.08 if limits.usd_per_month else 2)
    submit(store, limits, owner="key_b")  # another key has its own


@pytest.mark.parametrize("limits", LIMITS)
def test_many_at_once_are_accepted_up_to_the_limit_exactly(valkey: Valkey, limits: Limits) -> None:
    accepted, refusals = [], []
    start = threading.Barrier(20)

    def post() -> None:
        with open_store(valkey.url) as store:
            start.wait()
            for _ in range(5):
                try:
                    accepted.append(submit(store, limits))
                except LimitExceeded as error:
                    refusals.append(error)

    threads = [threading.Thread(target=post) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(accepted), len(refusals)) == (2, 98)


def test_a_key_without_limits_is_not_counted_against_and_told_nothing(store: TaskStore) -> None:
    created = [submit(store, Limits())[1] for _ in range(30)]

    assert all(answer.left is None for answer in created)


# -- requests per minute


def let_pass(valkey: Valkey, seconds: float) -> None:
    """Make time pass for the requests of the key."""
    valkey.redis.incrby(f"darkroom:requests:{OWNER}", -round(seconds * 1_000_000))


def test_requests_come_back_evenly(store: TaskStore, valkey: Valkey) -> None:
    limits = Limits(requests_per_minute=6)
    for _ in range(6):
        submit(store, limits)
    error = refused(store, limits)
    let_pass(valkey, 10)
    submit(store, limits)
    again = refused(store, limits)
    let_pass(valkey, 600)
    everything_back = [submit(store, limits) for _ in range(6)]

    assert error.wait is not None and 9 < error.wait <= 10
    assert again.wait is not None and 9 < again.wait <= 10
    assert len(everything_back) == 6
    refused(store, limits)


def test_what_is_left_is_told_with_every_answer(store: TaskStore) -> None:
    limits = Limits(requests_per_minute=3)

    left = [submit(store, limits)[1].left for _ in range(3)]
    error = refused(store, limits)

    assert [answer.remaining for answer in left if answer] == [2, 1, 0]
    assert all(answer is not None and answer.limit == 3 for answer in left)
    assert left[0] is not None and 19 < left[0].reset <= 20
    assert error.left is not None
    assert error.left.remaining == 0 and 59 < error.left.reset <= 60


def test_a_request_that_another_limit_refuses_costs_none(store: TaskStore) -> None:
    limits = Limits(requests_per_minute=3, tasks_in_flight=1)
    submit(store, limits)

    for _ in range(5):
        assert refused(store, limits).limit == "tasks_in_flight"

    assert store.usage(OWNER, limits).requests_left == 2


@pytest.mark.parametrize("limit", [1, 7, 59, 1000, 1_000_000])
def test_any_limit_admits_as_many_as_it_says(store: TaskStore, valkey: Valkey, limit: int) -> None:
    limits = Limits(requests_per_minute=limit)
    submit(store, limits)
    full = valkey.now() * 1000 + MINUTE // limit * (limit - 1)
    valkey.redis.set(f"darkroom:requests:{OWNER}", full)

    submit(store, limits)


def test_a_lower_limit_holds_from_the_next_request_on(store: TaskStore) -> None:
    for _ in range(10):
        submit(store, Limits(requests_per_minute=10))

    error = refused(store, Limits(requests_per_minute=2))

    assert error.wait is not None and error.wait <= 60


# -- tasks in flight


def test_every_end_makes_room_for_another_task(store: TaskStore, valkey: Valkey) -> None:
    limits = Limits(tasks_in_flight=1)

    completed, _ = submit(store, limits)
    refused(store, limits)
    complete(store, completed)
    failed, _ = submit(store, limits)
    refused(store, limits)
    fail(store, failed, "no")
    late, _ = submit(store, limits)
    refused(store, limits)
    let_deadline_pass(valkey, late)
    valkey.redis.zadd("darkroom:due", {late: 0})
    assert store.sweep("a").timed_out == 1
    submit(store, limits)

    assert store.usage(OWNER).open_tasks == 1


def test_a_task_whose_record_was_lost_is_not_in_flight_for_ever(
    store: TaskStore, valkey: Valkey
) -> None:
    limits = Limits(tasks_in_flight=1)
    task_id, _ = submit(store, limits)
    valkey.redis.delete(record_key(task_id))
    refused(store, limits)
    (charge,) = valkey.redis.zrange(f"darkroom:open:{OWNER}", 0, -1)
    valkey.redis.zadd(f"darkroom:open:{OWNER}", {charge: valkey.now() - 1})

    assert store.usage(OWNER).open_tasks == 0
    submit(store, limits)


def test_what_is_known_of_lost_tasks_is_forgotten_when_their_records_would_be(
    make_store: Any, valkey: Valkey
) -> None:
    store = make_store(retention=60)
    submit(store, Limits())
    (charge,) = valkey.redis.zrange(f"darkroom:open:{OWNER}", 0, -1)
    valkey.redis.zadd(f"darkroom:open:{OWNER}", {charge: valkey.now() - 61_000})

    submit(store, Limits(), model="another")  # the first of the day

    assert charge not in valkey.redis.zrange(f"darkroom:open:{OWNER}", 0, -1)
    assert used(store).images == 2


# -- images and spend


@pytest.mark.parametrize("n", [1, 4])
def test_an_accepted_task_counts_as_what_it_will_probably_cost(store: TaskStore, n: int) -> None:
    submit(store, Limits(), n=n)

    assert used(store) == UsedByModel(n, 0.04 * n, 0.04 * n)


def test_a_completed_task_counts_as_what_it_cost(store: TaskStore) -> None:
    task_id, _ = submit(store, Limits(), n=2)
    complete(store, task_id, images=2, cost_usd=0.0731)

    assert used(store) == UsedByModel(2, 0.0731, 0)


@pytest.mark.parametrize(
    ("images", "missing", "usage", "expected"),
    [
        (2, (), {"cost_usd": 0.1, "cost_estimated": True}, UsedByModel(2, 0.1, 0.1)),
        (2, (), {}, UsedByModel(2, 0.08, 0.08)),
        (2, (), {"cost_usd": 0.0}, UsedByModel(2)),
        (1, ("no",), {"cost_usd": 0.04}, UsedByModel(1, 0.04)),
        (1, ("no",), {}, UsedByModel(1, 0.04, 0.04)),
        (1, ("unknown",), {"cost_usd": 0.04}, UsedByModel(2, 0.08, 0.04)),
        (1, ("yes",), {"cost_usd": 0.08}, UsedByModel(2, 0.08)),
        (1, ("unknown",), {"cost_usd": 0.3}, UsedByModel(2, 0.3)),
        (2, (), {"cost_usd": -1}, UsedByModel(2, 0.08, 0.08)),
        (2, (), {"cost_usd": 1e300}, UsedByModel(2, 0.08, 0.08)),
    ],
)
def test_a_completed_task_counts_as_far_as_its_cost_is_known(
    store: TaskStore,
    images: int,
    missing: tuple[Any, ...],
    usage: dict[str, Any],
    expected: UsedByModel,
) -> None:
    task_id, _ = submit(store, Limits(), n=2)
    failures = tuple(Failure("x", "y", billed=billed) for billed in missing)
    complete(store, task_id, images=images, missing=failures, **usage)

    assert used(store) == expected


@pytest.mark.parametrize(
    ("billed", "expected"),
    [
        ("no", UsedByModel()),
        ("yes", UsedByModel(2, 0.08, 0.08)),
        ("unknown", UsedByModel(2, 0.08, 0.08)),
    ],
)
def test_a_failed_task_counts_unless_it_surely_cost_nothing(
    store: TaskStore, billed: str, expected: UsedByModel
) -> None:
    task_id, _ = submit(store, Limits(), n=2)
    fail(store, task_id, billed)

    assert used(store) == expected


@pytest.mark.parametrize(("state", "images"), [(None, 0), (CallState.SUBMITTING, 1)])
def test_a_task_that_the_sweep_ends_is_settled_too(
    store: TaskStore, valkey: Valkey, state: CallState | None, images: int
) -> None:
    task_id, _ = submit(store, Limits())
    if state is not None:
        store.journal(claim(store, task_id), call(state))
    let_deadline_pass(valkey, task_id)
    valkey.redis.zadd("darkroom:due", {task_id: 0})
    assert store.sweep("a").timed_out == 1

    assert used(store).images == images


def test_what_costs_nothing_is_never_in_the_way_of_a_limit_on_spend(store: TaskStore) -> None:
    limits = Limits(usd_per_month=0)

    refused(store, limits)
    submit(store, limits, price=0.0)


def test_an_unknown_price_counts_nothing_until_it_is_known(store: TaskStore) -> None:
    limits = Limits(usd_per_month=0.05)
    first, _ = submit(store, limits, price=None, n=2)
    assert used(store) == UsedByModel(2, 0, 0, unpriced_images=2)
    second, _ = submit(store, limits, price=None)

    complete(store, first, images=2)
    assert used(store) == UsedByModel(3, 0, 0, unpriced_images=3)
    complete(store, second, cost_usd=0.06)
    assert used(store) == UsedByModel(3, 0.06, 0, unpriced_images=2)
    assert refused(store, limits, price=None).limit == "usd_per_month"


def test_use_is_kept_by_model(store: TaskStore) -> None:
    submit(store, Limits(), model="flux-pro")
    submit(store, Limits(), model="dall-e-3", price=0.02, n=3)
    submit(store, Limits(), model="strange:images", price=None)

    month = store.usage(OWNER).month

    assert month.models == {
        "dall-e-3": UsedByModel(3, 0.06, 0.06),
        "flux-pro": UsedByModel(1, 0.04, 0.04),
        "strange:images": UsedByModel(1, 0, 0, 1),
    }
    assert store.usage("key_b").month.models == {}


def test_a_task_counts_in_the_month_and_on_the_day_of_its_submit(
    store: TaskStore, valkey: Valkey
) -> None:
    """The record and the sums of a task that was accepted on 2024-02-29, and ends today."""
    task_id, _ = submit(store, Limits())
    (entered,) = valkey.redis.zrange(f"darkroom:open:{OWNER}", 0, -1)
    today = str(entered).split()[1]
    leap_day = (datetime(2024, 2, 29, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days
    charge = str(entered).replace(f" {today} ", f" {leap_day} ")
    valkey.redis.hset(record_key(task_id), "charge", charge)
    valkey.redis.zadd(f"darkroom:open:{OWNER}", {charge: valkey.now() + 1000})
    before = used(store)

    complete(store, task_id, cost_usd=0.5)

    assert used(store) == before
    # What is entered in a month that is not kept any more is forgotten at once.
    assert not valkey.redis.exists(f"darkroom:usage:{OWNER}:2024-02")


def test_months_are_kept_for_thirteen_more_and_days_for_a_week(
    store: TaskStore, valkey: Valkey
) -> None:
    submit(store, Limits())
    now = datetime.fromtimestamp(valkey.now() / 1000, UTC)
    month, day = (f"darkroom:usage:{OWNER}:{now:{form}}" for form in ("%Y-%m", "%Y-%m-%d"))

    lasts = {name: valkey.redis.pexpiretime(name) / 1000 for name in (month, day)}

    end = now.replace(day=28) + timedelta(days=31 * 13 + 4)
    needed = end.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert lasts[month] >= (needed - timedelta(days=4)).timestamp()
    assert 7 * 86400 <= lasts[day] - now.timestamp() <= 8 * 86400


def test_everything_that_is_counted_expires(store: TaskStore, valkey: Valkey) -> None:
    submit(store, Limits(requests_per_minute=5))

    kinds = ("usage", "open", "requests")
    names = [n for kind in kinds for n in valkey.redis.scan_iter(f"darkroom:{kind}:*")]

    assert len(names) == 4
    assert all(valkey.redis.pttl(name) > 0 for name in names)


def test_an_earlier_month_can_be_asked_for(store: TaskStore, valkey: Valkey) -> None:
    valkey.redis.hset(f"darkroom:usage:{OWNER}:2026-01", "flux-pro:images", 7)
    submit(store, Limits())

    usage = store.usage(OWNER, month="2026-01")

    assert usage.asked.models == {"flux-pro": UsedByModel(7)}
    assert usage.asked.period == "2026-01"
    assert usage.month.total.images == 1


def test_a_full_redis_settles_what_it_has(store: TaskStore, valkey: Valkey) -> None:
    task_id, _ = submit(store, Limits())

    with valkey.full():
        complete(store, task_id, cost_usd=0.05)

    assert used(store).spend_usd == 0.05


def test_months_and_dates_are_those_of_the_calendar(valkey: Valkey) -> None:
    source = "local PREFIX = ''\n" + "\n".join(
        resources.files("common").joinpath(f"lua/{name}.lua").read_text("utf-8")
        for name in ("base", "limits")
    )
    ask = valkey.redis.register_script(source + "\nreturn {calendar(tonumber(ARGV[1]))}")
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    days = [*range(0, 36525, 97), *range(19000, 21600), 11016, 47540, 47541]  # 2100 leaps not

    for day in days:
        month, date, first, following = ask(args=[day])
        here = epoch + timedelta(days=day)
        after = (here.replace(day=28) + timedelta(days=4)).replace(day=1)
        assert (month, date) == (f"{here:%Y-%m}", f"{here:%Y-%m-%d}")
        assert first == (here.replace(day=1) - epoch).days
        assert following == (after - epoch).days
