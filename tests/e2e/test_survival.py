"""kill -9 of everything, with the sandbox's ledger as the judge of what was bought."""

from __future__ import annotations

import signal
import time

import pytest
import requests

from tests.processes import until
from tests.stack import LEASE, Stack

TAKEOVER = LEASE + 5


def open_calls(stack: Stack, provider: str) -> int:
    calls = requests.get(f"{stack.sandbox_url}/_sandbox/calls", timeout=5).json()
    return int(calls.get("calls", calls).get(provider, {}).get("open", 0))


def test_a_job_outlives_its_worker(fragile: Stack) -> None:
    """The next worker polls the job that was bought; nothing is bought again (G1, G2)."""
    prompt = "outlives sim:never_ready@poll*3"
    task = fragile.submit(prompt)
    until(lambda: fragile.purchases(prompt), "bought")
    fragile.accepted(task)

    fragile.kill("worker")
    fragile.start("worker.2")
    killed = time.monotonic()
    until(
        lambda: int(fragile.redis.hget(f"darkroom:task:{task['id']}", "generation") or 0) >= 2,
        "taken over",
    )
    taken_over = time.monotonic() - killed
    end = fragile.finished(task)

    assert end["status"] == "completed", end
    assert taken_over <= TAKEOVER
    assert len(fragile.purchases(prompt)) == 1
    fragile.start("worker")
    fragile.kill("worker.2")


def test_an_inline_call_cut_off_is_never_repeated(fragile: Stack) -> None:
    """Whether it was charged cannot be known: the task says so, and there is one purchase (G2)."""
    fragile.wait_until_ready()
    prompt = "cut off sim:slow:60"
    task = fragile.submit(prompt, "dall-e-2")
    until(lambda: fragile.purchases(prompt), "bought")

    fragile.kill("worker")
    fragile.start("worker")
    end = fragile.finished(task)

    assert end["status"] == "failed"
    assert end["error_detail"]["code"] == "outcome_unknown"
    assert end["error_detail"]["billed"] == "unknown"
    assert len(fragile.purchases(prompt)) == 1


def test_tasks_survive_a_time_without_any_worker(fragile: Stack) -> None:
    fragile.kill("worker")
    tasks = [fragile.submit(f"nobody there {i}") for i in range(5)]

    fragile.start("worker")

    ends = [fragile.finished(task) for task in tasks]
    assert {end["status"] for end in ends} == {"completed"}
    assert len(fragile.purchases("nobody there")) == 5


def test_a_message_that_is_lost_is_sent_again(fragile: Stack) -> None:
    """The record is the truth, the message a hint (G1)."""
    fragile.kill("worker", signal.SIGTERM)
    task = fragile.submit("lost in the queue")
    assert fragile.redis.delete("images.bfl") == 1

    fragile.start("worker")

    assert fragile.finished(task)["status"] == "completed"


def test_the_stack_carries_on_when_valkey_was_killed(fragile: Stack) -> None:
    """Nothing accepted is lost, nothing is bought twice, nobody has to be restarted (G1, G7)."""
    tasks = [fragile.submit(f"before the kill {i} sim:never_ready@poll*3") for i in range(4)]
    until(lambda: len(fragile.purchases("before the kill")) == 4, "bought")

    fragile.kill("valkey")
    time.sleep(1)  # an outage has a length
    fragile.start("valkey")
    until(lambda: fragile.get("/v1/tasks/" + tasks[0]["id"]).status_code == 200, "polls again")

    ends = [fragile.finished(task) for task in [*tasks, fragile.submit("after the kill")]]
    assert {end["status"] for end in ends} == {"completed"}, ends
    assert len(fragile.purchases("before the kill")) == 4
    assert len(fragile.purchases("after the kill")) == 1


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["hung", "gone"])
def test_without_valkey_every_answer_is_503_and_quick(fragile: Stack, how: int) -> None:
    """Never "pending", never 404: what cannot be asked is not known (G6)."""
    fragile.wait_until_ready()
    task = fragile.finished(fragile.submit("known before"))
    fragile.kill("valkey", how)
    try:
        started = time.monotonic()
        answers = [
            fragile.get(f"/v1/tasks/{task['id']}"),
            fragile.get("/v1/tasks/imgtask_" + "0" * 32),
            fragile.post({"model": "flux-pro", "prompt": "not now"}),
        ]
        longest = max(answer.elapsed.total_seconds() for answer in answers)
    finally:
        if how == signal.SIGSTOP:
            fragile.kill("valkey", signal.SIGCONT)
        else:
            fragile.start("valkey")

    assert time.monotonic() - started < 10
    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert all("Retry-After" in answer.headers for answer in answers)
    assert longest <= 2.5
    until(lambda: fragile.get(f"/v1/tasks/{task['id']}").status_code == 200, "back again")


def test_an_orderly_stop_hands_waiting_jobs_over(fragile: Stack) -> None:
    fragile.wait_until_ready()
    prompt = "handed over"
    fragile.fault(fault="never_ready", call="poll")
    task = fragile.submit(prompt)
    fragile.accepted(task)

    fragile.start("worker.2")
    until(lambda: "ready" in (fragile.directory / "worker.2.log").read_text(), "ready", 40)
    fragile.kill("worker", signal.SIGTERM)
    until(
        lambda: fragile.redis.hget(f"darkroom:task:{task['id']}", "generation") == "2",
        "taken up by another worker",
        5,
    )
    fragile.clear_faults()
    end = fragile.finished(task)

    assert end["status"] == "completed"
    assert len(fragile.purchases(prompt)) == 1
    record = fragile.redis.hgetall(f"darkroom:task:{task['id']}")
    # Claimed a second time, and not because its holder was lost: it was handed over.
    assert (record["generation"], record["losses"]) == ("2", "0")
    fragile.start("worker")
    fragile.kill("worker.2", signal.SIGTERM)


def test_a_submit_is_repeated_although_its_front_end_died(fragile: Stack) -> None:
    """The name and the task were kept in one step, so any front end knows both or neither."""
    fragile.wait_until_ready()
    body = {"model": "flux-pro", "prompt": "a fox that was asked for twice", "size": "512x512"}
    name = {"Idempotency-Key": "order 1"}
    first = fragile.post(body, **name)

    fragile.kill("web")
    fragile.start("web")
    fragile.wait_until_ready()
    again = fragile.post(body, **name)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert fragile.finished(again.json())["status"] == "completed"
    assert len(fragile.purchases(body["prompt"])) == 1
