"""What is particular to Replicate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from common.errors import ContentRefused, JobFailed, OutcomeUnknown, ProviderError, RateLimited
from common.task import ImageRequest
from tests.contracts.cases import CASES, PNG
from tests.contracts.conftest import Buyer, Connect, Sandbox, read_document
from tests.contracts.scripted import Reply, Scripted
from workers.providers.base import Job, Pictures

Serve = Callable[..., Scripted]

ACCEPTED = {"id": "job-1", "status": "starting"}


@pytest.fixture
def buyer(connect: Connect, sandbox: Sandbox) -> Buyer:
    return connect("replicate", sandbox.url + CASES["replicate"].sandbox_path, sandbox=True)


def sent(connect: Connect, serve: Serve, request: ImageRequest, **options: Any) -> Any:
    server = serve(Reply(ACCEPTED, 201))
    connect("replicate", server.url).submit(request=request, **options)
    return server.seen[0].json()["input"]


@pytest.mark.parametrize(
    ("size", "ratio", "megapixels"),
    [
        ("256x256", "1:1", "0.25"),
        ("512x512", "1:1", "0.25"),
        ("1024x1024", "1:1", "1"),
        ("1344x768", "16:9", "1"),
        ("768x1344", "9:16", "1"),
        ("1792x1024", "16:9", "1"),
        ("1536x1024", "3:2", "1"),
        ("1024x1536", "2:3", "1"),
    ],
)
def test_a_size_becomes_the_nearest_shape(
    connect: Connect, serve: Serve, size: str, ratio: str, megapixels: str
) -> None:
    told = sent(connect, serve, ImageRequest("flux-schnell", "x", size=size))

    assert (told["aspect_ratio"], told["megapixels"]) == (ratio, megapixels)


@pytest.mark.parametrize(
    "request_",
    [
        ImageRequest("flux-schnell", "x"),
        ImageRequest("flux-schnell", "x", seed=2**32, output_format="jpeg", size="512x512"),
        ImageRequest("flux-schnell", "x", aspect_ratio="21:9", output_format="webp"),
        ImageRequest("flux-schnell", "x", aspect_ratio="7:5"),
    ],
)
def test_the_input_is_what_the_model_takes(
    connect: Connect, serve: Serve, request_: ImageRequest
) -> None:
    document = read_document("openapi/replicate.json")
    schema = document["components"]["schemas"]["flux_schnell_input"]

    told = sent(connect, serve, request_, count=4)

    jsonschema.Draft202012Validator(schema).validate(told)
    assert told["num_outputs"] == 4


def test_a_seed_gives_up_the_quick_way_which_cannot_repeat_itself(
    connect: Connect, serve: Serve
) -> None:
    told = sent(connect, serve, ImageRequest("flux-schnell", "x", seed=40), first=2)

    assert (told["seed"], told["go_fast"]) == (42, False)
    assert "go_fast" not in sent(connect, serve, ImageRequest("flux-schnell", "x"))


@pytest.mark.parametrize(("timeout", "told"), [(0.8, "5s"), (89.2, "90s"), (300, "300s")])
def test_lost_work_is_ended_by_the_provider(
    connect: Connect, serve: Serve, timeout: float, told: str
) -> None:
    server = serve(Reply(ACCEPTED, 201))

    connect("replicate", server.url).submit(timeout=timeout)

    assert server.seen[0].headers["cancel-after"] == told


@pytest.mark.parametrize(
    ("ending", "error", "billed"),
    [
        ({"status": "failed", "error": "NSFW content detected."}, ContentRefused, "unknown"),
        ({"status": "failed", "error": "It was flagged as sensitive."}, ContentRefused, "unknown"),
        ({"status": "failed", "error": "Sorry (E005)"}, ContentRefused, "unknown"),
        ({"status": "failed", "error": f"{'Oh. ' * 99}(E005)"}, ContentRefused, "unknown"),
        ({"status": "failed", "error": "CUDA out of memory"}, JobFailed, "unknown"),
        ({"status": "failed", "error": None}, JobFailed, "unknown"),
        ({"status": "canceled"}, JobFailed, "unknown"),
        ({"status": "aborted"}, JobFailed, "no"),
    ],
)
@pytest.mark.parametrize("polls", [False, True])
def test_an_answer_may_tell_the_end_at_once_or_later(
    connect: Connect,
    serve: Serve,
    ending: dict[str, Any],
    error: type[ProviderError],
    billed: str,
    polls: bool,
) -> None:
    replies = [Reply(ACCEPTED, 201)] * polls + [Reply({"id": "job-1"} | ending, 201)]
    buyer = connect("replicate", serve(*replies).url)

    with pytest.raises(ProviderError) as caught:
        buyer.finish(buyer.submit())

    assert (type(caught.value), caught.value.billed) == (error, billed)
    assert str(ending.get("error") or "")[-40:] in caught.value.message


def test_a_success_at_once_is_a_job_so_that_a_failed_download_costs_nothing(
    connect: Connect, serve: Serve
) -> None:
    server = serve()
    done = {"id": "job-1", "status": "succeeded", "output": [f"{server.url}/a.png"]}
    server.replies = [Reply(done, 201), Reply(done), Reply(PNG)]
    buyer = connect("replicate", server.url)

    outcome = buyer.submit()

    assert isinstance(outcome, Job)
    assert [picture.data for picture in buyer.finish(outcome).pictures] == [PNG]


def test_the_key_stays_where_it_was_configured(connect: Connect, serve: Serve) -> None:
    elsewhere = serve(Reply({"status": "failed"}))
    urls = {"get": f"{elsewhere.url}/v1/predictions/job-1", "cancel": elsewhere.url}
    server = serve(Reply(ACCEPTED | {"urls": urls}, 201), Reply(ACCEPTED | {"urls": urls}))
    buyer = connect("replicate", server.url)

    job = buyer.submit()
    assert isinstance(job, Job)
    buyer.provider.poll(job, timeout=5)
    buyer.provider.cancel(job, timeout=5)

    assert not elsewhere.seen
    assert [seen.path for seen in server.seen[1:]] == [
        "/predictions/job-1",
        "/predictions/job-1/cancel",
    ]


def test_an_id_cannot_lead_elsewhere(connect: Connect, serve: Serve) -> None:
    server = serve(Reply(ACCEPTED))

    connect("replicate", server.url).provider.poll(Job("../account?x="), timeout=5)

    assert server.seen[0].path == "/predictions/..%2Faccount%3Fx%3D"


def test_a_wait_is_also_told_in_words(connect: Connect, serve: Serve) -> None:
    text = "Request was throttled. Your rate limit resets in ~30s."

    for headers, seconds in (({}, 30), ({"Retry-After": "7"}, 7)):
        server = serve(Reply({"detail": text, "status": 429}, 429, headers))
        with pytest.raises(RateLimited) as caught:
            connect("replicate", server.url).submit()
        assert caught.value.retry_after == seconds


def test_pictures_have_their_price_and_seed(buyer: Buyer, prompt: str) -> None:
    asked = replace(buyer.case.request, seed=40)

    job = buyer.submit(prompt, request=asked, count=3)
    assert isinstance(job, Job)
    result = buyer.finish(job)

    assert result.usage == {"request_id": job.id, "cost_usd": 0.009, "cost_estimated": True}
    assert {picture.seed for picture in result.pictures} == {40}


def test_a_job_can_be_cancelled(buyer: Buyer, prompt: str) -> None:
    job = buyer.submit(f"{prompt} sim:never_ready")
    assert isinstance(job, Job)

    assert buyer.provider.cancel(job, timeout=5) == "unknown"

    with pytest.raises(JobFailed, match="cancelled"):
        buyer.finish(job)


@pytest.mark.parametrize(
    ("status", "stopped"),
    [
        ("canceled", "unknown"),
        ("aborted", "no"),
        ("starting", "asked"),
        ("processing", "asked"),
        ("succeeded", None),
        ("failed", None),
    ],
)
def test_what_stopping_costs_is_told_by_the_status(
    connect: Connect, serve: Serve, status: str, stopped: str | None
) -> None:
    provider = connect("replicate", serve(Reply({"id": "job-1", "status": status})).url).provider

    assert provider.cancel(Job("job-1"), timeout=5) == stopped


def test_a_job_that_is_over_or_unknown_is_not_cancelled(buyer: Buyer, prompt: str) -> None:
    job = buyer.submit(prompt)
    assert isinstance(job, Job)
    assert isinstance(buyer.finish(job), Pictures)

    assert buyer.provider.cancel(job, timeout=5) is None
    assert buyer.provider.cancel(Job("unheard-of"), timeout=5) is None


def test_a_cancellation_that_could_not_be_asked_for_says_so(connect: Connect, serve: Serve) -> None:
    server = serve(Reply(b"<html>oops</html>", 502))

    with pytest.raises(OutcomeUnknown):
        connect("replicate", server.url).provider.cancel(Job("job-1"), timeout=5)
