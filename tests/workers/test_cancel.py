"""A worker whose task is to be cancelled: it stops what can be stopped, and buys nothing more."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from common.connection import connect
from common.errors import (
    ContentRefused,
    GenerationFailed,
    JobFailed,
    LeaseLost,
    NotAuthorised,
    Unavailable,
)
from common.store import CANCEL_CHANNEL, TaskStore
from common.task import Call, Claim, Failure, Result, Status
from tests.common.tasks import claim, claimed, create, let_lease_run_out
from tests.processes import until
from tests.valkey import Valkey, close
from tests.workers.plain import Plain, pictures
from tests.workers.workshop import JOB, Workshop, accepted, in_turn, raising
from workers.cancels import Cancels
from workers.courier import Deferred
from workers.heartbeat import Heartbeat
from workers.providers.base import Job, Outcome


def accepted_stoppable() -> Call:
    return replace(accepted(), stoppable=True)


def submit(first: int, count: int) -> Outcome:
    return Job(f"job-{first}")


def still(job: Job) -> Outcome:
    return job


@contextlib.contextmanager
def working(
    shop: Workshop, held: Claim, *providers: Plain
) -> Any:  # an iterator of what has become of it
    """A runner at work on a claim in a thread of its own, as in a worker that hears of cancels."""
    ends: list[Result | Failure | Deferred] = []

    def run() -> None:
        try:
            with shop.cancels.holding(held):
                ends.append(shop.runner(*providers).run(held))
        except GenerationFailed as failed:
            ends.append(failed.failure)
        except Deferred as deferred:
            ends.append(deferred)

    thread = threading.Thread(target=run)
    thread.start()
    yield ends
    thread.join(30)
    assert ends


def ask(shop: Workshop, held: Claim) -> None:
    """Have the task cancelled, and the worker hear of it."""
    answer = shop.store.cancel(held.task.id, "key_a")
    assert answer is not None
    assert answer[0] == "requested"
    shop.cancels.tell([held.task.id])


def cancellation(shop: Workshop, held: Claim) -> str | None:
    return shop.read(held).cancellation


@pytest.mark.parametrize("billed", ["no", "unknown", "yes"])
def test_a_job_that_is_stopped_ends_the_task_with_its_bill(shop: Workshop, billed: Any) -> None:
    held = shop.claim()
    provider = Plain(submit, still, on_cancel=lambda job: billed)

    with working(shop, held, provider) as ends:
        until(lambda: provider.polls)
        ask(shop, held)

    assert ends == [Failure("cancelled", "The task was cancelled.", billed=billed)]
    assert provider.submits == [(0, 1)]
    assert [job.id for job in provider.stops] == ["job-0"]
    assert shop.store.fail(held.task.id, held.task.generation, ends[0])
    assert cancellation(shop, held) == "cancelled"


def test_whoever_takes_over_stops_the_job(shop: Workshop, valkey: Valkey) -> None:
    held = shop.claim()
    shop.store.journal(held, accepted_stoppable())
    shop.store.cancel(held.task.id, "key_a")
    let_lease_run_out(valkey, held)
    taken = claim(shop.store, held.task.id, "another")
    provider = Plain(on_poll=still, on_cancel=lambda job: "no")

    with working(shop, taken, provider) as ends:
        pass

    assert ends == [Failure("cancelled", "The task was cancelled.")]
    assert provider.stops == [JOB]
    assert not provider.submits


def test_a_job_that_goes_on_is_waited_for(shop: Workshop) -> None:
    held = shop.claim()
    go_on = threading.Event()
    provider = Plain(
        submit, lambda job: pictures() if go_on.is_set() else job, on_cancel=lambda job: None
    )

    with working(shop, held, provider) as ends:
        until(lambda: provider.polls)
        ask(shop, held)
        until(lambda: cancellation(shop, held) == "declined")
        polls = len(provider.polls)
        until(lambda: len(provider.polls) > polls + 3)
        assert len(provider.stops) == 1
        ask(shop, held)  # it may be wanted again
        until(lambda: cancellation(shop, held) == "declined")
        assert len(provider.stops) == 2
        go_on.set()

    assert isinstance(ends[0], Result)


def test_a_job_that_was_done_in_time_is_not_cancelled(shop: Workshop) -> None:
    held = shop.claim()
    done = threading.Event()
    provider = Plain(
        submit,
        lambda job: pictures() if done.is_set() else job,
        on_cancel=lambda job: done.set(),
    )

    with working(shop, held, provider) as ends:
        until(lambda: provider.polls)
        ask(shop, held)

    assert isinstance(ends[0], Result)
    assert shop.store.complete(held.task.id, held.task.generation, ends[0])
    task = shop.read(held)
    assert (task.status, task.cancellation) == (Status.COMPLETED, "declined")


@pytest.mark.parametrize("billed", ["no", "unknown"])
def test_a_provider_that_takes_its_time_is_asked_once_and_polled(
    shop: Workshop, billed: Any
) -> None:
    held = shop.claim()
    over = threading.Event()
    ended = JobFailed("cancelled", billed=billed)
    provider = Plain(
        submit,
        lambda job: raising(ended)() if over.is_set() else job,
        on_cancel=lambda job: "asked",
    )
    second = Plain()

    with working(shop, held, provider, second) as ends:
        until(lambda: provider.polls)
        ask(shop, held)
        until(lambda: provider.stops)
        polls = len(provider.polls)
        until(lambda: len(provider.polls) > polls + 3)
        assert (len(provider.stops), cancellation(shop, held)) == (1, "requested")
        over.set()

    assert ends == [Failure("cancelled", "The task was cancelled.", billed=billed)]
    assert not second.submits


def test_a_provider_that_does_not_answer_is_asked_again(shop: Workshop) -> None:
    held = shop.claim()
    provider = Plain(
        submit, still, on_cancel=in_turn(Unavailable("busy"), Unavailable("busy"), "no")
    )

    with working(shop, held, provider) as ends:
        until(lambda: provider.polls)
        ask(shop, held)

    assert ends == [Failure("cancelled", "The task was cancelled.")]
    assert len(provider.stops) == 3


def test_a_provider_that_never_answers_does_not_keep_the_task(shop: Workshop) -> None:
    held = shop.claim()
    go_on = threading.Event()
    provider = Plain(
        submit,
        lambda job: pictures() if go_on.is_set() else job,
        on_cancel=raising(NotAuthorised("bad key")),
    )

    with working(shop, held, provider) as ends:
        until(lambda: provider.polls)
        ask(shop, held)
        until(lambda: cancellation(shop, held) == "declined")
        go_on.set()

    assert isinstance(ends[0], Result)
    assert len(provider.stops) == 3


def test_a_job_that_failed_for_nothing_is_not_bought_elsewhere(shop: Workshop) -> None:
    """The provider may have stopped it for a worker that died before it could write that down."""
    held = shop.claim()
    asked = threading.Event()

    def poll(job: Job) -> Outcome:
        if not asked.is_set():
            return job
        raise JobFailed("stopped", billed="no")

    provider, second = Plain(submit, poll, on_cancel=lambda job: None), Plain()

    with working(shop, held, provider, second) as ends:
        until(lambda: provider.polls)
        ask(shop, held)
        asked.set()

    assert [getattr(end, "code", None) for end in ends] == ["cancelled"]
    assert not second.submits


def test_what_was_turned_away_is_not_bought_elsewhere(shop: Workshop) -> None:
    """The mark decides in Redis, also when this worker has not heard of it."""
    held = shop.claim()
    marked = threading.Event()

    def poll(job: Job) -> Outcome:
        if not marked.is_set():
            return job
        raise JobFailed("failed by itself", billed="no")

    provider, second = Plain(submit, poll, on_cancel=lambda job: None), Plain()

    with working(shop, held, provider, second) as ends:
        until(lambda: provider.polls)
        shop.store.cancel(held.task.id, "key_a")
        marked.set()

    assert ends == [Failure("cancelled", "The task was cancelled.")]
    assert not second.submits


def test_a_task_whose_routes_all_turned_it_away_does_not_wait_to_be_cancelled(
    shop: Workshop,
) -> None:
    held = shop.claim()
    marked = threading.Event()

    def poll(job: Job) -> Outcome:
        if not marked.is_set():
            return job
        shop.cancels.tell([held.task.id])  # it hears of it just now
        raise JobFailed("failed by itself", billed="no")

    with working(shop, held, Plain(submit, poll, on_cancel=lambda job: None)) as ends:
        until(lambda: shop.states(held.task.id) == ["accepted"])
        shop.store.cancel(held.task.id, "key_a")
        marked.set()

    assert ends == [Failure("cancelled", "The task was cancelled.")]


def test_all_jobs_of_a_task_are_stopped(shop: Workshop) -> None:
    held = shop.claim(n=3)
    bills: dict[str, Any] = {"job-0": "no", "job-1": "yes", "job-2": "no"}
    provider = Plain(submit, still, on_cancel=lambda job: bills[job.id])

    with working(shop, held, provider) as ends:
        until(lambda: len({job.id for job in provider.polls}) == 3)
        ask(shop, held)

    assert ends == [Failure("cancelled", "The task was cancelled.", billed="yes")]
    assert {job.id for job in provider.stops} == bills.keys()


def test_pictures_that_came_before_all_was_stopped_are_delivered(shop: Workshop) -> None:
    """They are paid for. What was stopped is missing, and the task says that it was cancelled."""
    held = shop.claim(n=3)
    provider = Plain(
        submit,
        lambda job: pictures() if job.id == "job-1" else job,
        on_cancel=lambda job: "no",
    )

    with working(shop, held, provider) as ends:
        until(lambda: shop.storage.get(f"{held.task.id}/1.png"))
        ask(shop, held)

    [result] = ends
    assert [image.name[-5:] for image in result.images] == ["1.png"]
    assert [failure.code for failure in result.missing] == ["cancelled"] * 2
    assert {job.id for job in provider.stops} == {"job-0", "job-2"}


def test_a_task_of_which_a_part_had_failed_is_cancelled_with_what_that_cost(
    shop: Workshop,
) -> None:
    held = shop.claim(n=2)
    refused = ContentRefused("against the rules", billed="yes")
    provider = Plain(
        submit,
        lambda job: raising(refused)() if job.id == "job-0" else job,
        on_cancel=lambda job: "no",
    )

    with working(shop, held, provider) as ends:
        until(lambda: shop.states(held.task.id) == ["failed", "accepted"])
        ask(shop, held)

    assert ends == [Failure("cancelled", "The task was cancelled.", billed="yes")]


def test_a_worker_that_holds_what_was_cancelled_at_once_buys_nothing(shop: Workshop) -> None:
    held = shop.claim()
    assert shop.store.cancel(held.task.id, "key_a")
    provider = Plain()

    with pytest.raises(LeaseLost):
        shop.run(provider, held)

    assert not provider.submits
    assert cancellation(shop, held) == "cancelled"


def test_a_worker_that_is_told_to_stop_hands_the_wish_over(shop: Workshop) -> None:
    held = shop.claim()
    provider = Plain(submit, still, on_cancel=lambda job: "no")

    with working(shop, held, provider) as ends:
        until(lambda: provider.polls)
        shop.stopping.set()
        shop.store.cancel(held.task.id, "key_a")

    assert isinstance(ends[0], Deferred)
    assert claim(shop.store, held.task.id, "another").task.cancellation == "requested"


# -- how a worker hears of it


@pytest.fixture
def cancels(valkey: Valkey) -> Iterator[Cancels]:
    client = connect(valkey.url, connections=1)
    listening = Cancels(client)
    listening.start()
    until(lambda: subscribers(valkey))
    yield listening
    listening.stop()
    for thread in threading.enumerate():
        if thread.name == "cancels":
            thread.join(20)
    close(client)


def subscribers(valkey: Valkey) -> int:
    counts: Any = valkey.redis.pubsub_numsub(CANCEL_CHANNEL)
    return int(counts[0][1])


def job_of(store: TaskStore) -> Claim:
    held = claimed(store)
    store.journal(held, accepted_stoppable())
    return held


def test_a_worker_hears_of_the_tasks_that_it_holds(cancels: Cancels, store: TaskStore) -> None:
    held, other = job_of(store), job_of(store)

    with cancels.holding(held):
        assert not cancels.asked(held.task.id)
        for one in (other, held):
            store.cancel(one.task.id, "key_a")

        until(lambda: cancels.asked(held.task.id))
        assert not cancels.asked(other.task.id)
        cancels.forget(held.task.id)
        assert not cancels.asked(held.task.id)
    assert not cancels.asked(held.task.id)


def test_a_lost_subscription_is_taken_up_again(
    cancels: Cancels, store: TaskStore, valkey: Valkey
) -> None:
    held = job_of(store)
    before = {client["id"] for client in listeners(valkey)}
    valkey.redis.client_kill_filter(_type="pubsub")
    until(lambda: subscribers(valkey) and not before & {c["id"] for c in listeners(valkey)})

    with cancels.holding(held):
        store.cancel(held.task.id, "key_a")

        until(lambda: cancels.asked(held.task.id))


def listeners(valkey: Valkey) -> list[dict[str, str]]:
    found: Any = valkey.redis.client_list(_type="pubsub")
    return list(found)


def test_what_was_not_heard_is_told_with_the_next_renewal(
    store: TaskStore, make_store: Callable[..., TaskStore], valkey: Valkey
) -> None:
    deaf = Cancels(valkey.redis)
    brief = make_store(lease=0.6)
    heartbeat = Heartbeat(brief, "worker", deaf)
    held = claim(brief, create(store))
    store.journal(held, accepted_stoppable())

    with heartbeat.holding(held):
        store.cancel(held.task.id, "key_a")
        heartbeat.start()
        try:
            until(lambda: deaf.asked(held.task.id))
        finally:
            heartbeat.stop()
