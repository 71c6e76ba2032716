"""Stability AI's own ways (PROTOCOLS.md, section 5)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from common.catalog import Route
from common.errors import (
    BadAnswer,
    ContentRefused,
    JobFailed,
    NotAuthorised,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Refused,
)
from common.task import ImageRequest
from tests.contracts.cases import PNG
from tests.contracts.conftest import Connect, Sandbox
from tests.contracts.scripted import Reply, Scripted, Seen
from tests.contracts.test_documents import form_fields
from workers.providers.base import Pictures

Serve = Callable[..., Scripted]

MADE = {"image": base64.b64encode(PNG).decode(), "finish_reason": "SUCCESS", "seed": 343940597}


def submitted(connect: Connect, serve: Serve, request: ImageRequest, **more: Any) -> Seen:
    server = serve(Reply(MADE))
    connect("stability", server.url).submit(request=request, **more)
    (sent,) = server.seen
    return sent


def test_says_what_it_wants_in_a_form(connect: Connect, serve: Serve) -> None:
    request = ImageRequest(
        "stable-diffusion-3", "ein Füchslein 🦊\r\n--x", negative_prompt="blur", seed=40
    )

    sent = submitted(connect, serve, request, first=2)

    assert sent.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert sent.headers["accept"] == "application/json"
    assert "stability-client-user-id" not in sent.headers
    assert "ein Füchslein 🦊\r\n--x\r\n".encode() in sent.body
    fields = form_fields(sent)
    assert fields | {"prompt": ""} == {
        "model": "sd3.5-large",
        "prompt": "",
        "aspect_ratio": "1:1",
        "output_format": "png",
        "negative_prompt": "blur",
        "seed": 42,
    }


@pytest.mark.parametrize(
    ("size", "ratio"),
    [
        ("512x512", "1:1"),
        ("1536x1024", "3:2"),
        ("1024x1536", "2:3"),
        ("1792x1024", "16:9"),
        ("1024x1792", "9:16"),
        ("1280x1024", "5:4"),
        ("2048x512", "21:9"),
        ("512x2048", "9:21"),
    ],
)
def test_asks_for_the_nearest_shape(connect: Connect, serve: Serve, size: str, ratio: str) -> None:
    sent = submitted(connect, serve, ImageRequest("x", "x", size=size))

    assert form_fields(sent)["aspect_ratio"] == ratio


@pytest.mark.parametrize(
    ("seed", "first", "sent_as"),
    [(0, 0, 4294967294), (0, 1, 1), (4294967294, 0, 4294967294), (4294967295, 1, 1)],
)
def test_never_asks_for_a_random_seed_by_accident(
    connect: Connect, serve: Serve, seed: int, first: int, sent_as: int
) -> None:
    sent = submitted(connect, serve, ImageRequest("x", "x", seed=seed), first=first)

    assert form_fields(sent)["seed"] == sent_as


def test_one_user_is_always_the_same_nobody(connect: Connect, serve: Serve) -> None:
    ada, again, bob = (
        submitted(connect, serve, ImageRequest("x", "x", user=user)).headers
        for user in ("somebody@example.org", "somebody@example.org", "bob@example.org")
    )

    assert ada["stability-client-user-id"] == again["stability-client-user-id"]
    assert ada["stability-client-user-id"] != bob["stability-client-user-id"]
    assert "somebody" not in str(ada) and len(ada["stability-client-user-id"]) <= 256


@pytest.mark.parametrize(
    "answer",
    [
        Reply(MADE, headers={"Content-Type": "application/json; type=image/png"}),
        Reply(MADE | {"seed": "343940597"}),
        Reply(PNG, headers={"Content-Type": "image/png", "Seed": "343940597"}),
        Reply(
            PNG,
            headers={
                "Content-Type": "image/png",
                "Finish-Reason": "SUCCESS",
                "Seed": "343940597",
            },
        ),
    ],
)
def test_takes_the_picture_in_json_and_as_it_is(
    connect: Connect, serve: Serve, answer: Reply
) -> None:
    outcome = connect("stability", serve(answer).url).submit()

    assert isinstance(outcome, Pictures)
    assert [(picture.data, picture.seed) for picture in outcome.pictures] == [(PNG, 343940597)]


@pytest.mark.parametrize("seed", [None, "", "x", -1, [], "9" * 5000])
def test_a_seed_without_sense_does_no_harm(connect: Connect, serve: Serve, seed: Any) -> None:
    outcome = connect("stability", serve(Reply(MADE | {"seed": seed})).url).submit()

    assert isinstance(outcome, Pictures)
    assert outcome.pictures[0].seed is None


@pytest.mark.parametrize(
    "answer",
    [
        Reply(MADE | {"finish_reason": "CONTENT_FILTERED"}),
        Reply(PNG, headers={"Content-Type": "image/png", "Finish-Reason": "CONTENT_FILTERED"}),
        Reply({"image": "", "finish_reason": "CONTENT_FILTERED"}),
    ],
)
def test_a_blurred_picture_is_a_refusal(connect: Connect, serve: Serve, answer: Reply) -> None:
    named = replace(answer, headers=answer.headers | {"x-request-id": "r1"})

    with pytest.raises(ContentRefused, match="CONTENT_FILTERED") as caught:
        connect("stability", serve(named).url).submit()

    assert caught.value.request_id == "r1"


@pytest.mark.parametrize(
    ("status", "name", "expected", "billed"),
    [
        (403, "content_moderation", ContentRefused, "no"),
        (403, "forbidden", NotAuthorised, "no"),
        (422, "public_figure", ContentRefused, "no"),
        (422, "invalid_language", Refused, "no"),
        (422, ["odd"], Refused, "no"),
        (429, "rate_limit_exceeded", RateLimited, "no"),
        (500, "internal_error", JobFailed, "no"),
        (500, "something_else", OutcomeUnknown, "unknown"),
        (502, "internal_error", OutcomeUnknown, "unknown"),
    ],
)
def test_reads_the_name_of_an_error(
    connect: Connect, serve: Serve, status: int, name: Any, expected: type, billed: str
) -> None:
    server = serve(Reply({"id": "a1", "name": name, "errors": ["no", "never"]}, status))

    with pytest.raises(ProviderError) as caught:
        connect("stability", server.url).submit()

    assert (type(caught.value), caught.value.billed) == (expected, billed)
    assert caught.value.message == f"stability answered {status}: no; never"


def test_an_empty_picture_is_a_bad_answer(connect: Connect, serve: Serve) -> None:
    with pytest.raises(BadAnswer):
        connect("stability", serve(Reply(b"", headers={"Content-Type": "image/png"})).url).submit()


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("sd3.5-large", 0.065),
        ("sd3.5-medium", 0.035),
        ("sd3.5-flash", 0.025),
        ("sd3-large-turbo", 0.04),
        ("sd3.9", None),
    ],
)
def test_prices_the_models_it_knows(
    connect: Connect, serve: Serve, model: str, cost: float | None
) -> None:
    server = serve(Reply(MADE, headers={"x-request-id": "r1"}))

    outcome = connect("stability", server.url).submit(route=Route("stability", model))

    assert isinstance(outcome, Pictures)
    expected = {} if cost is None else {"cost_usd": cost, "cost_estimated": True}
    assert outcome.usage == {"request_id": "r1"} | expected


def test_waits_as_long_as_everything_is_turned_away(
    connect: Connect, sandbox: Sandbox, prompt: str
) -> None:
    buyer = connect("stability", f"{sandbox.url}/stability")

    with pytest.raises(RateLimited) as caught:
        buyer.submit(f"{prompt} sim:rate_limited")

    assert caught.value.retry_after == 60
    assert sandbox.purchases(f"{prompt} sim:rate_limited") == 0
