"""What a key has used, as real workers settle it; whatever is killed, nothing is counted twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import requests

from common.connection import connect
from common.keys import ApiKey, KeyStore
from common.limits import Limits
from tests.processes import until
from tests.stack import Stack
from tests.valkey import close


class Caller:
    """Somebody with a key and limits of their own."""

    def __init__(self, stack: Stack, client: redis.Redis, limits: Limits) -> None:
        self.stack = stack
        self.key: ApiKey
        self.key, plain = KeyStore(client).create("limited", limits=limits)
        self.headers = {"Authorization": f"Bearer {plain}"}

    def submit(self, prompt: str, model: str = "flux-pro", **body: Any) -> requests.Response:
        return self.stack.post(
            {"model": model, "prompt": prompt, "size": "512x512", **body}, **self.headers
        )

    def usage(self) -> dict[str, Any]:
        answer = requests.get(f"{self.stack.url}/v1/usage", headers=self.headers, timeout=10)
        body: dict[str, Any] = answer.json()
        return body

    def settled(self) -> dict[str, Any]:
        """What was used this month, once no task is open."""
        until(lambda: self.usage()["open_tasks"] == 0, "no open task", 40)
        month: dict[str, Any] = self.usage()["month"]
        return month

    def poll(self, answer: requests.Response) -> dict[str, Any]:
        url = self.stack.url + answer.json()["poll_url"]
        body: dict[str, Any] = requests.get(url, headers=self.headers, timeout=10).json()
        return body


@pytest.fixture
def client(stack: Stack) -> Iterator[redis.Redis]:
    client = connect(stack.redis_url)
    yield client
    close(client)


@pytest.mark.parametrize("model", ["flux-pro", "dall-e-2", "midjourney"])
def test_a_finished_task_counts_as_what_its_usage_says(
    stack: Stack, client: redis.Redis, model: str
) -> None:
    caller = Caller(stack, client, Limits(requests_per_minute=100, usd_per_month=5))
    answer = caller.submit("counted", model, n=2)

    month = caller.settled()

    task = caller.poll(answer)
    assert task["status"] == "completed", task
    assert month["images"] == 2
    assert month["spend_usd"] == task["usage"].get("cost_usd", 0.0)
    assert answer.headers["X-RateLimit-Remaining-Requests"] == "99"


def test_what_the_provider_refused_costs_nothing(stack: Stack, client: redis.Redis) -> None:
    caller = Caller(stack, client, Limits(usd_per_month=0.05))
    stack.fault(fault="no_credit", provider="bfl")
    try:
        answer = caller.submit("refused")
        month = caller.settled()
    finally:
        stack.clear_faults()

    assert caller.poll(answer)["error_detail"]["billed"] == "no"
    assert (month["images"], month["spend_usd"]) == (0, 0)
    stack.redis.delete("darkroom:routes")
    assert caller.submit("served").status_code == 202


def test_a_killed_worker_leaves_nothing_uncounted_and_nothing_counted_twice(
    fragile: Stack,
) -> None:
    client = connect(fragile.redis_url)
    caller = Caller(fragile, client, Limits(tasks_in_flight=12))
    answers = [caller.submit(f"survives {i}") for i in range(12)]
    assert caller.submit("one too many").status_code == 429

    fragile.kill("worker", signal.SIGKILL)
    fragile.start("worker")
    month = caller.settled()
    close(client)

    ends = [caller.poll(answer) for answer in answers]
    counted = [
        end for end in ends if end["status"] == "completed" or end["error_detail"]["billed"] != "no"
    ]
    assert month["images"] == len(counted)
    known = [end["usage"]["cost_usd"] for end in ends if end["status"] == "completed"]
    doubtful = 0.04 * (len(counted) - len(known))
    assert month["spend_usd"] == pytest.approx(sum(known) + doubtful)
