"""Down the routes of a model: what is asked of the next, what of none, and how many at a time."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from common.errors import (
    BadAnswer,
    ContentRefused,
    GenerationFailed,
    JobFailed,
    ModelNotServed,
    NotAuthorised,
    OutcomeUnknown,
    OutOfCredit,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
)
from common.store import Grant, Offer
from common.task import Call, CallState, Failure
from tests.common.tasks import claim, create, pass_milliseconds
from tests.processes import until
from tests.valkey import open_store
from tests.workers.plain import REQUEST, Plain, pictures
from tests.workers.workshop import (
    JOB,
    PATIENCE,
    Workshop,
    never,
    raising,
)
from workers.courier import Deferred
from workers.providers.base import Outcome


@pytest.mark.parametrize(
    "error",
    [
        NotAuthorised("no key"),
        OutOfCredit("no money"),
        ModelNotServed("gone"),
        RateLimited("slow down", retry_after=60),
        Unavailable("no connection"),
        JobFailed("broken", billed="no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_was_not_bought_is_asked_of_the_next_route(
    shop: Workshop, error: ProviderError
) -> None:
    first, second = Plain(raising(error)), Plain()
    held = shop.claim()

    result = shop.run(first, held, second=second)

    assert (len(first.submits), len(second.submits)) == (1, 1)
    assert (result.provider, result.provider_model) == ("second", "second-1")
    assert result.missing == ()
    assert shop.journal(held.task.id)[0]["provider"] == "second"


@pytest.mark.parametrize(
    "error",
    [
        ContentRefused("not this", billed="no"),
        Refused("wrong"),
        OutcomeUnknown("silence"),
        BadAnswer("nonsense"),
        JobFailed("broken"),
        RateLimited("made and then refused", billed="yes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_was_refused_or_may_have_been_bought_goes_nowhere_else(
    shop: Workshop, error: ProviderError
) -> None:
    first, second = Plain(raising(error)), Plain(never)

    with pytest.raises(GenerationFailed) as caught:
        shop.run(first, second=second)

    assert caught.value.failure.code == error.code


def test_once_something_was_bought_the_task_stays_where_it_is(shop: Workshop) -> None:
    """Its other pictures are waited for, or missing: they do not come from somebody else."""

    def submit(first: int, count: int) -> Outcome:
        if first == 1:
            raise OutOfCredit("no money")
        return pictures()

    result = shop.run(Plain(submit), second=Plain(never), n=2)

    assert len(result.images) == 1
    assert [failure.code for failure in result.missing] == ["all_channels_failed"]


def test_a_task_whose_routes_all_turn_it_away_is_told_by_all_of_them(shop: Workshop) -> None:
    first, second = Plain(raising(OutOfCredit("no money"))), Plain(raising(NotAuthorised("bad")))

    with pytest.raises(GenerationFailed) as caught:
        shop.run(first, second=second)

    assert caught.value.failure == Failure("all_channels_failed", "no money bad", False, "no")


def test_of_several_waits_the_shortest_is_waited(shop: Workshop) -> None:
    first = Plain(raising(RateLimited("slow down", retry_after=50)))
    second = Plain(raising(RateLimited("slow down", retry_after=7)))

    with pytest.raises(Deferred) as caught:
        shop.run(first, second=second)

    assert caught.value.wait == 7


@pytest.mark.parametrize(
    ("error", "shut"),
    [
        (NotAuthorised("no key"), "plain"),
        (OutOfCredit("no money"), "plain"),
        (ModelNotServed("gone"), "plain/plain-1"),
        (RateLimited("slow down", retry_after=60), "plain/plain-1"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_route_that_turned_one_task_away_is_not_asked_by_the_next(
    shop: Workshop, error: ProviderError, shut: str
) -> None:
    """On any worker: the fleet learns from one answer."""
    shop.run(Plain(raising(error)), second=Plain())

    result = shop.run(Plain(never), second=Plain())

    assert result.provider == "second"
    [(name, how)] = shop.store.routes().items()
    assert name == shut
    assert 50 < how.wait <= 60


def test_a_task_for_which_no_route_will_open_soon_fails_at_once(shop: Workshop) -> None:
    shop.fail(Plain(raising(OutOfCredit("no money"))))

    failure = shop.fail(Plain(never))

    assert (failure.code, failure.billed) == ("all_channels_failed", "no")
    assert failure.message.startswith("plain has no credit left; it is asked again in ")


def test_a_task_whose_route_only_asked_for_a_pause_waits_it_out(shop: Workshop) -> None:
    with pytest.raises(Deferred):
        shop.run(Plain(raising(RateLimited("slow down", retry_after=20))))

    with pytest.raises(Deferred) as caught:
        shop.run(Plain(never))

    assert caught.value.reason == "rate_limited"
    assert 15 < caught.value.wait <= 24


@pytest.mark.parametrize(
    ("error", "blocked"),
    [(RateLimited("slow down", retry_after=20), "rate_limited"), (Unavailable("away"), "failing")],
    ids=["rate limit", "away"],
)
def test_a_task_that_is_put_back_says_what_stands_in_its_way_until_it_is_taken_up(
    shop: Workshop, error: ProviderError, blocked: str
) -> None:
    held, next_one = shop.claim(), shop.claim()
    for each, provider in ((held, Plain(raising(error))), (next_one, Plain(raising(error)))):
        with pytest.raises(Deferred):
            shop.run(provider, each)

    assert shop.read(held).blocked == blocked
    assert shop.read(next_one).blocked == blocked  # its route was shut, or turned it away as well
    assert shop.due(held).task.blocked is None


def test_a_route_that_fails_again_and_again_is_left_alone_by_the_whole_fleet(
    shop: Workshop,
) -> None:
    broken = Plain(raising(OutcomeUnknown("silence")))
    for _ in range(5):
        shop.fail(broken)

    with pytest.raises(Deferred) as caught:
        shop.run(Plain(never))

    assert caught.value.reason == "failing"
    assert shop.run(Plain(never), second=Plain()).provider == "second"


def test_one_success_in_between_and_nothing_is_counted(shop: Workshop) -> None:
    broken = Plain(raising(OutcomeUnknown("silence")))
    for _ in range(4):
        shop.fail(broken)
    shop.run(Plain())
    for _ in range(4):
        shop.fail(broken)

    assert shop.store.routes() == {}


def test_a_route_that_was_shut_is_tried_by_one_call_before_all_others(shop: Workshop) -> None:
    shop.patience = replace(PATIENCE, failing=0.05)
    broken = Plain(raising(OutcomeUnknown("silence")))
    for _ in range(5):
        shop.fail(broken)
    until(lambda: not shop.store.routes(), "half open")
    others: list[str] = []

    def submit(first: int, count: int) -> Outcome:
        with pytest.raises(Deferred) as caught:
            shop.run(Plain(never))
        others.append(caught.value.reason)
        return pictures()

    shop.run(Plain(submit))
    assert others == ["failing"]
    assert len(shop.run(Plain()).images) == 1  # open for everybody


def test_a_route_that_fails_when_it_is_tried_is_shut_for_longer(shop: Workshop) -> None:
    shop.patience = replace(PATIENCE, failing=0.05)
    broken = Plain(raising(OutcomeUnknown("silence")))
    for _ in range(5):
        shop.fail(broken)
    until(lambda: not shop.store.routes(), "half open")

    shop.patience = replace(PATIENCE, failing=10)
    shop.fail(broken)

    assert 15 < shop.store.routes()["plain/plain-1"].wait <= 20


# -- no more at a time than the route takes


def test_no_more_calls_are_in_flight_than_the_cap(shop: Workshop) -> None:
    """Of a task with four pictures two are made at a time; another task waits for its turn."""
    now, most, lock = [0], [0], threading.Lock()
    together = threading.Barrier(2, timeout=20)

    def submit(first: int, count: int) -> Outcome:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        if first < 2:
            together.wait()
        if first == 0:
            with pytest.raises(Deferred) as caught:
                shop.run(Plain(never), model="busy painter")
            assert caught.value.reason == "full"
        with lock:
            now[0] -= 1
        return pictures()

    result = shop.run(Plain(submit), model="busy painter", n=4)

    assert len(result.images) == 4
    assert most == [2]


def test_a_task_that_waits_for_a_place_is_due_when_one_is_given_back(shop: Workshop) -> None:
    held = shop.claim(model="busy painter", n=2)
    waiting = shop.claim(model="busy painter")
    ended: list[bool] = []

    def submit(first: int, count: int) -> Outcome:
        if first == 0:
            with pytest.raises(Deferred):
                shop.run(Plain(never), waiting)
            assert shop.read(waiting).blocked == "full"
            assert shop.store.claim(waiting.task.id, "worker") is None
        return pictures()

    result = shop.run(Plain(submit), held)
    ended.append(shop.store.complete(held.task.id, held.task.generation, result))

    assert ended == [True]
    assert len(shop.run(Plain(), claim(shop.store, waiting.task.id)).images) == 1


def test_a_dead_workers_places_are_free_after_its_lease(shop: Workshop) -> None:
    with open_store(shop.valkey.url, lease=0.05) as brief:
        task_id = create(brief, request=replace(REQUEST, model="busy painter", n=2))
        dead = claim(brief, task_id)
        calls = tuple(Call(n, 1, "plain", "capped", CallState.SUBMITTING) for n in (0, 1))
        assert isinstance(brief.begin(dead, [Offer("plain/capped", 2, calls)]), Grant)
    held = shop.claim(model="busy painter")
    pass_milliseconds(shop.valkey, 60)

    assert len(shop.run(Plain(), held).images) == 1


def test_whoever_comes_later_does_not_go_first(shop: Workshop) -> None:
    held, early = shop.claim(model="busy painter", n=2), shop.claim(model="busy painter")

    def submit(first: int, count: int) -> Outcome:
        if first == 0:
            with pytest.raises(Deferred):
                shop.run(Plain(never), early)
        return pictures()

    result = shop.run(Plain(submit), held)
    shop.store.complete(held.task.id, held.task.generation, result)
    late = shop.run(Plain(), model="busy painter")  # one place is early's, one is free
    with pytest.raises(Deferred):
        shop.run(Plain(lambda *_: JOB, never), model="busy painter")

    assert len(late.images) == 1


def test_a_task_waits_in_line_for_as_long_as_it_has_time(shop: Workshop) -> None:
    held = shop.claim(model="busy painter", n=2)
    late = shop.claim(model="busy painter", deadline=12)

    def submit(first: int, count: int) -> Outcome:
        if first == 0:
            with pytest.raises(Deferred) as caught:
                shop.run(Plain(never), late)
            assert 5 < caught.value.wait <= 6
        return pictures()

    assert len(shop.run(Plain(submit), held).images) == 2
