"""Ideogram's own ways (PROTOCOLS.md, section 6)."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from PIL import Image

from common.catalog import Route
from common.errors import BadAnswer, ContentRefused, JobLost, Refused, Unavailable
from common.task import ImageRequest
from tests.contracts.cases import PNG
from tests.contracts.conftest import Connect, Sandbox, read_document
from tests.contracts.scripted import Reply, Scripted
from workers.providers.base import Job, Picture

Serve = Callable[..., Scripted]

ROUTE = Route("ideogram", "ideogram-v3")


def item(url: str | None, **fields: Any) -> dict[str, Any]:
    about = {"prompt": "a fox", "resolution": "1024x1024", "is_image_safe": True, "seed": 7}
    return about | {"url": url} | fields


def answer(*items: dict[str, Any]) -> Reply:
    return Reply({"created": "2026-11-22T12:00:00+00:00", "data": list(items)})


def sent_for(connect: Connect, serve: Serve, size: str, **fields: Any) -> dict[str, Any]:
    server = serve(answer(item("/a.png")))
    request = ImageRequest("ideogram-v3", "a fox", size=size, **fields)
    connect("ideogram", server.url).submit(request=request, route=ROUTE)
    return dict(server.seen[0].json())


def test_every_resolution_is_asked_for_as_it_is(connect: Connect, serve: Serve) -> None:
    document = read_document("openapi/ideogram.json")
    resolutions = document["components"]["schemas"]["ResolutionV3"]["enum"]
    server = serve(answer(item("/a.png")))
    buyer = connect("ideogram", server.url)

    for size in resolutions:
        buyer.submit(request=ImageRequest("ideogram-v3", "x", size=size), route=ROUTE)

    assert [seen.json()["resolution"] for seen in server.seen] == resolutions
    assert not any("aspect_ratio" in seen.json() for seen in server.seen)


@pytest.mark.parametrize(
    ("size", "resolution"),
    [
        ("512x512", "1024x1024"),
        ("256x256", "1024x1024"),
        ("1536x1024", "1248x832"),
        ("1024x1536", "832x1248"),
        ("1792x1024", "1344x768"),
        ("1024x1792", "768x1344"),
    ],
)
def test_other_sizes_get_the_resolution_most_like_them(
    connect: Connect, serve: Serve, size: str, resolution: str
) -> None:
    assert sent_for(connect, serve, size)["resolution"] == resolution


def test_a_seed_is_kept_within_what_is_taken(connect: Connect, serve: Serve) -> None:
    assert sent_for(connect, serve, "1024x1024", seed=2**32 - 1)["seed"] == 2**31 - 1
    assert sent_for(connect, serve, "1024x1024", seed=0)["seed"] == 0


@pytest.mark.parametrize("url", [None, "", "https://ideogram.ai/blurred.png"])
def test_what_was_kept_back_is_remembered_and_the_rest_is_delivered(
    connect: Connect, serve: Serve, url: str | None
) -> None:
    unsafe = item(url, is_image_safe=False)
    server = serve(answer(item("/a.png"), unsafe, item("/b.png", seed=9)), Reply(PNG))
    job = connect("ideogram", server.url).submit(count=3)
    assert isinstance(job, Job)

    heir = connect("ideogram", server.url)
    result = heir.finish(Job(**json.loads(json.dumps(asdict(job)))))

    first, withheld, last = result.pictures
    assert (first, last) == (Picture(PNG, "a fox", 7), Picture(PNG, "a fox", 9))
    assert isinstance(withheld, ContentRefused)
    assert "is_image_safe is false" in withheld.message
    assert result.usage == {"cost_usd": 0.18, "cost_estimated": True}
    assert len(server.seen) == 3


@pytest.mark.parametrize("url", [None, "", "https://ideogram.ai/blurred.png"])
def test_a_task_of_unsafe_pictures_is_refused(
    connect: Connect, serve: Serve, url: str | None
) -> None:
    server = serve(answer(item(url, is_image_safe=False)))

    with pytest.raises(ContentRefused) as caught:
        connect("ideogram", server.url).submit()

    assert caught.value.billed == "unknown"
    assert len(server.seen) == 1


def test_a_safe_picture_without_an_address_is_a_bad_answer(connect: Connect, serve: Serve) -> None:
    server = serve(answer(item(None)))

    with pytest.raises(BadAnswer) as caught:
        connect("ideogram", server.url).submit()

    assert caught.value.billed == "yes"


def test_a_download_that_fails_is_repeated_and_the_purchase_is_not(
    connect: Connect, serve: Serve
) -> None:
    server = serve(answer(item("/a.png?exp=1&sig=2")), Reply(status=503), Reply(PNG))
    buyer = connect("ideogram", server.url)
    job = buyer.submit()
    assert isinstance(job, Job)

    with pytest.raises(Unavailable):
        buyer.provider.poll(job, timeout=5)
    result = buyer.finish(Job(**json.loads(json.dumps(asdict(job)))))

    assert [picture.data for picture in result.pictures] == [PNG]
    assert [seen.method for seen in server.seen] == ["POST", "GET", "GET"]
    assert server.seen[1].path == "/a.png?exp=1&sig=2"
    assert "api-key" not in server.seen[1].headers


@pytest.mark.parametrize("host", ["pictures.example", "ideogram.ai.example", "notideogram.ai"])
def test_a_picture_on_a_foreign_host_is_not_fetched(
    connect: Connect, serve: Serve, host: str
) -> None:
    server = serve(answer(item(f"https://{host}/a.png")))
    buyer = connect("ideogram", server.url)

    with pytest.raises(BadAnswer, match="host is not known") as caught:
        buyer.finish(buyer.submit())

    assert caught.value.billed == "yes"


def test_an_address_that_has_expired_is_lost(connect: Connect, serve: Serve) -> None:
    server = serve(answer(item("/a.png")), Reply(status=403))
    buyer = connect("ideogram", server.url)

    with pytest.raises(JobLost) as caught:
        buyer.finish(buyer.submit())

    assert caught.value.billed == "yes"


def test_only_a_safety_check_makes_a_422_a_refusal_of_content(
    connect: Connect, serve: Serve
) -> None:
    server = serve(Reply({"error": "Prompt provided failed safety check."}, 422))
    with pytest.raises(ContentRefused, match="safety check"):
        connect("ideogram", server.url).submit()

    server = serve(Reply({"error": "num_images is too large"}, 422))
    with pytest.raises(Refused, match="num_images"):
        connect("ideogram", server.url).submit()


@pytest.mark.parametrize(("quality", "cost"), [("low", 0.03), (None, 0.06), ("hd", 0.09)])
def test_the_speed_is_the_routes_and_has_its_price(
    connect: Connect, sandbox: Sandbox, prompt: str, quality: str | None, cost: float
) -> None:
    route = Route("ideogram", "ideogram-v3", quality={"low": "TURBO", "hd": "QUALITY"})
    request = ImageRequest("ideogram-v3", "x", quality=quality)
    buyer = connect("ideogram", f"{sandbox.url}/ideogram")

    result = buyer.finish(buyer.submit(prompt, request=request, route=route))

    assert result.usage == {"cost_usd": cost, "cost_estimated": True}
    assert result.pictures[0].revised_prompt != prompt


def test_small_pictures_come_larger_in_the_same_shape(
    connect: Connect, sandbox: Sandbox, prompt: str
) -> None:
    buyer = connect("ideogram", f"{sandbox.url}/ideogram")
    request = ImageRequest("ideogram-v3", "x", size="512x512")

    result = buyer.finish(buyer.submit(prompt, request=request))

    with Image.open(io.BytesIO(result.pictures[0].data)) as image:
        assert image.size == (1024, 1024)
