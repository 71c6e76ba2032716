"""Together AI's own ways (PROTOCOLS.md, section 9)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from common.catalog import Route
from common.errors import (
    BadAnswer,
    ContentRefused,
    JobLost,
    OutOfCredit,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
)
from common.task import ImageRequest
from tests.contracts.cases import PNG
from tests.contracts.conftest import Connect, Sandbox
from tests.contracts.scripted import Reply, Scripted
from workers.providers.base import Job, Pictures

Serve = Callable[..., Scripted]

ITEM = {"index": 0, "b64_json": base64.b64encode(PNG).decode(), "type": "b64_json"}


def test_says_what_it_wants_in_the_words_of_the_provider(connect: Connect, serve: Serve) -> None:
    server = serve(Reply({"id": "o1", "data": [ITEM]}))
    request = ImageRequest("flux-schnell", "a red fox", size="1344x768", seed=40)

    outcome = connect("together", server.url).submit(request=request, count=4)

    assert server.seen[0].json() == {
        "model": "black-forest-labs/FLUX.1-schnell",
        "prompt": "a red fox",
        "n": 4,
        "width": 1344,
        "height": 768,
        "steps": 4,
        "seed": 40,
        "response_format": "base64",
        "output_format": "png",
    }
    assert isinstance(outcome, Pictures)
    # One picture of 1344 x 768, at 0.3 cents a megapixel.
    assert outcome.usage == {"request_id": "o1", "cost_usd": 0.003097, "cost_estimated": True}


@pytest.mark.parametrize(("asked", "sent"), [(None, "png"), ("jpeg", "jpeg"), ("webp", "png")])
def test_asks_for_a_format_the_provider_has(
    connect: Connect, serve: Serve, asked: str | None, sent: str
) -> None:
    server = serve(Reply({"data": [ITEM]}))

    connect("together", server.url).submit(request=ImageRequest("x", "x", output_format=asked))

    assert server.seen[0].json()["output_format"] == sent


def test_leaves_the_steps_of_other_models_to_the_provider(connect: Connect, serve: Serve) -> None:
    server = serve(Reply({"data": [ITEM]}))

    route = Route("together", "black-forest-labs/FLUX.1.1-pro")
    outcome = connect("together", server.url).submit(route=route)

    assert "steps" not in server.seen[0].json()
    assert outcome.usage == {}  # and so does the price


def test_every_picture_has_its_price(connect: Connect, sandbox: Sandbox, prompt: str) -> None:
    buyer = connect("together", f"{sandbox.url}/together/v1")

    outcome = buyer.submit(prompt, count=4)

    assert outcome.usage["cost_usd"] == pytest.approx(4 * 0.003 * 1.048576, abs=1e-6)


def test_takes_the_pictures_that_came_when_they_are_fewer(
    connect: Connect, sandbox: Sandbox
) -> None:
    buyer = connect("together", f"{sandbox.url}/together/v1")

    outcome = buyer.submit("sim:fewer_images", count=3)

    assert isinstance(outcome, Pictures)
    assert len(outcome.pictures) == 2


def test_fetches_what_comes_as_an_address(connect: Connect, serve: Serve) -> None:
    server = serve()
    item = {"index": 0, "url": f"{server.url}/imgproxy/x", "type": "url"}
    server.replies = [Reply({"id": "o1", "data": [item]}), Reply(status=503), Reply(PNG)]
    buyer = connect("together", server.url)

    job = buyer.submit()
    assert isinstance(job, Job)
    with pytest.raises(Unavailable):  # a download that fails is repeated, not the purchase
        buyer.provider.poll(job, timeout=5)
    result = buyer.finish(Job(**json.loads(json.dumps(asdict(job)))))

    assert [picture.data for picture in result.pictures] == [PNG]
    assert [seen.method for seen in server.seen] == ["POST", "GET", "GET"]
    assert "authorization" not in server.seen[1].headers


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("https://api.together.ai.evil.example/x", BadAnswer),
        ("http://169.254.169.254/x", BadAnswer),
        ("{base}/gone", JobLost),
    ],
)
def test_does_not_follow_an_address_to_anywhere(
    connect: Connect, serve: Serve, url: str, error: type[ProviderError]
) -> None:
    server = serve()
    item = {"index": 0, "url": url.format(base=server.url), "type": "url"}
    server.replies = [Reply({"id": "o1", "data": [item]}), Reply(status=404)]
    buyer = connect("together", server.url)

    with pytest.raises(ProviderError) as caught:
        buyer.finish(buyer.submit())

    assert (type(caught.value), caught.value.billed) == (error, "yes")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (422, {"error": {"message": "May contain NSFW content", "type": "x"}}, ContentRefused),
        (400, {"error": {"message": "nsfw", "type": "x"}}, ContentRefused),
        (422, {"error": {"message": "n: too many", "type": "x"}}, Refused),
        (422, {"error": "NSFW?"}, ContentRefused),
        (422, [], Refused),
        (402, "", OutOfCredit),
        (429, {"error": {"message": "NSFW"}}, RateLimited),
    ],
)
def test_reads_errors_of_any_form(
    connect: Connect, serve: Serve, status: int, body: Any, expected: type
) -> None:
    server = serve(Reply(body, status))

    with pytest.raises(ProviderError) as caught:
        connect("together", server.url).submit()

    assert type(caught.value) is expected
    assert expected is not ContentRefused or "nsfw" in caught.value.message.lower()
