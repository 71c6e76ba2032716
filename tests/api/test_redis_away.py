"""Redis frozen, killed and back: an honest 503 in time, and then on as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests

from common.task import new_task_id
from tests.api.conftest import Stack
from tests.processes import until


@contextmanager
def frozen(stack: Stack) -> Iterator[None]:
    stack.valkey.freeze()
    try:
        yield
    finally:
        stack.valkey.thaw()
        until(lambda: stack.get("/v1/tasks/x").status_code == 404)


@contextmanager
def killed(stack: Stack) -> Iterator[None]:
    """Killed, and empty when it is back."""
    stack.valkey.kill()
    try:
        yield
    finally:
        stack.valkey.start()
        until(lambda: stack.get("/v1/tasks/x").status_code == 404)


def in_time(action: Callable[[], requests.Response], seconds: float = 2.5) -> requests.Response:
    started = time.monotonic()
    answer = action()
    assert time.monotonic() - started < seconds
    return answer


@pytest.mark.parametrize("how", [frozen, killed])
def test_without_redis_nothing_is_accepted_and_nothing_is_made_up(
    fragile: Stack, how: Callable[[Stack], object]
) -> None:
    """G6, G7"""
    task_id = fragile.submit()
    fragile.complete(task_id)
    url = fragile.get(f"/v1/tasks/{task_id}").json()["data"][0]["url"]
    fragile.get("/v1/models")
    requests_ = {
        "submit": lambda: fragile.post({"model": "flux-pro", "prompt": "x"}),
        "poll": lambda: fragile.get(f"/v1/tasks/{task_id}"),
        "cancel": lambda: fragile.http.delete(f"{fragile.base}/v1/tasks/{task_id}", timeout=10),
        "unknown": lambda: fragile.get(f"/v1/tasks/{new_task_id()}?wait=5"),
        "stranger": lambda: requests.get(
            f"{fragile.base}/v1/tasks/x", headers={"Authorization": "Bearer sk-new"}, timeout=10
        ),
        "models": lambda: fragile.get("/v1/models?recommended_for=image"),
        "ready": lambda: fragile.get("/readyz"),
        "alive": lambda: fragile.get("/healthz"),
        "image": lambda: requests.get(url, timeout=10),
    }

    with how(fragile), ThreadPoolExecutor() as pool:  # type: ignore[attr-defined]
        futures = {
            name: pool.submit(in_time, action, 1.2 if name == "ready" else 2.5)
            for name, action in requests_.items()
        }
        answers = {name: future.result() for name, future in futures.items()}

    for name in ("submit", "poll", "cancel", "unknown", "stranger"):
        answer = answers[name]
        assert answer.status_code == 503, (name, answer.text)
        assert answer.json()["error"]["code"] == "service_unavailable"
        assert answer.headers["Retry-After"] == "2"
    assert answers["submit"].json()["error"].get("task_id", "imgtask_").startswith("imgtask_")
    assert answers["ready"].status_code == 503
    assert answers["ready"].json() == {"status": "not_ready", "missing": ["redis"]}
    assert [answers[name].status_code for name in ("models", "alive", "image")] == [200] * 3


def test_an_unsure_submit_names_the_task_it_may_have_made(fragile: Stack) -> None:
    fragile.submit()  # so that the key is known without asking
    with frozen(fragile):
        error = in_time(lambda: fragile.post({"model": "flux-pro", "prompt": "x"})).json()["error"]

    # It was sent while Redis slept, and Redis worked it off when it woke: the id tells.
    assert fragile.get(f"/v1/tasks/{error['task_id']}").status_code in (200, 404)


def test_an_end_is_heard_of_although_the_subscription_broke(fragile: Stack) -> None:
    ids = [fragile.submit(), fragile.submit()]
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(fragile.get, f"/v1/tasks/{i}?wait=30") for i in ids]
        until(lambda: subscribers(fragile) == 1)
        fragile.redis.client_kill_filter(_type="pubsub")
        fragile.complete(ids[0])  # while most likely nobody listens
        until(lambda: subscribers(fragile) == 1)
        fragile.complete(ids[1])
        ended = time.monotonic()
        bodies = [answer.result().json() for answer in answers]

    assert [body["status"] for body in bodies] == ["completed"] * 2
    assert time.monotonic() - ended < 2


def subscribers(stack: Stack) -> int:
    return int(stack.redis.pubsub_numsub("darkroom:ended")[0][1])


def test_a_front_end_that_starts_before_redis_serves_when_it_is_there(fragile: Stack) -> None:
    master = fragile.process.pid
    worker = subprocess.run(
        ["pgrep", "-P", str(master)], capture_output=True, text=True, check=True
    ).stdout
    with killed(fragile):
        os.kill(int(worker), signal.SIGKILL)  # gunicorn starts another
        until(lambda: fragile.get("/v1/tasks/x").status_code == 503)
        assert fragile.get("/readyz").json()["missing"] == ["redis"]

    assert fragile.submit()


def test_what_the_sandbox_made_says_so(fragile: Stack) -> None:
    answer = fragile.post({"model": "flux-pro", "prompt": "x"})

    assert answer.json()["sandbox"] is True
    assert fragile.get(answer.json()["poll_url"]).json()["sandbox"] is True


def test_readiness_names_what_is_missing(fragile: Stack) -> None:
    def missing() -> list[str]:
        answer = fragile.get("/readyz")
        body = answer.json()
        assert (answer.status_code == 200) == (body["status"] == "ready") == (not body["missing"])
        return list(body["missing"])

    fragile.redis.delete("darkroom:seen")
    assert missing() == ["worker", "sweep"]
    fragile.store.renew("worker-1", {})
    assert missing() == ["sweep"]
    fragile.store.sweep("beat-1")
    assert missing() == []
    long_ago = (time.time() - 100) * 1000
    fragile.redis.zadd("darkroom:seen", {"worker-1": long_ago})
    assert missing() == ["worker"]


def test_readiness_names_a_sweep_that_does_not_keep_up(fragile: Stack) -> None:
    late = fragile.submit()
    fragile.store.renew("worker-1", {})
    fragile.store.sweep("beat-1")
    fragile.redis.zadd("darkroom:due", {late: (time.time() - 60) * 1000})

    answer = fragile.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["missing"] == ["sweep"]
    assert 59 < answer.json()["sweep_lag_seconds"] < 90

    fragile.store.sweep("beat-1")
    answer = fragile.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["sweep_lag_seconds"] == 0
