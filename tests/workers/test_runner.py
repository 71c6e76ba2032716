"""The runner with a provider made by hand, over a real store and a real directory."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from common.errors import (
    BadAnswer,
    ContentRefused,
    JobFailed,
    JobLost,
    LeaseLost,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Unavailable,
)
from common.task import CallState, Claim, Failure, ImageRequest, Result
from tests.common.tasks import claim, create, record_key
from tests.processes import until
from tests.workers.pictures import picture
from tests.workers.plain import Plain, PlainInFours, pictures
from tests.workers.workshop import (
    JOB,
    Workshop,
    accepted,
    entry,
    in_turn,
    never,
    raising,
)
from workers.courier import Deferred
from workers.providers.base import Job, Outcome, Picture, Pictures

# -- what goes well


def test_a_provider_that_answers_with_the_picture(shop: Workshop) -> None:
    provider = Plain(
        lambda first, count: Pictures(
            (Picture(picture(), "a redder apple", 7),), {"cost_usd": 0.04, "request_id": "r"}
        )
    )
    held = shop.claim()

    result = shop.run(provider, held)

    [image] = result.images
    assert image.name == f"{held.task.id}/0.png"
    assert (image.format, image.width, image.height) == ("png", 64, 48)
    assert (image.revised_prompt, image.seed) == ("a redder apple", 7)
    stored = shop.storage.get(image.name)
    assert stored is not None
    assert len(stored) == image.bytes
    assert (result.provider, result.provider_model) == ("plain", "plain-1")
    assert 0 <= result.usage.pop("seconds") < 10
    assert result.usage == {"cost_usd": 0.04, "request_id": "r"}
    assert result.missing == ()
    assert shop.store.complete(held.task.id, held.task.generation, result)


def test_a_provider_that_answers_with_a_job(shop: Workshop) -> None:
    later = replace(JOB, state={"url": "https://provider.example/moved"}, progress=50)
    provider = Plain(
        lambda first, count: replace(JOB, usage={"cost_usd": 0.03}),
        in_turn(JOB, later, Pictures((Picture(picture()),), {"seconds": 2})),
    )

    result = shop.run(provider)

    assert len(result.images) == 1
    assert result.usage == {"cost_usd": 0.03, "seconds": 2}
    assert provider.submits == [(0, 1)]
    assert [job.state for job in provider.polls][1:] == [JOB.state, later.state]


def test_several_pictures_are_bought_side_by_side(shop: Workshop) -> None:
    together = threading.Barrier(3, timeout=20)

    def submit(first: int, count: int) -> Outcome:
        together.wait()
        return Pictures((Picture(picture(), seed=first),), {"cost_usd": 0.01, "request_id": first})

    result = shop.run(Plain(submit), n=3)

    assert [image.seed for image in result.images] == [0, 1, 2]
    assert [image.name[-5:] for image in result.images] == ["0.png", "1.png", "2.png"]
    assert 0 <= result.usage.pop("seconds") < 20
    assert result.usage == {"cost_usd": 0.03, "request_id": 0}


def test_a_provider_that_makes_several_at_a_time_is_asked_once(shop: Workshop) -> None:
    provider = PlainInFours()

    result = shop.run(provider, n=3)

    assert provider.submits == [(0, 3)]
    assert len(result.images) == 3


def test_a_grid_is_kept_as_the_pictures_it_shows(shop: Workshop) -> None:
    grid = picture(128, 96, noisy=True)
    provider = PlainInFours(
        lambda first, count: Pictures(tuple(Picture(grid, quarter=at) for at in range(count)))
    )

    result = shop.run(provider, n=4)

    assert [(image.width, image.height) for image in result.images] == [(64, 48)] * 4
    assert len({image.sha256 for image in result.images}) == 4


def test_progress_is_told_and_never_falls(shop: Workshop) -> None:
    held = shop.claim()
    told = []

    def poll(job: Job) -> Outcome:
        task = shop.store.read(held.task.id)
        assert task is not None
        told.append(task.progress)
        steps: list[Outcome] = [replace(JOB, progress=p) for p in (30, 20, None, 60, 100)]
        return [*steps, pictures()][len(told) - 1]

    shop.run(Plain(lambda first, count: JOB, poll), held)

    assert told == [0, 30, 30, 30, 60, 99]


# -- the journal


def test_progress_of_a_call_in_flight_is_told(shop: Workshop) -> None:
    """Of a provider that answers with the pictures, but tells meanwhile how far they are."""
    seen: list[int] = []

    def submit(first: int, count: int) -> Outcome:
        until(lambda: seen[-1:] == [60] or seen.append(shop.read(held).progress), "told")
        return pictures()

    provider = Plain(submit)
    provider.progress_every = 0.005  # type: ignore[misc]
    provider.on_progress = in_turn(None, Unavailable("away"), 30, 60, *[60] * 1000)
    held = shop.claim()

    shop.run(provider, held)

    assert seen == sorted(seen)


def test_a_call_is_in_the_journal_before_it_is_sent(shop: Workshop) -> None:
    held = shop.claim(n=2)
    found = []

    def submit(first: int, count: int) -> Outcome:
        found.append(shop.states(held.task.id))
        return pictures()

    shop.run(Plain(submit), held)

    assert len(found) == 2
    assert found[0] == ["submitting", "submitting"]
    assert shop.states(held.task.id) == ["received", "received"]


def test_a_job_is_in_the_journal_before_it_is_first_asked_about(shop: Workshop) -> None:
    held = shop.claim()

    def poll(job: Job) -> Outcome:
        call = shop.journal(held.task.id)[0]
        assert call["state"] == "accepted"
        assert call["job"] == {"id": JOB.id, "state": JOB.state}
        return pictures()

    shop.run(Plain(lambda first, count: JOB, poll), held)


def test_received_pictures_are_in_the_journal_with_what_was_said_of_them(shop: Workshop) -> None:
    held = shop.claim()

    shop.run(Plain(lambda f, c: Pictures((Picture(picture(), "redder", 7),), {"x": 1})), held)

    call = shop.journal(held.task.id)[0]
    assert call["state"] == "received"
    assert call["pictures"] == [{"revised_prompt": "redder", "seed": 7}]
    assert call["usage"] == {"x": 1}


def test_nothing_is_sent_that_cannot_be_written_down_first(shop: Workshop) -> None:
    provider = Plain()
    held = shop.claim()
    shop.store.defer(held, 0)
    claim(shop.store, held.task.id, "another")

    with pytest.raises(LeaseLost):
        shop.run(provider, held)

    assert provider.submits == []


def test_what_was_bought_is_written_down_once_the_store_is_back(shop: Workshop) -> None:
    held = shop.claim()
    bought = threading.Event()
    results: list[Result] = []

    with contextlib.ExitStack() as trouble:

        def submit(first: int, count: int) -> Outcome:
            trouble.enter_context(shop.valkey.refusing())
            bought.set()
            return pictures()

        provider = Plain(submit)
        worker = threading.Thread(target=lambda: results.append(shop.run(provider, held)))
        worker.start()
        assert bought.wait(10)
        worker.join(0.3)
        assert worker.is_alive()
        assert shop.states(held.task.id) == ["submitting"]
    worker.join(10)

    assert len(results) == 1
    assert len(provider.submits) == 1
    assert shop.states(held.task.id) == ["received"]


# -- trouble with a submit


def test_a_rate_limit_puts_the_task_back_for_as_long_as_the_provider_says(shop: Workshop) -> None:
    provider = Plain(in_turn(RateLimited("slow down", retry_after=0.05), pictures()))
    held = shop.claim()

    with pytest.raises(Deferred) as caught:
        shop.run(provider, held)
    early = shop.store.claim(held.task.id, "worker")
    later: Claim = until(lambda: shop.store.claim(held.task.id, "worker"))
    result = shop.run(provider, later)

    assert caught.value.wait == 0.05
    assert early is None or early.task.generation == 2
    assert len(result.images) == 1
    assert len(provider.submits) == 2
    assert shop.states(held.task.id) == ["received"]


def test_a_task_that_was_put_back_waits_out_its_time(shop: Workshop) -> None:
    held = shop.claim()

    with pytest.raises(Deferred):
        shop.run(Plain(raising(RateLimited("slow down", retry_after=60))), held)

    assert shop.store.claim(held.task.id, "worker") is None
    retry_at = int(shop.valkey.redis.hget(record_key(held.task.id), "retry_at") or 0)
    assert 50_000 < retry_at - shop.valkey.now() <= 60_000


def test_only_what_was_turned_away_is_asked_for_again(shop: Workshop) -> None:
    turned_away = [True]

    def submit(first: int, count: int) -> Outcome:
        if first == 1 and turned_away.pop():
            raise RateLimited("slow down", retry_after=0.001)
        return pictures()

    provider = Plain(submit)
    held = shop.claim(n=3)

    with pytest.raises(Deferred):
        shop.run(provider, held)
    turned_away.append(False)
    result = shop.run(provider, until(lambda: shop.store.claim(held.task.id, "worker")))

    assert sorted(provider.submits) == [(0, 1), (1, 1), (1, 1), (2, 1)]
    # A call that is made again has the name it had.
    assert sorted(provider.keys) == [f"{held.task.id}/{first}" for first in (0, 1, 1, 2)]
    assert len(result.images) == 3
    assert result.missing == ()
    assert result.usage["cost_usd"] == 0.12


def test_a_provider_that_cannot_be_reached_is_given_up_in_the_end(shop: Workshop) -> None:
    provider = Plain(raising(Unavailable("no connection")))
    held = shop.claim()

    for _ in range(7):
        with pytest.raises(Deferred) as caught:
            shop.run(provider, held)
        assert 0.5 <= caught.value.wait <= 30
        shop.valkey.redis.hset(record_key(held.task.id), "retry_at", shop.valkey.now())
        shop.valkey.redis.delete("darkroom:routes")  # other tasks find the provider in order
        held = claim(shop.store, held.task.id)
    failure = shop.fail(provider, held)

    assert failure == Failure("all_channels_failed", "no connection", True, "no")
    assert len(provider.submits) == 8


def test_a_wait_that_does_not_fit_into_the_deadline_is_not_begun(shop: Workshop) -> None:
    provider = Plain(raising(RateLimited("slow down", retry_after=60)))

    failure = shop.fail(provider, deadline=30)

    assert failure.code == "all_channels_failed"
    assert failure.retryable


@pytest.mark.parametrize(
    "error",
    [
        ContentRefused("not this"),
        JobFailed("broken"),
        BadAnswer("nonsense"),
        OutcomeUnknown("silence"),
        RateLimited("made and then refused", billed="yes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_trouble_ends_the_task_with_its_code_and_bill(
    shop: Workshop, error: ProviderError
) -> None:
    provider = Plain(raising(error))
    held = shop.claim()

    failure = shop.fail(provider, held)

    assert (failure.code, failure.message) == (error.code, error.message)
    assert failure.billed == error.billed
    assert shop.states(held.task.id) == ["failed"]
    assert shop.fail(provider, shop.again(held)) == replace(failure, retryable=False)
    assert len(provider.submits) == 1


def test_pictures_that_could_be_had_are_delivered_and_the_others_named(shop: Workshop) -> None:
    def submit(first: int, count: int) -> Outcome:
        if first == 1:
            raise ContentRefused("not this one")
        return pictures()

    result = shop.run(Plain(submit), n=3)

    assert [image.name[-5:] for image in result.images] == ["0.png", "2.png"]
    assert [failure.code for failure in result.missing] == ["content_policy_violation"]


@pytest.mark.parametrize("has_job", [False, True])
def test_a_picture_that_was_withheld_is_named_and_the_others_delivered(
    shop: Workshop, has_job: bool
) -> None:
    withheld = ContentRefused("is_image_safe is false", billed="unknown")
    came = Pictures((Picture(picture()), withheld, Picture(picture())), {"cost_usd": 0.18})
    provider = PlainInFours(lambda first, count: JOB if has_job else came, lambda job: came)

    result = shop.run(provider, n=3)

    assert [image.name[-5:] for image in result.images] == ["0.png", "2.png"]
    assert result.missing == (
        Failure("content_policy_violation", "is_image_safe is false", False, "unknown"),
    )
    assert result.usage["cost_usd"] == 0.18


def test_a_call_of_which_all_was_withheld_ends_the_task(shop: Workshop) -> None:
    withheld = (ContentRefused("no", billed="no"), BadAnswer("nonsense", billed="yes"))

    failure = shop.fail(PlainInFours(lambda first, count: Pictures(withheld)), n=2)

    assert failure == Failure("content_policy_violation", "no", False, "yes")


def test_fewer_pictures_than_asked_are_delivered_and_the_others_named(shop: Workshop) -> None:
    result = shop.run(PlainInFours(lambda first, count: pictures(2)), n=4)

    assert len(result.images) == 2
    assert [failure.code for failure in result.missing] == ["upstream_error"] * 2


def test_more_pictures_than_asked_are_left_alone(shop: Workshop) -> None:
    result = shop.run(Plain(lambda first, count: pictures(3)), n=1)

    assert len(result.images) == 1


def test_a_broken_picture_is_not_delivered_and_counts_as_paid_for(shop: Workshop) -> None:
    failure = shop.fail(Plain(lambda first, count: Pictures((Picture(b"<html>"),))))

    assert failure.code == "upstream_error"
    assert failure.billed == "yes"


def test_of_several_failures_the_worst_bill_is_told(shop: Workshop) -> None:
    errors = [ContentRefused("a", billed="no"), JobFailed("b", billed="yes"), OutcomeUnknown("c")]

    failure = shop.fail(Plain(lambda first, count: raising(errors[first])()), n=3)

    assert failure.code == "content_policy_violation"
    assert failure.billed == "yes"


def test_a_model_without_a_provider_is_told(shop: Workshop) -> None:
    task_id = create(shop.store, request=ImageRequest("unheard-of", "x"))

    failure = shop.fail(Plain(never), claim(shop.store, task_id))

    assert failure.code == "model_unavailable"
    assert failure.billed == "no"


def test_a_turn_that_comes_too_late_buys_nothing(shop: Workshop) -> None:
    failure = shop.fail(Plain(never), deadline=3)

    assert failure.code == "timeout"
    assert failure.billed == "no"


@pytest.mark.parametrize(
    ("error", "told"),
    [(JobFailed("broken", request_id="req_2"), "req_2"), (JobFailed("broken"), "req_1")],
)
def test_the_log_says_by_what_the_provider_knows_a_call_that_failed(
    shop: Workshop, error: ProviderError, told: str
) -> None:
    job = replace(JOB, usage={"request_id": "req_1"})

    with capture_logs() as log:
        shop.fail(Plain(lambda first, count: job, raising(error)))

    [event] = [event for event in log if event["event"] == "call failed"]
    assert event["request_id"] == told


# -- trouble with a job


def test_trouble_with_a_poll_is_cured_by_the_next(shop: Workshop) -> None:
    provider = Plain(lambda first, count: JOB, in_turn(Unavailable("away"), pictures()))

    result = shop.run(provider)

    assert len(result.images) == 1
    assert len(provider.submits) == 1


@pytest.mark.parametrize("error", [JobFailed("broken"), JobLost("gone"), ContentRefused("no")])
def test_a_job_that_ends_without_a_picture_ends_the_task(
    shop: Workshop, error: ProviderError
) -> None:
    provider = Plain(lambda first, count: JOB, raising(error))

    failure = shop.fail(provider)

    assert (failure.code, failure.billed) == (error.code, error.billed)
    assert len(provider.submits) == 1


def test_a_job_is_asked_about_until_shortly_before_the_deadline(shop: Workshop) -> None:
    held = shop.claim(accepted(), deadline=2.2)

    failure = shop.fail(Plain(never, lambda job: JOB), held)

    assert (failure.code, failure.billed) == ("timeout", "yes")
    assert shop.valkey.now() < held.task.deadline


# -- taking over


def test_a_call_that_may_have_been_sent_is_never_sent_again(shop: Workshop) -> None:
    held = shop.claim(entry(CallState.SUBMITTING))
    with pytest.raises(Deferred) as caught:
        shop.run(Plain(never, never), held)
    assert (caught.value.reason, shop.states(held.task.id)) == ("in_doubt", ["in_doubt"])
    failure = shop.fail(Plain(never, never), claim(shop.store, held.task.id))

    assert failure.code == "outcome_unknown"
    assert failure.billed == "unknown"
    assert not failure.retryable


def test_an_unknown_outcome_stays_unknown_for_whoever_comes_next(shop: Workshop) -> None:
    held = shop.claim(entry(CallState.IN_DOUBT))
    first = shop.fail(Plain(never, never), held)

    assert shop.fail(Plain(never, never), shop.again(held)) == first


def test_an_accepted_job_is_taken_over_with_all_that_is_known_of_it(shop: Workshop) -> None:
    provider = Plain(never)

    result = shop.run(provider, shop.claim(replace(accepted(), usage={"cost_usd": 0.05})))

    assert provider.polls == [replace(JOB, usage={"cost_usd": 0.05})]
    assert result.usage["cost_usd"] == 0.04  # what came with the pictures is newer
    assert len(result.images) == 1


def test_a_picture_that_was_stored_is_adopted(shop: Workshop) -> None:
    about = {"revised_prompt": "a redder apple", "seed": 7}
    held = shop.claim(entry(CallState.RECEIVED, pictures=(about,), usage={"cost_usd": 0.04}))
    shop.storage.put(f"{held.task.id}/0.jpeg", picture(kind="JPEG"))

    result = shop.run(Plain(never, never), held)

    [image] = result.images
    assert image.name == f"{held.task.id}/0.jpeg"
    assert (image.revised_prompt, image.seed) == ("a redder apple", 7)
    assert result.usage == {"cost_usd": 0.04}


def test_the_picture_of_a_job_that_was_stored_is_not_fetched_again(shop: Workshop) -> None:
    held = shop.claim(accepted())
    shop.storage.put(f"{held.task.id}/0.png", picture())

    result = shop.run(Plain(never, never), held)

    assert len(result.images) == 1
    assert result.usage == {"cost_usd": 0.02, "cost_estimated": True}  # by the list


def test_a_picture_that_was_made_and_lost_is_waited_for_and_not_bought_again(
    shop: Workshop,
) -> None:
    held = shop.claim(entry(CallState.RECEIVED))
    with pytest.raises(Deferred, match="missed"):
        shop.run(Plain(never, never), held)
    failure = shop.fail(Plain(never, never), shop.due(held))

    assert failure.billed == "yes"
    assert not failure.retryable


def test_a_call_that_cost_nothing_is_sent_again(shop: Workshop) -> None:
    nothing = Failure("all_channels_failed", "busy", retryable=True, billed="no")
    provider = Plain()

    result = shop.run(provider, shop.claim(entry(CallState.TURNED_AWAY, failure=nothing)))

    assert provider.submits == [(0, 1)]
    assert len(result.images) == 1


@pytest.mark.parametrize(
    "failure",
    [
        Failure("x", "y", retryable=True, billed="unknown"),
        Failure("x", "y", retryable=True, billed="yes"),
        Failure("x", "y", retryable=False, billed="no"),
    ],
)
def test_a_call_that_may_have_cost_something_or_is_hopeless_is_not(
    shop: Workshop, failure: Failure
) -> None:
    held = shop.claim(entry(CallState.FAILED, failure=failure))

    assert shop.fail(Plain(never, never), held).billed == failure.billed


def test_each_call_of_a_task_is_taken_over_where_it_was(shop: Workshop) -> None:
    nothing = Failure("all_channels_failed", "busy", retryable=True, billed="no")
    held = shop.claim(
        entry(CallState.RECEIVED, 0),
        accepted(1),
        entry(CallState.TURNED_AWAY, 2, failure=nothing),
        entry(CallState.IN_DOUBT, 3),
        n=4,
    )
    shop.storage.put(f"{held.task.id}/0.png", picture())
    provider = Plain()

    result = shop.run(provider, held)

    assert provider.submits == [(2, 1)]
    assert [job.id for job in provider.polls] == [JOB.id]
    assert [image.name[-5:] for image in result.images] == ["0.png", "1.png", "2.png"]
    assert [failure.code for failure in result.missing] == ["outcome_unknown"]


def test_a_task_stays_with_the_provider_that_it_is_on(shop: Workshop) -> None:
    other = replace(accepted(), provider="elsewhere", model="e")

    failure = shop.fail(Plain(never, never), shop.claim(other))

    assert failure.code == "model_unavailable"


def test_pictures_of_a_call_that_were_stored_are_adopted_and_the_lost_named(
    shop: Workshop,
) -> None:
    nothing_said = {"revised_prompt": None, "seed": None}
    held = shop.claim(entry(CallState.RECEIVED, count=3, pictures=(nothing_said,) * 2), n=3)
    shop.storage.put(f"{held.task.id}/0.png", picture())

    with pytest.raises(Deferred, match="missed"):
        shop.run(PlainInFours(never, never), held)
    result = shop.run(PlainInFours(never, never), shop.due(held))

    assert [image.name[-5:] for image in result.images] == ["0.png"]
    assert [failure.billed for failure in result.missing] == ["yes", "unknown"]


def test_what_was_withheld_is_still_named_by_whoever_comes_next(shop: Workshop) -> None:
    withheld = ContentRefused("is_image_safe is false", billed="no")
    held = shop.claim(n=2)
    first = shop.run(PlainInFours(lambda f, c: Pictures((withheld, Picture(picture())))), held)

    # The worker was killed just before it could hand in what it had.
    result = shop.run(PlainInFours(never, never), shop.again(held))

    assert result.missing == first.missing
    assert result.missing == (
        Failure("content_policy_violation", "is_image_safe is false", False, "no"),
    )
    assert [image.name[-5:] for image in result.images] == ["1.png"]


# -- stopping, and losing the lease


def test_a_worker_that_stops_takes_up_nothing(shop: Workshop) -> None:
    shop.stopping.set()
    held = shop.claim()

    with pytest.raises(Deferred) as caught:
        shop.run(Plain(never), held)

    assert caught.value.wait == 0
    assert claim(shop.store, held.task.id, "another").calls == ()


def test_a_worker_that_stops_puts_down_a_job_that_another_can_poll(shop: Workshop) -> None:
    held = shop.claim()

    def poll(job: Job) -> Outcome:
        shop.stopping.set()
        return JOB

    with pytest.raises(Deferred) as caught:
        shop.run(Plain(lambda first, count: JOB, poll), held)

    assert caught.value.wait == 0
    shop.stopping.clear()
    taken = claim(shop.store, held.task.id, "another")
    assert len(shop.run(Plain(never), taken).images) == 1


def test_a_job_that_waits_long_does_not_hold_up_a_stop(shop: Workshop) -> None:
    class Slow(Plain):
        poll_every = 60.0

    submitted = threading.Event()

    def submit(first: int, count: int) -> Outcome:
        submitted.set()
        return JOB

    def work() -> None:
        with pytest.raises(Deferred):
            shop.run(Slow(submit, never))

    worker = threading.Thread(target=work)
    start = time.monotonic()
    worker.start()
    assert submitted.wait(20)
    shop.stopping.set()
    worker.join(30)

    assert not worker.is_alive()
    assert time.monotonic() - start < 30


def test_a_call_in_flight_is_finished_by_a_worker_that_stops(shop: Workshop) -> None:
    def submit(first: int, count: int) -> Outcome:
        shop.stopping.set()
        return pictures()

    assert len(shop.run(Plain(submit)).images) == 1


def test_a_worker_that_stops_puts_down_no_more_than_its_jobs(shop: Workshop) -> None:
    def submit(first: int, count: int) -> Outcome:
        return JOB if first else pictures()

    def poll(job: Job) -> Outcome:
        shop.stopping.set()
        return JOB

    held = shop.claim(n=2)
    with pytest.raises(Deferred):
        shop.run(Plain(submit, poll), held)
    shop.stopping.clear()
    provider = Plain(never)

    result = shop.run(provider, claim(shop.store, held.task.id, "another"))

    assert len(result.images) == 2
    assert len(provider.polls) == 1


def test_a_worker_whose_task_was_taken_stops_working_on_it(shop: Workshop) -> None:
    held = shop.claim()

    def poll(job: Job) -> Outcome:
        if len(provider.polls) == 1:
            shop.again(held)
        return replace(JOB, progress=10 * len(provider.polls))

    provider = Plain(lambda first, count: JOB, poll)

    with pytest.raises(LeaseLost):
        shop.run(provider, held)

    assert len(provider.polls) == 1


def test_a_purchase_of_a_worker_whose_task_was_taken_is_not_written_over_the_new_ones(
    shop: Workshop,
) -> None:
    held = shop.claim()

    def submit(first: int, count: int) -> Outcome:
        later = shop.again(held)
        assert later.calls[0].state is CallState.SUBMITTING
        shop.store.journal(later, replace(accepted(), job={"id": "new", "state": {}}))
        return pictures()

    with pytest.raises(LeaseLost):
        shop.run(Plain(submit), held)

    assert shop.journal(held.task.id)[0]["job"]["id"] == "new"
