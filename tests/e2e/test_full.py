"""What fills up, and is emptied again: nothing accepted is lost, no process has to be restarted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import redis

from tests.processes import until
from tests.stack import Stack, running


@pytest.fixture(scope="module", params=["threads", "gevent"])
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack with few slots, so that some tasks wait in the queue while others run."""
    directory = tmp_path_factory.mktemp("full")
    with running(directory, WORKER_POOL=request.param, WORKER_CONCURRENCY="3") as whole:
        whole.finished(whole.submit("the first of all"))
        yield whole


def accepted(stack: Stack) -> bool:
    return stack.post({"model": "flux-pro", "prompt": "room again"}).status_code == 202


def missing(stack: Stack) -> list[str]:
    return list(stack.get("/readyz").json()["missing"])


@contextlib.contextmanager
def ballast(stack: Stack) -> Iterator[None]:
    """Redis holds a tenth more than it may; when that is gone it holds next to nothing."""
    names = [f"ballast:{number}" for number in range(40)]
    for name in names:
        stack.redis.set(name, b"." * 500_000)
    stack.redis.config_set("maxmemory", int(stack.redis.info("memory")["used_memory"] / 1.1))
    try:
        yield
    finally:
        stack.redis.delete(*names)


def test_a_full_redis_takes_nothing_new_and_finishes_what_it_has(stack: Stack) -> None:
    processes = stack.alive()
    tasks = [stack.submit(f"while it fills {n} sim:never_ready@poll*3") for n in range(9)]
    until(lambda: stack.purchases("while it fills"), "the first were bought")

    with ballast(stack):
        refused = stack.post({"model": "flux-pro", "prompt": "too much"})
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            stack.redis.set("anything", "more")
        ends = [stack.finished(task) for task in tasks]
        assert missing(stack) == ["memory"]

    assert refused.status_code == 503
    assert "Retry-After" in refused.headers
    assert {end["status"] for end in ends} == {"completed"}
    assert len(stack.purchases("while it fills")) == len(tasks)
    until(lambda: accepted(stack), "accepted again")
    until(lambda: missing(stack) == [], "ready")
    assert stack.finished(stack.submit("afterwards"))["status"] == "completed"
    assert stack.alive() == processes
    stack.redis.config_set("maxmemory", 0)
