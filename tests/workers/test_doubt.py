"""Late answers, and answers that never came."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from common.connection import connect
from common.errors import (
    LeaseLost,
    OutcomeUnknown,
    Unavailable,
)
from common.store import Grant, Shut, TaskStore
from common.task import CallState, Claim, Failure
from tests.common.tasks import claim
from tests.workers.pictures import picture
from tests.workers.plain import Plain, pictures
from tests.workers.workshop import (
    JOB,
    PATIENCE,
    Workshop,
    entry,
    in_turn,
    never,
    raising,
)
from workers.courier import Deferred
from workers.providers.base import Job, Order, Outcome, Picture, Pictures


def test_a_late_answer_is_of_use_to_whoever_has_the_task_now(shop: Workshop) -> None:
    """A worker was frozen for longer than its lease; what it learned then finds its way."""
    held = shop.claim()
    taken: list[Claim] = []

    def submit(first: int, count: int) -> Outcome:
        with pytest.raises(Deferred):
            shop.run(Plain(never, never), shop.again(held))  # finds the call in doubt
        return JOB

    with pytest.raises(LeaseLost):
        shop.run(Plain(submit), held)
    taken.append(claim(shop.store, held.task.id))

    assert [call.state for call in taken[0].calls] == [CallState.ACCEPTED]
    assert len(shop.run(Plain(never), taken[0]).images) == 1


def test_late_pictures_are_stored_before_they_are_handed_in(shop: Workshop) -> None:
    held = shop.claim()

    def submit(first: int, count: int) -> Outcome:
        with pytest.raises(Deferred):
            shop.run(Plain(never, never), shop.again(held))
        return Pictures((Picture(picture(), seed=7),), {"cost_usd": 0.04})

    with pytest.raises(LeaseLost):
        shop.run(Plain(submit), held)
    result = shop.run(Plain(never, never), claim(shop.store, held.task.id))

    assert [image.seed for image in result.images] == [7]


def test_what_a_frozen_worker_holds_is_waited_for(shop: Workshop) -> None:
    """It had received the pictures, and stores them after somebody else has looked for them."""
    held = shop.claim(entry(CallState.RECEIVED))
    with pytest.raises(Deferred, match="missed"):
        shop.run(Plain(never, never), held)
    shop.storage.put(f"{held.task.id}/0.png", picture())

    assert len(shop.run(Plain(never, never), shop.due(held)).images) == 1


def test_a_late_answer_to_a_task_that_is_over_changes_nothing(shop: Workshop) -> None:
    held = shop.claim()

    def submit(first: int, count: int) -> Outcome:
        later = shop.again(held)
        shop.store.fail(later.task.id, later.task.generation, Failure("outcome_unknown", "x"))
        return JOB

    with pytest.raises(LeaseLost):
        shop.run(Plain(submit), held)

    assert shop.states(held.task.id) == ["submitting"]


@pytest.mark.parametrize("state", [CallState.SUBMITTING, CallState.IN_DOUBT])
def test_a_call_that_can_be_looked_up_is_found_after_its_worker_was_lost(
    shop: Workshop, state: CallState
) -> None:
    asked: list[Order] = []

    def lookup(order: Order) -> Job | None:
        asked.append(order)
        return JOB if len(asked) > 1 else None  # on its way at first

    held = shop.claim(entry(state))
    provider = Plain(never, on_lookup=lookup, in_doubt="lookup")

    result = shop.run(provider, held)

    assert len(result.images) == 1
    assert [order.key for order in asked] == [f"{held.task.id}/0"] * 2
    assert shop.journal(held.task.id)[0]["job"]["id"] == JOB.id


def test_a_call_whose_answer_was_lost_is_looked_up_at_once(shop: Workshop) -> None:
    provider = Plain(
        raising(OutcomeUnknown("silence")), on_lookup=lambda order: JOB, in_doubt="lookup"
    )

    assert len(shop.run(provider).images) == 1
    assert len(provider.submits) == 1


def test_a_call_that_nobody_knows_of_stays_unknown(shop: Workshop) -> None:
    """It may still be on its way to the provider: it is not sent again."""
    looks = in_turn(Unavailable("away"), None, None, None, None)
    provider = Plain(never, on_lookup=looks, in_doubt="lookup")

    failure = shop.fail(provider, shop.claim(entry(CallState.SUBMITTING)))

    assert (failure.code, failure.billed) == ("outcome_unknown", "unknown")


def test_a_call_that_is_carried_out_once_however_often_it_is_sent_is_sent_again(
    shop: Workshop,
) -> None:
    provider = Plain(in_turn(OutcomeUnknown("silence"), pictures()), in_doubt="key")
    held = shop.claim()

    assert len(shop.run(provider, held).images) == 1
    assert provider.keys == [f"{held.task.id}/0"] * 2


def test_an_unknown_outcome_is_risked_again_only_where_the_operator_says_so(shop: Workshop) -> None:
    shop.patience = replace(PATIENCE, retry_unknown=lambda route: route == "plain/plain-1")
    provider = Plain(raising(OutcomeUnknown("silence")))
    held = shop.claim()

    for _ in range(2):
        with pytest.raises(Deferred):
            shop.run(provider, held)
        held = shop.due(held)
    failure = shop.fail(provider, held)

    assert len(provider.submits) == 3
    assert (failure.code, failure.billed) == ("outcome_unknown", "unknown")


class FreezingStore(TaskStore):
    """Whoever announces a call stands still then, until his lease has run out and `meanwhile` is
    over."""

    meanwhile: Callable[[], object]

    def begin(self, *args: Any, **options: Any) -> Grant | tuple[Shut, ...]:
        granted = super().begin(*args, **options)
        time.sleep(self.lease * 1.1)
        self.meanwhile()
        return granted


@pytest.fixture
def freezing(shop: Workshop) -> Iterator[Workshop]:
    """A workshop whose runners freeze, on the same record and pictures."""
    with contextlib.closing(connect(shop.valkey.url)) as client:
        store = FreezingStore(client, lease=0.1)
        yield Workshop(store, shop.storage, shop.valkey)


def test_a_worker_that_stood_still_before_it_sent_does_not_send(
    shop: Workshop, freezing: Workshop
) -> None:
    """Whoever has the task now thinks that it may have been bought, learns that it was not, and
    buys."""
    frozen, held = Plain(never, never), freezing.claim()

    def meanwhile() -> None:
        with pytest.raises(Deferred) as caught:
            shop.run(Plain(never, never), claim(shop.store, held.task.id))
        assert caught.value.reason == "in_doubt"

    freezing.store.meanwhile = meanwhile  # type: ignore[attr-defined]
    with pytest.raises(LeaseLost):
        freezing.run(frozen, held)
    result = shop.run(Plain(), claim(shop.store, held.task.id))

    assert len(result.images) == 1
    assert frozen.submits == []


def test_a_worker_that_stood_still_and_still_has_its_task_sends(freezing: Workshop) -> None:
    freezing.store.meanwhile = lambda: None  # type: ignore[attr-defined]

    assert len(freezing.run(Plain()).images) == 1
