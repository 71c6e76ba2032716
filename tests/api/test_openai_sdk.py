"""OpenAI's own client, unmodified, and what published client code does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import openai
import pytest
import requests

from common.task import Failure
from tests.api.conftest import Stack, in_background


@pytest.fixture(autouse=True)
def no_certificates_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK loads the files that these name, and fails without them, for plain HTTP as well."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=stack.key, base_url=f"{stack.base}/v1", max_retries=0) as client:
        yield client


def finish(stack: Stack, failure: Failure | None = None) -> threading.Thread:
    """End the next task that is submitted, like a worker."""
    if failure is None:
        return in_background(stack.complete, stack)
    return in_background(lambda task_id: stack.fail(task_id, failure), stack)


def test_a_pending_answer_is_understood(client: openai.OpenAI) -> None:
    """S28-S40 as the SDK sees them."""
    answer = client.images.generate(
        model="flux-pro", prompt="a red apple", size="1024x1024", quality="standard", n=1
    )

    assert answer.data is not None and answer.data[0].url == ""
    assert answer.status == "pending"  # type: ignore[attr-defined]
    assert answer.poll_url.startswith("/v1/")  # type: ignore[attr-defined]
    assert answer.created


def test_with_prefer_it_gets_images(stack: Stack) -> None:
    """S22-S27"""
    headers = {"Prefer": "wait=60"}
    base = f"{stack.base}/v1"
    worker = finish(stack)
    with openai.OpenAI(api_key=stack.key, base_url=base, default_headers=headers) as client:
        answer = client.images.generate(model="flux-pro", prompt="a red apple")
    worker.join()

    assert answer.data is not None and answer.data[0].url is not None
    assert answer.data[0].revised_prompt == "a red apple"
    assert requests.get(answer.data[0].url, timeout=10).ok
    assert not hasattr(answer, "status")


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}

    assert len(models) >= 7
    assert client.models.retrieve("flux-pro").owned_by == models["flux-pro"].owned_by


def test_errors_become_the_right_exceptions(stack: Stack, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(model="flux-pro", prompt="x", n=9)
    with pytest.raises(openai.BadRequestError) as unknown:
        client.images.generate(model="nothing", prompt="x")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")
    with pytest.raises(openai.InternalServerError) as unavailable:
        client.images.generate(model="midjourney", prompt="x")
    with (
        openai.OpenAI(api_key="sk-wrong", base_url=f"{stack.base}/v1") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.images.generate(model="flux-pro", prompt="x")

    assert (bad.value.code, bad.value.param) == ("invalid_value", "n")
    assert bad.value.type == "invalid_request_error"
    assert unknown.value.code == "model_not_found"
    assert unavailable.value.status_code == 503


def test_a_failure_that_may_have_cost_money_is_not_repeated(stack: Stack) -> None:
    """The SDK repeats 5xx twice by itself."""
    before = stack.redis.zcard("darkroom:due")
    worker = finish(stack, Failure("outcome_unknown", "Who knows.", False, "unknown"))
    with (
        openai.OpenAI(
            api_key=stack.key, base_url=f"{stack.base}/v1", default_headers={"Prefer": "wait=60"}
        ) as client,
        pytest.raises(openai.InternalServerError),
    ):
        client.images.generate(model="flux-pro", prompt="x")
    worker.join()

    assert stack.redis.zcard("darkroom:due") == before  # the one task that there was is over


@pytest.mark.parametrize("address", ["poll_url", "generations", "tasks"])
def test_published_client_code_keeps_working(stack: Stack, address: str) -> None:
    """S30-S32, S36-S38, S41: requests, without a look at the HTTP status."""
    headers = {"Authorization": f"Bearer {stack.key}"}
    with requests.Session() as session:
        session.headers.update(headers)
        worker = finish(stack)
        data = session.post(
            f"{stack.base}/v1/images/generations",
            json={"model": "flux-pro", "prompt": "a red apple"},
            timeout=10,
        ).json()
        assert data["status"] == "pending"
        poll = {
            "poll_url": data["poll_url"],
            "generations": f"/v1/images/generations/{data['task_id']}",
            "tasks": f"/v1/tasks/{data['task_id']}",
        }[address]
        while True:
            result = session.get(stack.base + poll, timeout=10).json()
            if result["status"] in ("completed", "failed"):
                break
            time.sleep(0.05)
    worker.join()

    assert result["status"] == "completed"
    assert requests.get(result["data"][0]["url"], timeout=10).ok
