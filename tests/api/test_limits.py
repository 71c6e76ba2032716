"""Limits of a key over HTTP: what is refused how, what is told, and `GET /v1/usage`."""

from __future__ import annotations

import math
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import openai
import pytest
import requests

from common.limits import Limits
from common.task import Failure
from tests.api.conftest import Stack
from tests.api.test_openapi import check
from tests.processes import until

RATE_HEADERS = (
    "X-RateLimit-Limit-Requests",
    "X-RateLimit-Remaining-Requests",
    "X-RateLimit-Reset-Requests",
)


class Caller:
    """Somebody with a key of their own."""

    def __init__(self, stack: Stack, limits: Limits) -> None:
        self.stack = stack
        self.key, self.plain = stack.keys.create("limited", limits=limits)
        self.headers = {"Authorization": f"Bearer {self.plain}"}

    def post(self, **fields: Any) -> requests.Response:
        body = {"model": "flux-pro", "prompt": "a red apple"} | fields
        return self.stack.post(body, headers=self.headers)

    def accepted(self, **fields: Any) -> str:
        answer = self.post(**fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def refused(self, status: int, code: str, **fields: Any) -> dict[str, Any]:
        tasks = self.stack.redis.zcard("darkroom:due")
        answer = self.post(**fields)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
        assert self.stack.redis.zcard("darkroom:due") == tasks
        error: dict[str, Any] = answer.json()["error"]
        assert answer.headers.get("Retry-After") == (
            str(error["retry_after"]) if "retry_after" in error else None
        )
        return error

    def usage(self, query: str = "") -> dict[str, Any]:
        answer = self.stack.get(f"/v1/usage{query}", headers=self.headers)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


# -- what is refused


def test_a_hundred_posts_at_once_are_accepted_up_to_the_limit_exactly(stack: Stack) -> None:
    caller = Caller(stack, Limits(tasks_in_flight=10))

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: caller.post(), range(100)))

    assert Counter(answer.status_code for answer in answers) == {202: 10, 429: 90}
    assert caller.usage()["open_tasks"] == 10


def test_too_many_tasks_in_flight_may_be_tried_again_when_one_has_ended(stack: Stack) -> None:
    caller = Caller(stack, Limits(tasks_in_flight=1))
    task_id = caller.accepted()

    error = caller.refused(429, "concurrency_limit_exceeded")
    stack.complete(task_id)
    caller.accepted()

    assert error["type"] == "rate_limit_exceeded"
    assert error["limit"] == "tasks_in_flight"
    assert error["retryable"] is True and 1 <= error["retry_after"] <= 5


def test_too_many_requests_are_told_when_the_next_is_admitted(stack: Stack) -> None:
    caller = Caller(stack, Limits(requests_per_minute=2))
    caller.accepted()
    caller.accepted()

    error = caller.refused(429, "rate_limit_exceeded")

    assert error["limit"] == "requests_per_minute"
    assert 25 <= error["retry_after"] <= 30


def test_polls_are_never_limited(stack: Stack) -> None:
    caller = Caller(stack, Limits(requests_per_minute=1))
    task_id = caller.accepted()
    caller.refused(429, "rate_limit_exceeded")

    for _ in range(20):
        answer = stack.get(f"/v1/tasks/{task_id}", headers=caller.headers)
        assert answer.status_code == 200
        assert not any(name in answer.headers for name in RATE_HEADERS)


def test_a_wrong_request_costs_nothing(stack: Stack) -> None:
    caller = Caller(stack, Limits(requests_per_minute=1, images_per_day=1))

    assert caller.post(size="1x1").status_code == 400

    caller.accepted()


@pytest.mark.parametrize(
    ("limits", "limit", "longest"),
    [
        (Limits(images_per_day=3), "images_per_day", 86_400),
        (Limits(usd_per_month=0.13), "usd_per_month", 31 * 86_400),
    ],
)
def test_a_quota_that_is_used_up_is_not_worth_trying_again_soon(
    stack: Stack, limits: Limits, limit: str, longest: int
) -> None:
    caller = Caller(stack, limits)
    caller.accepted(n=3)

    error = caller.refused(402, "quota_exceeded")

    assert error["type"] == "insufficient_balance"
    assert error["limit"] == limit
    assert error["retryable"] is False and 0 < error["resets_in"] <= longest
    with (
        openai.OpenAI(base_url=f"{stack.base}/v1", api_key=caller.plain, max_retries=2) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.images.generate(model="flux-pro", prompt="x", size="1024x1024")
    assert caught.value.status_code == 402
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_what_surely_was_not_charged_may_be_spent_again(stack: Stack) -> None:
    caller = Caller(stack, Limits(usd_per_month=0.04))
    free = caller.accepted()
    caller.refused(402, "quota_exceeded")

    stack.fail(free, Failure("upstream_error", "x", billed="no"))
    maybe = caller.accepted()
    stack.fail(maybe, Failure("outcome_unknown", "x", billed="unknown"))

    caller.refused(402, "quota_exceeded")


def test_a_key_may_be_kept_to_some_models(stack: Stack) -> None:
    caller = Caller(stack, Limits(models=("flux-*", "dall-e-3")))

    error = caller.refused(403, "model_not_allowed", model="dall-e-2")
    caller.accepted(model="flux-pro")
    caller.accepted(model="dall-e-3")

    assert error["type"] == "access_denied"
    assert error["param"] == "model"
    assert "flux-*, dall-e-3" in error["message"]
    assert caller.post(model="dall-e-9").status_code == 400
    everybody = stack.get("/v1/models", headers=caller.headers).json()
    assert "dall-e-2" in {model["id"] for model in everybody["data"]}


def test_the_model_that_is_meant_when_none_is_named_has_to_be_allowed_too(stack: Stack) -> None:
    caller = Caller(stack, Limits(models=("flux-*",)))

    answer = stack.post({"prompt": "x"}, headers=caller.headers)

    assert answer.json()["error"]["code"] == "model_not_allowed"


def test_a_limit_that_is_changed_holds(stack: Stack) -> None:
    caller = Caller(stack, Limits())
    one = Limits(tasks_in_flight=1)
    stack.keys.change(caller.key.id, lambda key: replace(key, limits=one))

    caller.accepted()
    caller.refused(429, "concurrency_limit_exceeded")


# -- what is told


def test_what_is_left_is_in_the_headers_of_every_submit(stack: Stack) -> None:
    caller = Caller(stack, Limits(requests_per_minute=3, tasks_in_flight=2))

    answers = [caller.post() for _ in range(3)]

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    told = [[answer.headers[name] for name in RATE_HEADERS] for answer in answers]
    assert [row[:2] for row in told] == [["3", "2"], ["3", "1"], ["3", "1"]]
    assert told[0][2] == "20s"
    assert all(re.fullmatch(r"[0-9]+ms|[0-9]+s|[0-9]+m[0-9]+s", row[2]) for row in told)


def test_what_is_left_is_told_to_those_who_waited_too(stack: Stack) -> None:
    caller = Caller(stack, Limits(requests_per_minute=1000))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            lambda: stack.post(
                {"model": "flux-pro", "prompt": "x"},
                headers=caller.headers | {"Prefer": "wait=30"},
            )
        )
        (entry,) = until(lambda: stack.redis.zrange(f"darkroom:open:{caller.key.id}", 0, -1))
        stack.fail(entry.split()[0], Failure("upstream_error", "x"))
        answer = waiting.result()

    assert answer.status_code == 502
    assert answer.headers["X-RateLimit-Remaining-Requests"] == "999"
    assert answer.headers["X-RateLimit-Reset-Requests"] == "60ms"


def test_a_key_without_a_limit_on_requests_is_told_nothing(stack: Stack) -> None:
    answers = [
        Caller(stack, Limits()).post(),
        Caller(stack, Limits(tasks_in_flight=1, usd_per_month=1)).post(),
    ]

    assert not any(name in answer.headers for answer in answers for name in RATE_HEADERS)


def test_a_price_that_is_not_known_is_said_where_spend_is_limited(fragile: Stack) -> None:
    limited = Caller(fragile, Limits(usd_per_month=0.01))

    told = limited.post(model="midjourney").json()["warnings"]
    unlimited = Caller(fragile, Limits()).post(model="midjourney").json()["warnings"]

    (warning,) = set(told) - set(unlimited)
    assert "price of midjourney is not known" in warning
    assert limited.usage()["month"]["unpriced_images"] == 1


def test_a_submit_with_every_limit_costs_one_round_trip(stack: Stack) -> None:
    caller = Caller(stack, Limits(("*",), 100, 100, 100, 100))
    caller.accepted()
    before = stack.commands()

    caller.accepted()

    after = stack.commands()
    assert after["fcall"] - before["fcall"] == 1
    assert after.get("eval") == before.get("eval")


# -- GET /v1/usage


def test_usage_tells_what_was_used_and_what_is_left(stack: Stack) -> None:
    limits = Limits(
        models=("flux-*", "dall-e-*"),
        requests_per_minute=10,
        tasks_in_flight=5,
        images_per_day=20,
        usd_per_month=2.5,
    )
    caller = Caller(stack, limits)
    done = caller.accepted(n=2)
    caller.accepted(model="dall-e-2")
    stack.complete(done, usage={"cost_usd": 0.07})

    usage = caller.usage()

    check(dict(stack.get("/openapi.json").json()), "UsageReport", usage)
    today = datetime.now(UTC)
    assert usage["month"]["period"] == f"{today:%Y-%m}"
    assert usage["today"]["period"] == f"{today:%Y-%m-%d}"
    # One of the two pictures came, and nothing is said of the other.
    flux = {"images": 1, "spend_usd": 0.07, "estimated_usd": 0.0, "unpriced_images": 0}
    dall_e = {"images": 1, "spend_usd": 0.02, "estimated_usd": 0.02, "unpriced_images": 0}
    assert usage["month"]["models"] == {"flux-pro": flux, "dall-e-2": dall_e}
    assert usage["month"]["spend_usd"] == usage["today"]["spend_usd"] == 0.09
    assert usage["month"]["estimated_usd"] == 0.02
    assert usage["open_tasks"] == 1
    assert usage["limits"] == {
        "models": ["flux-*", "dall-e-*"],
        "expires_at": None,
        "requests_per_minute": {"limit": 10, "remaining": 8},
        "tasks_in_flight": {"limit": 5, "remaining": 4},
        "images_per_day": {"limit": 20, "remaining": 18},
        "usd_per_month": {"limit": 2.5, "remaining": 2.41},
    }


def test_usage_of_a_key_without_limits_is_kept_as_well(stack: Stack) -> None:
    caller = Caller(stack, Limits())
    assert caller.usage()["month"]["models"] == {}
    caller.accepted(n=4)

    usage = caller.usage()

    assert usage["today"]["images"] == 4
    assert usage["month"]["estimated_usd"] == 0.16
    assert set(usage["limits"].values()) == {None}


def test_usage_is_the_callers_own_and_needs_a_key(stack: Stack) -> None:
    spender, other = Caller(stack, Limits()), Caller(stack, Limits())
    spender.accepted()

    assert other.usage()["month"]["images"] == 0
    assert requests.get(f"{stack.base}/v1/usage", timeout=10).status_code == 401


def test_usage_of_earlier_months_is_kept_for_a_year_and_a_month(stack: Stack) -> None:
    caller = Caller(stack, Limits())
    now = datetime.now(UTC)
    last = now.year * 12 + now.month - 2  # months since the year 0, from 0

    def name(months: int) -> str:
        return f"{months // 12:04}-{months % 12 + 1:02}"

    stack.redis.hset(f"darkroom:usage:{caller.key.id}:{name(last)}", "flux-pro:images", 7)
    usage = caller.usage(f"?month={name(last)}")
    oldest = caller.usage(f"?month={name(last - 12)}")

    assert usage["month"]["period"] == name(last)
    assert usage["month"]["images"] == 7
    assert usage["today"]["images"] == 0
    assert oldest["month"]["images"] == 0
    for month in (name(last - 13), name(last + 2), "2026-13", "x", "", "2026-11-25", "٢٠٢٦-11"):
        answer = stack.get(f"/v1/usage?month={month}", headers=caller.headers)
        assert answer.status_code == 400, month
        assert answer.json()["error"]["param"] == "month"


def test_usage_costs_one_round_trip(stack: Stack) -> None:
    caller = Caller(stack, Limits(requests_per_minute=5))
    caller.usage()
    before = stack.commands()["fcall"]

    caller.usage()

    assert stack.commands()["fcall"] - before == 1


def test_the_wait_that_is_told_is_long_enough(stack: Stack) -> None:
    caller = Caller(stack, Limits(requests_per_minute=6))
    for _ in range(6):
        caller.accepted()
    error = caller.refused(429, "rate_limit_exceeded")
    stack.redis.incrby(
        f"darkroom:requests:{caller.key.id}", -math.ceil(error["retry_after"]) * 1_000_000
    )

    caller.accepted()


def test_a_submit_that_is_repeated_by_name_is_limited_once(stack: Stack) -> None:
    caller = Caller(stack, Limits(requests_per_minute=1, tasks_in_flight=1, images_per_day=1))
    caller.headers["Idempotency-Key"] = "the only one"

    assert caller.accepted() == caller.accepted() == caller.accepted()
    assert caller.usage()["today"]["images"] == 1
