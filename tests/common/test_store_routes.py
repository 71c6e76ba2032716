"""What the store knows of routes: shut ones, places on capped ones, and late answers."""

from __future__ import annotations

import pytest

from common.store import Grant, Offer, Shut, TaskStore
from common.task import CallState, Claim
from tests.common.tasks import (
    RESULT,
    call,
    claim,
    claimed,
    let_lease_run_out,
    pass_milliseconds,
    record_key,
)
from tests.valkey import Valkey, open_store

ROUTE = "bfl/flux-pro-1.1"
CALL = call(CallState.SUBMITTING)
OFFER = Offer(ROUTE, 0, (CALL,))
ONE_AT_A_TIME = Offer(ROUTE, 1, (CALL,))


def begin(store: TaskStore, held: Claim, offer: Offer = ONE_AT_A_TIME) -> str:
    """`sent`, or why the route takes no call."""
    got = store.begin(held, [offer])
    return "sent" if isinstance(got, Grant) else got[0].why


def wait(store: TaskStore, name: str = ROUTE) -> float:
    return store.routes()[name].wait


@pytest.mark.parametrize(
    ("verdict", "name"),
    [("no_credit", "bfl"), ("bad_key", "bfl"), ("not_served", ROUTE), ("rate_limited", ROUTE)],
)
def test_a_shut_route_says_why_and_for_how_long(store: TaskStore, verdict: str, name: str) -> None:
    store.judge(ROUTE, verdict, 50)  # type: ignore[arg-type]

    [shut] = store.routes().items()
    assert (shut[0], shut[1].why) == (name, verdict)
    reply = store.begin(claimed(store), [OFFER])
    assert isinstance(reply, tuple)
    assert reply[0].why == verdict
    assert 49 < reply[0].wait <= 50


def test_an_account_that_is_shut_shuts_all_its_routes_and_no_other(store: TaskStore) -> None:
    store.judge(ROUTE, "no_credit", 50)

    got = store.begin(claimed(store), [Offer("bfl/flux-2", 0, (CALL,)), Offer("fal/f", 0, (CALL,))])

    assert isinstance(got, Grant)
    assert got.offer == 1


def test_a_shorter_wait_does_not_open_what_a_longer_one_has_shut(store: TaskStore) -> None:
    store.judge(ROUTE, "no_credit", 100)
    store.judge(ROUTE, "no_credit", 1)

    assert wait(store, "bfl") > 90


def test_calls_that_fail_while_the_route_is_shut_do_not_shut_it_for_longer(
    store: TaskStore,
) -> None:
    """Fifty were in flight when the provider went down: that is one failure of it, not ten."""
    for _ in range(50):
        store.judge(ROUTE, "failing", 10)

    assert wait(store) <= 10


def test_a_success_forgets_all_that_was_held_against_a_route(
    store: TaskStore, valkey: Valkey
) -> None:
    for verdict in ("no_credit", "not_served", *["failing"] * 5):
        store.judge(ROUTE, verdict, 10)  # type: ignore[arg-type]

    store.judge(ROUTE, "fine")

    assert valkey.redis.hgetall("darkroom:routes") == {}


def test_a_route_in_order_is_not_to_be_judged(store: TaskStore) -> None:
    """A success costs a round trip only where it tells the fleet something."""
    got = store.begin(claimed(store), [OFFER])
    assert isinstance(got, Grant)
    assert not got.trying

    store.judge(ROUTE, "failing", 10)

    got = store.begin(claimed(store), [OFFER])
    assert isinstance(got, Grant)
    assert got.trying


def test_the_first_open_route_is_taken_and_the_entries_of_the_others_are_not_written(
    store: TaskStore, valkey: Valkey
) -> None:
    held = claimed(store)
    store.journal(held, call(CallState.TURNED_AWAY), call(CallState.TURNED_AWAY, first=1))
    store.judge("a/1", "rate_limited", 50)
    offers = [
        Offer("a/1", 0, (call(CallState.SUBMITTING, count=2),)),
        Offer("b/1", 0, (call(CallState.SUBMITTING, first=0),)),
    ]

    got = store.begin(held, offers)

    assert got == Grant(1, offers[1].calls, False, 1)
    journal = {k for k in valkey.redis.hgetall(record_key(held.task.id)) if k.startswith("call:")}
    assert journal == {"call:0"}


# -- places


def test_a_place_is_kept_for_as_long_as_the_lease_is_renewed(
    store: TaskStore, valkey: Valkey
) -> None:
    with open_store(valkey.url, lease=0.2) as brief:
        held = claimed(brief)
        assert begin(brief, held) == "sent"
    store.renew("worker", {held.task.id: held.task.generation})
    pass_milliseconds(valkey, 300)

    assert begin(store, claimed(store)) == "full"


def test_whoever_takes_over_a_job_takes_its_place(store: TaskStore, valkey: Valkey) -> None:
    dead = claimed(store)
    begin(store, dead)
    store.journal(dead, call(CallState.ACCEPTED))
    let_lease_run_out(valkey, dead)

    claim(store, dead.task.id)

    assert begin(store, claimed(store)) == "full"


def test_a_job_that_is_handed_over_keeps_its_place(store: TaskStore) -> None:
    held = claimed(store)
    begin(store, held)
    store.journal(held, call(CallState.ACCEPTED))
    store.defer(held, 0)

    assert begin(store, claimed(store)) == "full"


def test_a_task_that_is_put_down_with_nothing_in_flight_gives_its_place_back(
    store: TaskStore,
) -> None:
    held = claimed(store)
    begin(store, held)
    store.journal(held, call(CallState.TURNED_AWAY))
    store.defer(held, 60)

    assert begin(store, claimed(store)) == "sent"


def test_those_who_come_within_a_millisecond_keep_their_order(
    store: TaskStore, valkey: Valkey
) -> None:
    begin(store, claimed(store))
    waiting = [claimed(store) for _ in range(100)]

    assert {begin(store, held) for held in waiting} == {"full"}

    line = valkey.redis.zrange(f"darkroom:routes:waits:{ROUTE}", 0, -1)
    assert line == [held.task.id for held in waiting]


def test_a_task_that_ends_while_it_waits_leaves_the_line(store: TaskStore) -> None:
    first, waiting, last = claimed(store), claimed(store), claimed(store)
    begin(store, first)
    assert begin(store, waiting) == "full"
    store.complete(waiting.task.id, waiting.task.generation, RESULT)
    store.complete(first.task.id, first.task.generation, RESULT)

    assert begin(store, last) == "sent"


def test_the_sweep_calls_up_whoever_waits_for_a_dead_workers_place(
    store: TaskStore, valkey: Valkey
) -> None:
    dead, waiting, later = claimed(store), claimed(store), claimed(store)
    begin(store, dead)
    for held in (waiting, later):
        assert begin(store, held) == "full"
        store.defer(held, 300)
    let_lease_run_out(valkey, dead)
    assert store.claim(waiting.task.id, "worker") is None

    store.sweep("a")

    assert store.claim(later.task.id, "worker") is None  # there is one place
    assert begin(store, claim(store, waiting.task.id)) == "sent"


def test_asking_twice_for_a_place_takes_one(store: TaskStore) -> None:
    """An answer that was lost on the way: the same call is announced again."""
    held = claimed(store)

    assert [begin(store, held) for _ in range(3)] == ["sent"] * 3


def test_an_announcement_whose_answer_was_lost_leaves_nothing_behind(
    store: TaskStore, valkey: Valkey
) -> None:
    """It was made and not sent: the next attempt is granted less, and the rest must not look as
    if it might have been bought."""
    held = claimed(store)
    both = tuple(call(CallState.SUBMITTING, first=n) for n in (0, 1))
    assert isinstance(store.begin(held, [Offer(ROUTE, 2, both)]), Grant)
    store.judge(ROUTE, "no_credit", 50)

    assert isinstance(store.begin(held, [Offer(ROUTE, 2, both)]), tuple)

    assert not [k for k in valkey.redis.hgetall(record_key(held.task.id)) if k[:5] == "call:"]


def test_calls_that_stand_stay_in_the_journal(store: TaskStore, valkey: Valkey) -> None:
    held = claimed(store)
    bought, going = (call(CallState.ACCEPTED, first=n) for n in (1, 2))
    store.journal(held, bought, going, call(CallState.TURNED_AWAY, first=3))

    store.begin(held, [OFFER], ended=[bought], going=[going])

    journal = {k for k in valkey.redis.hgetall(record_key(held.task.id)) if k[:5] == "call:"}
    assert journal == {"call:0", "call:1", "call:2"}


# -- late answers


def test_a_late_answer_is_taken_while_the_call_is_in_doubt(store: TaskStore) -> None:
    held = claimed(store)
    store.journal(held, call(CallState.IN_DOUBT))
    store.defer(held, 60)

    assert store.adopt(held.task.id, call(CallState.ACCEPTED, job={"id": "7", "state": {}}))

    again = claim(store, held.task.id)  # at once: it is what the task waited for
    assert [c.job for c in again.calls] == [{"id": "7", "state": {}}]


def test_the_first_of_several_late_answers_does_not_cut_off_the_others(store: TaskStore) -> None:
    """The task is worked on again when the last has come, or the time for them is over."""
    held = claimed(store)
    store.journal(held, *(call(CallState.IN_DOUBT, first=n) for n in (0, 1)))
    store.defer(held, 60)

    assert store.adopt(held.task.id, call(CallState.RECEIVED, first=0))
    assert store.claim(held.task.id, "worker") is None

    assert store.adopt(held.task.id, call(CallState.RECEIVED, first=1))
    assert [c.state for c in claim(store, held.task.id).calls] == [CallState.RECEIVED] * 2


@pytest.mark.parametrize("state", sorted(set(CallState) - {"submitting", "in_doubt"}))
def test_a_late_answer_is_not_taken_for_a_call_whose_fate_is_known(
    store: TaskStore, valkey: Valkey, state: CallState
) -> None:
    held = claimed(store)
    store.journal(held, call(state))
    before = valkey.redis.hgetall(record_key(held.task.id))

    assert not store.adopt(held.task.id, call(CallState.ACCEPTED, job={"id": "7", "state": {}}))
    assert valkey.redis.hgetall(record_key(held.task.id)) == before


def test_a_late_answer_to_what_is_unknown_or_over_changes_nothing(
    store: TaskStore, valkey: Valkey
) -> None:
    held = claimed(store)
    assert not store.adopt(held.task.id, call(CallState.ACCEPTED))  # no such call
    assert not store.adopt("imgtask_" + "0" * 32, call(CallState.ACCEPTED))
    store.journal(held, call(CallState.IN_DOUBT))
    store.complete(held.task.id, held.task.generation, RESULT)
    before = valkey.redis.hgetall(record_key(held.task.id))

    assert not store.adopt(held.task.id, call(CallState.ACCEPTED))
    assert valkey.redis.hgetall(record_key(held.task.id)) == before


def test_shut_tells_seconds(store: TaskStore) -> None:
    store.judge(ROUTE, "rate_limited", 2.5)

    [shut] = store.routes().values()

    assert isinstance(shut, Shut)
    assert 2 < shut.wait <= 2.5
