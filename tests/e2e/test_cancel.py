"""Cancelling in the whole system, with the sandbox as the judge of what was bought and stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.processes import until
from tests.stack import KEY, Stack


@pytest.fixture
def faulty(stack: Stack) -> Iterator[Stack]:
    """The shared stack, for a test that makes faults."""
    yield stack
    stack.clear_faults()


def cancel(stack: Stack, task: dict[str, Any]) -> requests.Response:
    return requests.delete(
        f"{stack.url}/v1/tasks/{task['id']}",
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=30,
    )


def record(stack: Stack, task: dict[str, Any]) -> dict[str, str]:
    found: Any = stack.redis.hgetall(f"darkroom:task:{task['id']}")
    return dict(found)


def events(body: dict[str, Any]) -> list[str]:
    return [entry["event"] for entry in body["timeline"]]


def status_at_replicate(stack: Stack, job_id: str) -> str:
    answer = requests.get(
        f"{stack.sandbox_url}/replicate/v1/predictions/{job_id}",
        headers={"Authorization": "Bearer sandbox"},
        timeout=5,
    )
    assert answer.ok, answer.text
    return str(answer.json()["status"])


def assert_cancelled(body: dict[str, Any], billed: str) -> None:
    assert (body["status"], body["cancelled"]) == ("failed", True)
    assert body["cancellation_status"] == "cancelled"
    assert (body["error_detail"]["code"], body["error_detail"]["billed"]) == ("cancelled", billed)


def test_a_job_that_replicate_works_on_is_stopped(stack: Stack) -> None:
    prompt = "stopped at replicate sim:never_ready"
    task = stack.submit(prompt, "flux-schnell", n=2)
    stack.accepted(task)

    answer = cancel(stack, task)

    assert answer.status_code == 200, answer.text
    assert_cancelled(answer.json(), "unknown")  # what it ran for may be charged
    assert answer.elapsed.total_seconds() < 4
    assert {status_at_replicate(stack, e["job_id"]) for e in stack.purchases(prompt)} == {
        "canceled"
    }
    assert events(stack.poll(task)) == [
        "accepted",
        "claimed",
        "submitted",
        "job_accepted",
        "cancel_requested",
        "call_failed",
        "cancelled",
    ]
    again = cancel(stack, task)
    assert (again.status_code, again.json()) == (200, stack.poll(task))


def test_a_job_in_the_queue_of_fal_is_stopped_and_costs_nothing(faulty: Stack) -> None:
    faulty.fault(fault="no_credit", provider="replicate")
    faulty.fault(delay=100, provider="fal")  # a fifth of that in the queue
    task = faulty.submit("stopped at fal", "flux-schnell")
    faulty.accepted(task)

    answer = cancel(faulty, task)

    assert answer.status_code == 200, answer.text
    assert_cancelled(answer.json(), "no")
    assert "turned_away" in events(answer.json())


def test_a_job_that_fal_runs_may_be_finished_all_the_same(faulty: Stack) -> None:
    """It takes down the wish, and says no more: the answer is not a promise either."""
    faulty.fault(fault="no_credit", provider="replicate")
    faulty.fault(delay=8, provider="fal")
    task = faulty.submit("running at fal", "flux-schnell")
    faulty.accepted(task)
    until(lambda: "IN_PROGRESS" in fal_says(faulty, "running at fal"))

    answer = cancel(faulty, task)

    assert answer.status_code == 202, answer.text
    assert answer.json()["cancellation_status"] == "requested"
    end = faulty.finished(task)
    assert (end["status"], end["cancellation_status"]) == ("completed", "declined")


def fal_says(stack: Stack, prompt: str) -> str:
    job_id = stack.purchases(prompt)[0]["job_id"]
    return requests.get(
        f"{stack.sandbox_url}/fal/fal-ai/flux/requests/{job_id}/status",
        headers={"Authorization": "Key sandbox"},
        timeout=5,
    ).text


@pytest.mark.parametrize(
    ("model", "words"),
    [("flux-pro", "sim:never_ready@poll*3"), ("dall-e-2", "sim:slow:2")],
    ids=["bfl, which cannot stop its jobs", "openai, which answers inline"],
)
def test_what_its_provider_cannot_stop_is_a_409_and_completes(
    stack: Stack, model: str, words: str
) -> None:
    prompt = f"goes on {words}"
    task = stack.submit(prompt, model)
    until(lambda: stack.purchases(prompt), "bought")

    answer = cancel(stack, task)

    assert answer.status_code == 409, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["reason"]) == ("task_not_cancellable", "unstoppable")
    assert stack.finished(task)["status"] == "completed"
    assert cancel(stack, task).json()["error"]["reason"] == "completed"
    assert len(stack.purchases(prompt)) == 1


def test_a_task_that_waits_for_its_provider_is_cancelled_at_once(faulty: Stack) -> None:
    for provider in ("replicate", "fal", "together", "huggingface"):
        faulty.fault(fault="rate_limited", provider=provider, retry_after=60)
    task = faulty.submit("turned away", "flux-schnell")
    until(lambda: "retry_at" in record(faulty, task), "deferred")

    answer = cancel(faulty, task)

    assert answer.status_code == 200, answer.text
    assert_cancelled(answer.json(), "no")
    assert not faulty.purchases("turned away")


def test_a_task_that_no_worker_took_up_is_never_bought(fragile: Stack) -> None:
    fragile.kill("worker")
    task, other = fragile.submit("called off"), fragile.submit("not called off")

    answer = cancel(fragile, task)
    fragile.start("worker")

    assert answer.status_code == 200
    assert_cancelled(answer.json(), "no")
    assert fragile.finished(other)["status"] == "completed"
    assert events(fragile.poll(task)) == ["accepted", "cancelled"]
    assert not fragile.purchases("called off")[1:]
    assert [e["prompt"] for e in fragile.purchases("called off")] == ["not called off"]


def test_whoever_takes_over_from_a_worker_that_was_killed_stops_its_job(fragile: Stack) -> None:
    fragile.wait_until_ready()
    prompt = "stopped by the next sim:never_ready"
    task = fragile.submit(prompt, "flux-schnell")
    fragile.accepted(task)

    fragile.kill("worker", signal.SIGSTOP)  # so that it does not come to ask the provider
    with ThreadPoolExecutor(1) as pool:
        answer: Future[requests.Response] = pool.submit(cancel, fragile, task)
        until(lambda: record(fragile, task).get("cancel") == "requested", "requested")
        fragile.kill("worker")
        fragile.start("worker.2")
    end = fragile.finished(task)

    assert answer.result().status_code in (200, 202)
    assert_cancelled(end, "unknown")
    assert "worker_lost" in events(end)
    (bought,) = fragile.purchases(prompt)
    assert status_at_replicate(fragile, bought["job_id"]) == "canceled"
    fragile.start("worker")
    fragile.kill("worker.2", signal.SIGTERM)


def test_a_worker_hears_of_a_cancel_after_redis_was_away(fragile: Stack) -> None:
    fragile.wait_until_ready()
    task = fragile.submit("before and after sim:never_ready", "flux-schnell")
    fragile.accepted(task)
    fragile.kill("valkey")
    fragile.start("valkey")
    until(lambda: fragile.get(task["poll_url"]).status_code == 200, "polls again")

    answer = until(lambda: done if (done := cancel(fragile, task)).ok else None, "an answer")

    assert answer.status_code in (200, 202)
    assert_cancelled(fragile.finished(task, 20), "unknown")


def test_of_many_tasks_that_are_cancelled_on_their_way_each_has_one_end(stack: Stack) -> None:
    """Nothing is bought for those that are said to have cost nothing, and no picture comes late."""
    prompt = "called off on its way"
    with ThreadPoolExecutor(12) as pool:
        tasks = list(
            pool.map(lambda i: stack.submit(f"{prompt} {i:02}", "flux-schnell"), range(36))
        )
        answers = list(pool.map(lambda task: cancel(stack, task), tasks))
    ends = [stack.finished(task) for task in tasks]

    for number, (answer, end) in enumerate(zip(answers, ends, strict=True)):
        bought = stack.purchases(f"{prompt} {number:02}")
        assert len(bought) <= 1
        if end.get("cancelled"):
            assert answer.status_code in (200, 202), answer.text
            if end["error_detail"]["billed"] == "no":
                assert not bought, end
        else:
            assert end["status"] == "completed", end
            assert answer.status_code in (409, 202), answer.text
        if answer.status_code == 200:
            assert end == answer.json()
    assert [stack.poll(task) for task in tasks] == ends
