"""New work is refused while there is still room to finish what was accepted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.api.conftest import Stack, running
from tests.processes import until

REQUEST = {"model": "flux-pro", "prompt": "x"}


@contextlib.contextmanager
def used(stack: Stack, share: float) -> Iterator[None]:
    """So much of Redis' memory limit is used, most of it by nobody's data."""
    limit, sack = 64_000_000, b"." * 1_000_000
    sacks = int(limit * share - stack.redis.info("memory")["used_memory"]) // len(sack)
    ballast = [f"ballast:{number}" for number in range(sacks)]
    for name in ballast:
        stack.redis.set(name, sack)
    stack.redis.config_set("maxmemory", limit)
    try:
        yield
    finally:
        stack.redis.delete(*ballast)
        until(lambda: accepted(stack), "accepted again")
        stack.redis.config_set("maxmemory", 0)


def refusal(stack: Stack) -> requests.Response:
    """The answer to the first submit that is refused."""
    answers: list[requests.Response] = []

    def refused() -> bool:
        answers.append(stack.post(REQUEST))
        return answers[-1].status_code == 503

    until(refused, "refused")
    return answers[-1]


def accepted(stack: Stack) -> bool:
    return stack.post(REQUEST).status_code == 202


def test_new_tasks_are_refused_before_redis_is_full(fragile: Stack) -> None:
    task_id = fragile.submit()

    with used(fragile, 0.85):
        answer = refusal(fragile)
        before = fragile.redis.zcard("darkroom:due")
        assert not accepted(fragile)
        assert fragile.redis.zcard("darkroom:due") == before
        assert "memory" in fragile.get("/readyz").json()["missing"]
        fragile.complete(task_id)
        assert fragile.get(f"/v1/tasks/{task_id}").json()["status"] == "completed"

    error = answer.json()["error"]
    assert error["code"] == "service_unavailable"
    assert "room" in error["message"]
    assert error["retryable"] is True
    assert answer.headers["Retry-After"] == "10"
    until(lambda: "memory" not in fragile.get("/readyz").json()["missing"])


def test_a_redis_that_is_full_takes_no_task_and_lets_accepted_ones_end(fragile: Stack) -> None:
    fragile.complete(fragile.submit())
    task_id = fragile.submit()
    fragile.redis.config_set("maxmemory", 1)
    try:
        before = fragile.redis.zcard("darkroom:due")
        answers = [fragile.post(REQUEST), fragile.post(REQUEST)]
        fragile.complete(task_id)
        known = fragile.get(f"/v1/tasks/{task_id}")
    finally:
        fragile.redis.config_set("maxmemory", 0)

    assert [answer.status_code for answer in answers] == [503, 503]
    assert all("Retry-After" in answer.headers for answer in answers)
    assert fragile.redis.zcard("darkroom:due") == before - 1
    assert known.json()["status"] == "completed"
    until(lambda: accepted(fragile), "accepted again")


def test_half_a_limit_is_room_enough(fragile: Stack) -> None:
    with used(fragile, 0.5):
        ends = time.monotonic() + 1.5  # longer than the last look is remembered
        while time.monotonic() < ends:
            assert accepted(fragile)


def test_redis_is_asked_for_room_once_a_second_at_most(fragile: Stack) -> None:
    def looks() -> int:
        """INFO as the front end has sent it; this very look is not counted yet."""
        nonlocal own
        own += 1
        return fragile.commands().get("info", 0) - own + 1

    own = 0
    before, started = looks(), time.monotonic()
    for _ in range(50):
        fragile.submit()

    assert looks() - before <= time.monotonic() - started + 1


@pytest.mark.parametrize("rule", ["-info"])
def test_a_redis_that_keeps_its_memory_to_itself_is_taken_to_have_room(
    fragile: Stack, rule: str
) -> None:
    fragile.redis.acl_setuser("default", commands=[rule])
    try:
        ends = time.monotonic() + 1.5
        while time.monotonic() < ends:
            assert accepted(fragile)
    finally:
        fragile.redis.acl_setuser("default", commands=["+info"])


def test_new_tasks_are_refused_while_too_little_is_free_for_their_pictures(tmp_path: Path) -> None:
    with running(tmp_path, SANDBOX="on", DISK_RESERVE_MB=10**9) as stack:
        answer = stack.post(REQUEST)

        assert answer.status_code == 503
        assert "room" in answer.json()["error"]["message"]
        assert answer.headers["Retry-After"] == "10"
        assert stack.redis.zcard("darkroom:due") == 0
        assert "disk" in stack.get("/readyz").json()["missing"]
