"""What is told of the queue: that it is too long, a task's place, and when to ask again."""

from __future__ import annotations

import requests

from tests.api.conftest import Stack
from tests.processes import until

QUEUE = "images.bfl"  # of flux-pro, which has 900 s


def one_each(stack: Stack, milliseconds: float) -> None:
    """Let the queue look as if one task ended in so much time."""
    pace = {f"{QUEUE}:every": milliseconds, f"{QUEUE}:measured": 10}
    stack.redis.hset("darkroom:pace", mapping=pace)


def refused(answer: requests.Response) -> dict[str, object]:
    assert answer.status_code == 429, answer.text
    error: dict[str, object] = answer.json()["error"]
    assert error["code"] == "queue_full"
    assert error["retryable"] is True
    assert answer.headers["Retry-After"] == str(error["retry_after"])
    return error


def test_a_submit_that_would_wait_too_long_is_refused_and_told_for_how_long(stack: Stack) -> None:
    stack.submit()
    tasks = stack.redis.zcard("darkroom:due")
    one_each(stack, 10_000_000)

    error = refused(stack.post({"model": "flux-pro", "prompt": "x"}))

    assert error["retry_after"] == 3600  # an hour at most: who knows what is then
    assert stack.redis.zcard("darkroom:due") == tasks


def test_what_waits_for_the_provider_makes_the_queue_longer(stack: Stack) -> None:
    line = "darkroom:routes:waits:bfl/flux-pro-1.1"
    one_each(stack, 100)
    stack.submit()
    stack.redis.zadd(line, {f"task-{n}": n for n in range(4_600)})
    try:
        error = refused(stack.post({"model": "flux-pro", "prompt": "x"}))
    finally:
        stack.redis.delete(line)

    assert 10 <= int(str(error["retry_after"])) < 200  # and what others left in the queue


def test_a_task_that_moves_up_is_not_what_it_was(stack: Stack) -> None:
    """Whoever asks with the tag of before is told its new place."""
    first, second = stack.submit(), stack.submit()
    before = stack.get(f"/v1/tasks/{second}")
    tag = {"If-None-Match": before.headers["ETag"]}
    assert stack.get(f"/v1/tasks/{second}", headers=tag).status_code == 304

    stack.claim(first)
    after = stack.get(f"/v1/tasks/{second}", headers=tag)

    assert after.status_code == 200
    assert after.json()["queue_position"] == before.json()["queue_position"] - 1


def test_who_waits_long_is_told_to_ask_less_often(stack: Stack) -> None:
    for _ in range(5):
        stack.complete(stack.submit())
    task_id = stack.submit()
    stack.redis.delete("darkroom:pace")
    assert stack.get(f"/v1/tasks/{task_id}").headers["Retry-After"] == "2"

    one_each(stack, 100_000)

    def told() -> str | None:
        # How long tasks take is counted anew every few seconds.
        answer = stack.get(f"/v1/tasks/{task_id}")
        return answer.headers["Retry-After"] if "eta_seconds" in answer.json() else None

    assert until(told, "the time it takes is known") == "30"
