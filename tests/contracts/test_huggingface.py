"""Hugging Face's own ways (PROTOCOLS.md, section 10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from common.catalog import Route
from common.errors import BadAnswer, OutcomeUnknown, ProviderError, Unavailable
from common.task import ImageRequest
from tests.contracts.cases import PNG
from tests.contracts.conftest import Connect, Sandbox
from tests.contracts.scripted import Reply, Scripted
from workers.providers.base import Pictures

Serve = Callable[..., Scripted]


def test_says_what_it_wants_in_the_words_of_the_provider(connect: Connect, serve: Serve) -> None:
    server = serve(Reply(PNG, headers={"Content-Type": "image/png", "x-request-id": "r1"}))
    request = ImageRequest("flux-schnell", "a red fox", size="1344x768", seed=40)

    outcome = connect("huggingface", server.url).submit(request=request, first=2)

    (sent,) = server.seen
    assert sent.path == "/models/black-forest-labs/FLUX.1-schnell"
    assert sent.headers["accept"] == "image/png"
    assert sent.json() == {
        "inputs": "a red fox",
        "parameters": {"width": 1344, "height": 768, "num_inference_steps": 4, "seed": 42},
    }
    assert isinstance(outcome, Pictures)
    assert [picture.data for picture in outcome.pictures] == [PNG]
    assert outcome.usage == {"request_id": "r1"}


def test_hints_at_the_format(connect: Connect, serve: Serve) -> None:
    server = serve(Reply(PNG))

    connect("huggingface", server.url).submit(request=ImageRequest("x", "x", output_format="jpeg"))

    assert server.seen[0].headers["accept"] == "image/jpeg"


def test_leaves_the_steps_of_other_models_to_the_provider(connect: Connect, serve: Serve) -> None:
    server = serve(Reply(PNG))

    connect("huggingface", server.url).submit(route=Route("huggingface", "ada/own model"))

    assert server.seen[0].path == "/models/ada/own%20model"
    assert "num_inference_steps" not in server.seen[0].json()["parameters"]


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG; q=1", "application/octet-stream", ""])
def test_takes_bytes_for_a_picture(connect: Connect, serve: Serve, kind: str) -> None:
    outcome = connect("huggingface", serve(Reply(PNG, headers={"Content-Type": kind})).url).submit()

    assert isinstance(outcome, Pictures)


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ({"error": "No pictures today"}, "application/json", "No pictures today"),
        ({"error": ["one", "two"]}, "application/json; charset=utf-8", "one; two"),
        ({"error": "No pictures today"}, "image/png", "No pictures today"),
        (b"<html>", "text/html", "200"),
        (b"", "image/png", "200"),
    ],
)
def test_takes_no_error_for_a_picture(
    connect: Connect, serve: Serve, body: Any, kind: str, said: str
) -> None:
    server = serve(Reply(body, headers={"Content-Type": kind}))

    with pytest.raises(BadAnswer, match=said) as caught:
        connect("huggingface", server.url).submit()

    assert caught.value.billed == "unknown"


@pytest.mark.parametrize(
    ("status", "body", "error", "wait"),
    [
        (503, {"error": "loading", "estimated_time": 20.0}, Unavailable, 20),
        (503, {"error": "loading", "estimated_time": 0}, Unavailable, 0),
        (503, {"error": "loading", "estimated_time": -1}, OutcomeUnknown, None),
        (503, {"error": "loading", "estimated_time": 1e9}, OutcomeUnknown, None),
        (503, {"error": "loading", "estimated_time": "soon"}, OutcomeUnknown, None),
        (503, {"error": "overloaded"}, OutcomeUnknown, None),
        (500, {"error": "broken", "estimated_time": 20.0}, OutcomeUnknown, None),
        (504, {"error": "slow", "estimated_time": 20.0}, OutcomeUnknown, None),
    ],
)
def test_waits_only_for_a_model_that_is_being_loaded(
    connect: Connect,
    serve: Serve,
    status: int,
    body: dict[str, Any],
    error: type,
    wait: float | None,
) -> None:
    server = serve(Reply(body, status))

    with pytest.raises(ProviderError) as caught:
        connect("huggingface", server.url).submit()

    assert type(caught.value) is error
    assert caught.value.retry_after == wait


def test_a_model_that_is_being_loaded_has_sold_nothing(
    connect: Connect, sandbox: Sandbox, prompt: str
) -> None:
    prompt += " sim:overloaded:7"

    with pytest.raises(Unavailable) as caught:
        connect("huggingface", f"{sandbox.url}/huggingface").submit(prompt)

    assert (caught.value.retry_after, caught.value.billed) == (7, "no")
    assert sandbox.purchases(prompt) == 0
