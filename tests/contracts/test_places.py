"""One picture of a call that cannot be had: its place says why, and the others are kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from common.errors import BadAnswer, ContentRefused, JobLost, ProviderError, Unavailable
from tests.contracts.cases import CASES, PNG
from tests.contracts.conftest import Buyer, Connect, Sandbox, places
from tests.contracts.scripted import Reply, Scripted
from workers.providers.base import Job, Pictures

Serve = Callable[..., Scripted]

PICTURE = Reply(PNG)
GONE = Reply(status=404)
BASE64 = base64.b64encode(PNG).decode()

# The answers of a call, up to the one that names what is in its places.
ANSWERS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "openai": lambda urls: [{"data": [{"url": url} for url in urls]}],
    "together": lambda urls: [{"id": "o1", "data": [{"url": url} for url in urls]}],
    "ideogram": lambda urls: [{"data": [{"url": url, "is_image_safe": True} for url in urls]}],
    "replicate": lambda urls: [
        {"id": "job-1", "status": "starting"},
        {"id": "job-1", "status": "succeeded", "output": urls},
    ],
    "fal": lambda urls: [
        {"request_id": "job-1", "status": "IN_QUEUE"},
        {"status": "COMPLETED"},
        {"images": [{"url": url} for url in urls]},
    ],
    "midjourney": lambda urls: [
        {"code": 1, "result": "17"},
        {"id": "17", "status": "SUCCESS", "imageUrls": [{"url": url} for url in urls]},
    ],
}


class Seller:
    """A server that sells three pictures in one call, and a buyer of them."""

    def __init__(self, server: Scripted, buyer: Buyer, addresses: list[Any]) -> None:
        urls = [url.format(base=server.url) if url else url for url in addresses]
        self._server = server
        self._buyer = buyer
        self._submit, *self._polls = (Reply(body) for body in ANSWERS[buyer.name](urls))

    def sells(self) -> Job:
        """The job of the call, as another process takes it up."""
        self._server.replies = [self._submit]
        job = self._buyer.submit(count=3)
        assert isinstance(job, Job)
        return Job(**json.loads(json.dumps(asdict(job))))

    def delivers(self, job: Job, *downloads: Reply) -> list[bytes | type[ProviderError]]:
        """What one poll brings, of pictures that are downloaded like this."""
        self._server.reset(*self._polls, *downloads)
        result = self._buyer.provider.poll(job, timeout=5)
        assert isinstance(result, Pictures)
        assert {seen.method for seen in self._server.seen} == {"GET"}
        return places(result)


@pytest.fixture(params=sorted(ANSWERS))
def name(request: pytest.FixtureRequest) -> str:
    """Each provider that names addresses of several pictures."""
    return str(request.param)


@pytest.fixture
def sold(connect: Connect, serve: Serve, name: str) -> Callable[..., Seller]:
    """A seller who names these addresses."""

    def make(*addresses: Any) -> Seller:
        server = serve()
        return Seller(server, connect(name, server.url), list(addresses))

    return make


def test_an_address_that_is_dead_costs_one_picture(sold: Callable[..., Seller]) -> None:
    seller = sold("{base}/0", "{base}/1", "{base}/2")

    assert seller.delivers(seller.sells(), PICTURE, GONE, PICTURE) == [PNG, JobLost, PNG]


def test_an_address_that_must_not_be_visited_costs_one_picture(
    sold: Callable[..., Seller],
) -> None:
    seller = sold("http://169.254.169.254/0", "{base}/1", "{base}/2")

    assert seller.delivers(seller.sells(), PICTURE) == [BadAnswer, PNG, PNG]


def test_dead_addresses_alone_end_the_call(sold: Callable[..., Seller]) -> None:
    seller = sold("{base}/0", "{base}/1", "{base}/2")

    with pytest.raises(JobLost) as caught:
        seller.delivers(seller.sells(), GONE)

    assert caught.value.billed == "yes"


def test_trouble_with_one_picture_is_cured_by_the_next_poll(sold: Callable[..., Seller]) -> None:
    seller = sold("{base}/0", "{base}/1", "{base}/2")
    job = seller.sells()

    with pytest.raises(Unavailable):
        seller.delivers(job, PICTURE, Reply(status=503))

    assert seller.delivers(job, PICTURE) == [PNG] * 3


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - {"midjourney"}))
@pytest.mark.parametrize("nothing", [None, ""])
def test_a_place_without_an_address_costs_one_picture(
    sold: Callable[..., Seller], nothing: Any
) -> None:
    seller = sold("{base}/0", nothing, "{base}/2")

    assert seller.delivers(seller.sells(), PICTURE) == [PNG, BadAnswer, PNG]


@pytest.mark.parametrize(
    "nothing", [None, 5, {}, {"b64_json": "not base64"}, {"b64_json": None}, {"b64_json": ""}]
)
@pytest.mark.parametrize("name", ["openai", "together"])
def test_what_cannot_be_read_costs_one_picture(
    connect: Connect, serve: Serve, name: str, nothing: Any
) -> None:
    server = serve(Reply({"id": "o1", "data": [nothing, {"b64_json": BASE64}, nothing]}))
    buyer = connect(name, server.url)

    result = buyer.finish(buyer.submit(count=3))

    assert places(result) == [BadAnswer, PNG, BadAnswer]
    reasons = [place for place in result.pictures if isinstance(place, ProviderError)]
    assert [reason.billed for reason in reasons] == ["yes", "yes"]


@pytest.mark.parametrize(("name", "withheld"), [("fal", 0), ("ideogram", 2)])
def test_a_picture_that_is_withheld_has_its_place(
    connect: Connect, sandbox: Sandbox, prompt: str, name: str, withheld: int
) -> None:
    prompt += " sim:fewer_images"
    url = sandbox.url + CASES[name].sandbox_path
    job = connect(name, url).submit(prompt, count=3)
    assert isinstance(job, Job)

    heir = connect(name, url)
    result = heir.finish(Job(**json.loads(json.dumps(asdict(job)))))

    reason = result.pictures[withheld]
    assert isinstance(reason, ContentRefused)
    assert (reason.code, reason.billed) == ("content_policy_violation", "unknown")
    assert ContentRefused not in places(result)[:withheld] + places(result)[withheld + 1 :]
    assert sandbox.purchases(prompt) == 3
