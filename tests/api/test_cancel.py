"""`DELETE`: what is cancelled, what cannot be, and nothing about other people's tasks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import requests

from common.task import Call, CallState, Claim, Failure, new_task_id
from tests.api.conftest import Stack
from tests.api.test_wait import in_background
from tests.processes import until

PATHS = ("/v1/tasks/{}", "/v1/images/generations/{}")
JOB = Call(0, 1, "bfl", "flux-pro-1.1", CallState.ACCEPTED, stoppable=True)


def cancel(stack: Stack, task_id: str, path: str = PATHS[0]) -> requests.Response:
    return stack.http.delete(stack.base + path.format(task_id), timeout=30)


def reason(answer: requests.Response) -> str:
    assert answer.status_code == 409, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("task_not_cancellable", "invalid_request_error")
    assert error["task_id"]
    return str(error["reason"])


@pytest.mark.parametrize("path", PATHS)
def test_a_pending_task_is_cancelled(stack: Stack, path: str) -> None:
    task_id = stack.submit(n=2)

    answer = cancel(stack, task_id, path)

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.json()
    assert body["status"] == "failed"
    assert (body["cancelled"], body["cancellation_status"]) == (True, "cancelled")
    assert body["data"] == []
    assert body["error"] == "The task was cancelled."
    assert body["error_detail"] == {
        "code": "cancelled",
        "message": "The task was cancelled.",
        "retryable": False,
        "billed": "no",
    }
    assert body["timeline"][-1]["event"] == "cancelled"
    assert stack.get(f"/v1/tasks/{task_id}").json() == body
    assert stack.store.claim(task_id, "tests") is None


def test_cancelling_again_is_answered_with_the_same(stack: Stack) -> None:
    task_id = stack.submit()
    first = cancel(stack, task_id)

    again = cancel(stack, task_id, PATHS[1])

    assert (again.status_code, again.content) == (200, first.content)


def test_other_peoples_tasks_are_unknown_to_the_byte(stack: Stack) -> None:
    task_id = stack.submit()
    stranger = stack.keys.create("stranger")[1]
    headers = {"Authorization": f"Bearer {stranger}"}

    foreign, unknown, malformed = (
        requests.delete(f"{stack.base}/v1/tasks/{name}", headers=headers, timeout=10)
        for name in (task_id, new_task_id(), "nonsense")
    )

    assert foreign.status_code == unknown.status_code == malformed.status_code == 404
    assert foreign.content == unknown.content == malformed.content
    assert foreign.json()["error"]["code"] == "async_task_not_found"
    assert stack.get(f"/v1/tasks/{task_id}").json()["status"] == "pending"
    keyless = requests.delete(f"{stack.base}/v1/tasks/{task_id}", timeout=10)
    assert keyless.status_code == 401


def test_a_completed_task_stays_completed(stack: Stack) -> None:
    task_id = stack.submit()
    stack.complete(task_id)

    assert reason(cancel(stack, task_id)) == "completed"
    body = stack.get(f"/v1/tasks/{task_id}").json()
    assert body["status"] == "completed"
    assert "cancellation_status" not in body


def test_a_failed_task_stays_failed(stack: Stack) -> None:
    task_id = stack.submit()
    stack.fail(task_id, Failure("upstream_error", "It broke."))

    assert reason(cancel(stack, task_id)) == "failed"
    assert stack.get(f"/v1/tasks/{task_id}").json()["error"] == "It broke."


@pytest.mark.parametrize(
    ("state", "stoppable", "why"),
    [
        (CallState.SUBMITTING, False, "unstoppable"),
        (CallState.SUBMITTING, True, "sending"),
        (CallState.ACCEPTED, False, "unstoppable"),
        (CallState.IN_DOUBT, True, "in_doubt"),
        (CallState.MISSED, False, "in_doubt"),
    ],
)
def test_what_cannot_be_cancelled_goes_on_and_why_is_told_at_once(
    stack: Stack, state: CallState, stoppable: bool, why: str
) -> None:
    task_id = stack.submit()
    stack.store.journal(stack.claim(task_id), replace(JOB, state=state, stoppable=stoppable))
    started = time.monotonic()

    answer = cancel(stack, task_id)

    assert reason(answer) == why
    assert time.monotonic() - started < 2
    may_be_repeated = why == "sending"
    assert answer.json()["error"]["retryable"] is may_be_repeated
    assert ("Retry-After" in answer.headers) is may_be_repeated
    body = stack.get(f"/v1/tasks/{task_id}").json()
    assert body["status"] == "processing"
    assert "cancellation_status" not in body


# -- what a worker decides


@dataclass
class Job:
    """A task whose job might be stopped, and its worker, which sees to the wish when it comes."""

    stack: Stack
    claim: Claim

    @property
    def task_id(self) -> str:
        return self.claim.task.id

    def stop(self) -> None:
        self._wanted()
        self._fail(Failure("cancelled", "The task was cancelled.", billed="unknown"))

    def decline(self) -> None:
        self._wanted()
        assert self.stack.store.decline(self.claim)

    def fail(self) -> None:
        self._wanted()
        self._fail(Failure("upstream_error", "It broke."))

    def _wanted(self) -> None:
        held = {self.task_id: self.claim.task.generation}
        until(lambda: self.stack.store.renew("tests", held).to_cancel)

    def _fail(self, failure: Failure) -> None:
        assert self.stack.store.fail(self.task_id, self.claim.task.generation, failure)


@pytest.fixture
def job(stack: Stack) -> Job:
    claim = stack.claim(stack.submit())
    stack.store.journal(claim, JOB)
    return Job(stack, claim)


def meanwhile(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_the_answer_waits_for_the_worker_to_stop_the_job(stack: Stack, job: Job) -> None:
    worker, started = meanwhile(job.stop), time.monotonic()

    answer = cancel(stack, job.task_id)
    worker.join()

    assert answer.status_code == 200
    assert time.monotonic() - started < 4
    assert answer.json()["error_detail"]["billed"] == "unknown"


def test_a_job_that_was_not_stopped_is_a_409_and_the_task_goes_on(stack: Stack, job: Job) -> None:
    worker, started = meanwhile(job.decline), time.monotonic()

    answer = cancel(stack, job.task_id)
    worker.join()

    assert reason(answer) == "not_stopped"
    assert time.monotonic() - started < 4
    body = stack.get(f"/v1/tasks/{job.task_id}").json()
    assert (body["status"], body["cancellation_status"]) == ("processing", "declined")


def test_a_task_that_ended_meanwhile_is_a_409(stack: Stack, job: Job) -> None:
    worker = meanwhile(job.fail)

    answer = cancel(stack, job.task_id)
    worker.join()

    assert reason(answer) == "failed"


def test_what_is_not_decided_in_time_is_accepted_and_can_be_polled(stack: Stack, job: Job) -> None:
    before = stack.get(f"/v1/tasks/{job.task_id}")
    started = time.monotonic()

    answer = cancel(stack, job.task_id)

    assert answer.status_code == 202
    assert 4 < time.monotonic() - started < 10
    assert int(answer.headers["Retry-After"]) >= 1
    body = answer.json()
    assert (body["status"], body["cancellation_status"]) == ("processing", "requested")
    assert "cancelled" not in body
    polled = stack.get(f"/v1/tasks/{job.task_id}")
    assert polled.json()["cancellation_status"] == "requested"
    assert polled.headers["ETag"] != before.headers["ETag"]
    job.stop()
    assert stack.get(f"/v1/tasks/{job.task_id}").json()["cancellation_status"] == "cancelled"
    assert cancel(stack, job.task_id).status_code == 200


def test_who_waits_for_a_task_is_told_that_it_was_cancelled(stack: Stack) -> None:
    """And OpenAI's SDK, which repeats a 409, is told not to."""
    worker = in_background(lambda task_id: cancel(stack, task_id), stack)
    answer = stack.post({"model": "flux-pro", "prompt": "x"}, headers={"Prefer": "wait=60"})
    worker.join()

    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "cancelled"
    assert answer.json()["error"]["billed"] == "no"
    assert answer.headers["X-Should-Retry"] == "false"
