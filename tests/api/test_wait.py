"""Waiting for the end: `Prefer: wait=N` at submit, `?wait=N` when asking."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from common.store import ENDED_CHANNEL, MOVED_CHANNEL
from common.task import Failure
from tests.api.conftest import Stack, in_background, picture
from tests.processes import until


def test_a_submit_that_waits_is_answered_with_the_images(stack: Stack) -> None:
    """S22-S25, S27, S29: exactly what OpenAI's Images API answers."""
    worker = in_background(stack.complete, stack)
    started = time.monotonic()
    answer = stack.post(
        {"model": "flux-pro", "prompt": "a red apple"}, headers={"Prefer": "wait=60"}
    )
    worker.join()

    assert answer.status_code == 200
    assert time.monotonic() - started < 5
    assert answer.headers["Preference-Applied"] == "wait=60"
    body = answer.json()
    assert set(body) == {"created", "data"}
    (image,) = body["data"]
    assert set(image) == {"url", "revised_prompt"}
    assert requests.get(image["url"], timeout=10).ok
    assert answer.headers["X-Task-ID"].startswith("imgtask_")


def test_a_submit_that_waits_can_have_base64(stack: Stack) -> None:
    """S26"""
    data = picture()
    worker = in_background(lambda task_id: stack.complete(task_id, data), stack)
    answer = stack.post(
        {"model": "flux-pro", "prompt": "x", "response_format": "b64_json"},
        headers={"Prefer": "respond-async, wait=60"},
    )
    worker.join()

    (image,) = answer.json()["data"]
    assert set(image) == {"b64_json", "revised_prompt"}
    assert base64.b64decode(image["b64_json"]) == data


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (Failure("content_policy_violation", "Refused."), 400, "invalid_request_error"),
        (Failure("upstream_error", "Broken.", True), 502, "upstream_error"),
        (Failure("outcome_unknown", "Who knows.", False, "unknown"), 502, "upstream_error"),
        (Failure("all_channels_failed", "None left."), 503, "all_channels_failed"),
        (Failure("timeout", "Too late.", True), 504, "timeout_error"),
        (Failure("rate_limit_exceeded", "Too fast.", True), 429, "rate_limit_exceeded"),
        (Failure("attempts_exhausted", "Tried."), 502, "upstream_error"),
        (Failure("never_heard_of", "Odd."), 502, "upstream_error"),
    ],
)
def test_a_failure_in_time_is_an_error_with_the_status_of_its_code(
    stack: Stack, failure: Failure, status: int, kind: str
) -> None:
    worker = in_background(lambda task_id: stack.fail(task_id, failure), stack)
    answer = stack.post({"model": "flux-pro", "prompt": "x"}, headers={"Prefer": "wait=60"})
    worker.join()

    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["message"]) == (
        failure.code,
        kind,
        failure.message,
    )
    assert (error["retryable"], error["billed"]) == (failure.retryable, failure.billed)
    assert answer.headers["X-Should-Retry"] == str(failure.retryable).lower()
    assert answer.headers["X-Task-ID"] == error["task_id"]


def test_a_submit_that_waited_in_vain_is_pending(stack: Stack) -> None:
    """S29, S30"""
    started = time.monotonic()
    answer = stack.post({"model": "flux-pro", "prompt": "x"}, headers={"Prefer": "wait=1"})

    assert 0.9 < time.monotonic() - started < 2.5
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert answer.headers["Preference-Applied"] == "wait=1"


@pytest.mark.parametrize("prefer", ["wait", "wait=", "wait=x", "wait=-1", "wait=1.5", "wait=0"])
def test_a_preference_that_makes_no_sense_is_ignored(stack: Stack, prefer: str) -> None:
    started = time.monotonic()
    answer = stack.post({"model": "flux-pro", "prompt": "x"}, headers={"Prefer": prefer})

    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert time.monotonic() - started < 0.9
    assert "Preference-Applied" not in answer.headers


def test_waits_are_capped(stack: Stack) -> None:
    worker = in_background(stack.complete, stack)
    answer = stack.post(
        {"model": "flux-pro", "prompt": "x"}, headers={"Prefer": "Wait = 99999; x=1"}
    )
    worker.join()

    assert answer.headers["Preference-Applied"] == "wait=120"


@pytest.mark.parametrize("how", ["query", "header"])
def test_a_poll_can_wait_for_the_end(stack: Stack, how: str) -> None:
    task_id = stack.submit()
    path, headers = f"/v1/tasks/{task_id}", {}
    if how == "query":
        path += "?wait=30"
    else:
        headers["Prefer"] = "wait=30"
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(stack.get, path, headers=headers)
        time.sleep(0.2)  # most likely it waits by now; the test holds if it does not
        assert not answer.done()
        stack.complete(task_id)
        told = time.monotonic()
        body = answer.result().json()

    assert body["status"] == "completed"
    assert time.monotonic() - told < 1


def test_a_poll_that_waited_in_vain_tells_the_state(stack: Stack) -> None:
    task_id = stack.submit()
    started = time.monotonic()
    body = stack.get(f"/v1/images/{task_id}?wait=1").json()

    assert 0.9 < time.monotonic() - started < 2.5
    assert body["status"] == "pending"


def test_a_poll_of_a_final_task_does_not_wait(stack: Stack) -> None:
    task_id = stack.submit()
    stack.complete(task_id)
    started = time.monotonic()
    stack.get(f"/v1/tasks/{task_id}?wait=60")

    assert time.monotonic() - started < 0.9


@pytest.mark.parametrize("wait", ["x", "-1", "1e9", "", "٣"])
def test_a_wait_that_is_no_number_is_ignored(stack: Stack, wait: str) -> None:
    task_id = stack.submit()
    started = time.monotonic()

    assert stack.get(f"/v1/tasks/{task_id}", params={"wait": wait}).status_code == 200
    assert time.monotonic() - started < 0.9


def test_hundreds_wait_at_once_without_asking_redis_and_hear_of_the_end(
    stack: Stack,
) -> None:
    many = 250
    ids = [stack.submit() for _ in range(many)]
    with ThreadPoolExecutor(many) as pool:
        answers = []
        start = stack.commands()["fcall"]
        for number, task_id in enumerate(ids, 1):
            if number == 2:  # all that wait already are looked at when it begins to listen
                until(lambda: stack.redis.pubsub_numsub(ENDED_CHANNEL)[0][1] == 1)
            answers.append(
                pool.submit(
                    requests.get,
                    f"{stack.base}/v1/tasks/{task_id}?wait=60",
                    headers={"Authorization": f"Bearer {stack.key}"},
                    timeout=90,
                )
            )
            if number % 25 == 0:  # a busy machine is not to turn away a crowd
                until(lambda reads=number: stack.commands()["fcall"] >= start + reads)
        before = stack.commands()
        time.sleep(1)
        quiet = stack.commands()
        assert not any(answer.done() for answer in answers)
        for task_id in ids:
            claim = stack.claim(task_id)
            stack.store.fail(task_id, claim.task.generation, Failure("timeout", "Too late."))
        told = time.monotonic()
        bodies = [answer.result().json() for answer in answers]
        late = time.monotonic() - told

    assert [body["status"] for body in bodies] == ["failed"] * many
    assert late < 15  # who does not hear of it waits for the full minute
    assert quiet["fcall"] - before["fcall"] < many / 4, (before, quiet)


def places(stack: Stack) -> int:
    """Connections that the front end has to its clients, also to those who have left."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    open_states = ("01", "08")  # ESTABLISHED, CLOSE_WAIT
    return sum(
        int(line[1].partition(":")[2], 16) == stack.port and line[3] in open_states
        for line in lines
    )


def over(stack: Stack, since: int) -> int:
    """Requests that were held and are not any more, by what the log says from `since` on."""
    lines = [line for line in stack.log.read_text()[since:].splitlines() if line.startswith("{")]
    ends = [json.loads(line) for line in lines]
    # The request of a stream is in the log when it begins.
    return sum(
        end["event"] == "events"
        or (end["event"] == "request" and not str(end["path"]).endswith("/events"))
        for end in ends
    )


def test_clients_that_go_away_free_their_places(stack: Stack) -> None:
    task_id = stack.submit()
    until(lambda: stack.redis.pubsub_numsub(MOVED_CHANNEL)[0][1] == 0)
    before, since = places(stack), len(stack.log.read_text())
    requests_ = [
        f"GET /v1/tasks/{task_id}?wait=60 HTTP/1.1",
        f"GET /v1/tasks/{task_id}/events HTTP/1.1",
        "POST /v1/images/generations HTTP/1.1\r\nPrefer: wait=120",
    ]
    body = '{"model": "flux-pro", "prompt": "x"}'
    with contextlib.ExitStack() as clients:
        for request in requests_ * 20:
            client = clients.enter_context(socket.create_connection(("127.0.0.1", stack.port)))
            client.sendall(
                f"{request}\r\nHost: x\r\nAuthorization: Bearer {stack.key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
                "GET / HTTP/1.1".encode()  # and the beginning of another request
            )
        until(lambda: places(stack) == before + 60)
        until(lambda: stack.redis.pubsub_numsub(MOVED_CHANNEL)[0][1] == 1)
        time.sleep(2)
        assert over(stack, since) == 0
    gone = time.monotonic()

    until(lambda: over(stack, since) == 60)
    assert time.monotonic() - gone < 10  # two seconds, on a machine with nothing else to do
    until(lambda: places(stack) <= before)
