"""Down the routes of a model, with the sandbox's ledger as the judge of who was asked and paid."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests.processes import until
from tests.stack import Stack

ROUTES = ["replicate", "fal", "together", "huggingface"]  # of flux-schnell, in the catalog's order


@pytest.fixture(autouse=True)
def _no_faults(stack: Stack) -> Iterator[None]:
    yield
    stack.clear_faults()


def bought(stack: Stack, prompt: str) -> list[str]:
    return [entry["provider"] for entry in stack.purchases(prompt)]


@pytest.mark.parametrize("fault", ["no_credit", "bad_key", "rate_limited"])
def test_the_next_route_serves_what_the_first_does_not(stack: Stack, fault: str) -> None:
    prompt = f"passed on {fault}"
    stack.fault(fault=fault, provider="replicate", retry_after=60)

    task = stack.finished(stack.submit(prompt, "flux-schnell", n=2))

    assert task["status"] == "completed", task
    assert (task["provider"], len(task["data"])) == ("fal", 2)
    assert bought(stack, prompt) == ["fal"] * 2


def test_the_last_route_serves_when_all_others_do_not(stack: Stack) -> None:
    for provider in ROUTES[:-1]:
        stack.fault(fault="no_credit", provider=provider)

    task = stack.finished(stack.submit("the last one", "flux-schnell", n=3))

    assert task["status"] == "completed", task
    assert task["provider"] == "huggingface"
    assert bought(stack, "the last one") == ["huggingface"] * 3  # one picture a call


def test_without_any_route_the_task_fails_and_names_them_all(stack: Stack) -> None:
    for provider in ROUTES:
        stack.fault(fault="no_credit", provider=provider)

    task = stack.finished(stack.submit("nobody", "flux-schnell"))

    assert task["status"] == "failed"
    detail = task["error_detail"]
    assert (detail["code"], detail["billed"]) == ("all_channels_failed", "no")
    assert all(provider in task["error"] for provider in ROUTES)
    assert bought(stack, "nobody") == []


def test_an_account_without_credit_is_left_alone_by_the_whole_fleet(stack: Stack) -> None:
    """One refusal is enough: the tasks after it do not ask again, on whichever worker."""
    stack.start("worker.2")
    stack.fault(fault="no_credit", provider="replicate", times=1)
    stack.finished(stack.submit("found out", "flux-schnell"))

    tasks = [stack.submit(f"knows already {i}", "flux-schnell") for i in range(6)]
    ends = [stack.finished(task) for task in tasks]
    stack.kill("worker.2", 15)

    assert {end["provider"] for end in ends} == {"fal"}
    assert set(bought(stack, "knows already")) == {"fal"}


def test_a_model_that_cannot_be_paid_for_is_not_recommended(stack: Stack) -> None:
    def recommended() -> set[str]:
        answer = stack.get("/v1/models?recommended_for=image").json()
        return {model["id"] for model in answer["data"]}

    until(lambda: "flux-pro" in recommended(), "recommended")
    stack.fault(fault="no_credit", provider="bfl", times=1)
    assert stack.finished(stack.submit("too poor"))["status"] == "failed"

    until(lambda: "flux-pro" not in recommended(), "gone from the list")
    assert "flux-schnell" in recommended()


def test_a_refusal_is_not_asked_of_another(stack: Stack) -> None:
    task = stack.finished(stack.submit("not here sim:replicate.moderated", "flux-schnell"))

    assert task["error_detail"]["code"] == "content_policy_violation"
    assert bought(stack, "not here") == []


def test_what_may_have_been_bought_is_not_bought_elsewhere(stack: Stack) -> None:
    task = stack.finished(stack.submit("cut off sim:replicate.reset", "flux-schnell"))

    assert task["error_detail"]["code"] == "outcome_unknown"
    assert bought(stack, "cut off") == ["replicate"]


def test_a_route_that_fails_again_and_again_is_shut_and_opens_again(stack: Stack) -> None:
    """Five in a row open the breaker; after a while one task tries, and its success closes it."""
    stack.fault(fault="bad_gateway", provider="replicate")
    for number in range(5):
        stack.finished(stack.submit(f"broken {number}", "flux-schnell"))
    passed_by = stack.finished(stack.submit("passed by", "flux-schnell"))
    stack.clear_faults()
    name = "replicate/black-forest-labs/flux-schnell"
    stack.redis.hset("darkroom:routes", f"{name}:until", 1)  # its time is over
    tried = stack.finished(stack.submit("tried", "flux-schnell"))

    assert bought(stack, "broken") == ["replicate"] * 5
    assert passed_by["provider"] == "fal"
    assert tried["provider"] == "replicate"
    assert stack.redis.hgetall("darkroom:routes") == {}


def test_a_capped_route_gets_no_more_calls_at_a_time_than_that(stack: Stack) -> None:
    """All tasks are made; the sandbox never saw more than the cap at work."""
    cap = 10
    requests.post(
        f"{stack.sandbox_url}/_sandbox/faults",
        json={"delay": 0.5, "provider": "ideogram"},
        timeout=5,
    ).raise_for_status()
    most = 0

    def open_calls() -> int:
        calls = requests.get(f"{stack.sandbox_url}/_sandbox/calls", timeout=5).json()
        return int(calls.get("calls", calls)["ideogram"]["open"])

    tasks = [stack.submit(f"in line {i}", "ideogram-v3") for i in range(25)]
    while any(stack.poll(task)["status"] in ("pending", "processing") for task in tasks):
        most = max(most, open_calls())
    ends = [stack.finished(task) for task in tasks]

    assert {end["status"] for end in ends} == {"completed"}
    assert 1 < most <= cap
    assert len(bought(stack, "in line")) == 25
