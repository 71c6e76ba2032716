"""What is particular to fal."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from common.errors import (
    BadAnswer,
    ContentRefused,
    JobFailed,
    JobLost,
    OutOfCredit,
    ProviderError,
    Refused,
    Unavailable,
)
from common.task import ImageRequest
from tests.contracts.cases import CASES, PNG
from tests.contracts.conftest import Buyer, Connect, Sandbox, places
from tests.contracts.scripted import Reply, Scripted
from workers.providers.base import Job, Outcome, Picture, Pictures

Serve = Callable[..., Scripted]

COMPLETED = Reply({"status": "COMPLETED"})
STATE = {"model": "fal-ai/flux/schnell", "count": 2}
DATA_URI = "data:image/png;base64," + base64.b64encode(PNG).decode()


@pytest.fixture
def buyer(connect: Connect, sandbox: Sandbox) -> Buyer:
    return connect("fal", sandbox.url + CASES["fal"].sandbox_path, sandbox=True)


def poll(connect: Connect, serve: Serve, *replies: Reply, state: Any = STATE) -> Outcome:
    return connect("fal", serve(*replies).url).provider.poll(Job("job-1", state), timeout=5)


def problem(kind: str) -> dict[str, Any]:
    return {"detail": [{"loc": ["body", "prompt"], "msg": "no", "type": kind}]}


def test_asks_for_what_the_model_takes(connect: Connect, serve: Serve) -> None:
    server = serve()
    server.replies = [Reply(CASES["fal"].accepts(server.url))]
    request = ImageRequest("flux-schnell", "x", size="1344x768", seed=40, output_format="jpeg")

    connect("fal", server.url).submit(request=request, count=3, first=2)

    (seen,) = server.seen
    assert seen.json() == {
        "prompt": "x",
        "image_size": {"width": 1344, "height": 768},
        "num_images": 3,
        "output_format": "jpeg",
        "seed": 42,
    }
    assert seen.headers["authorization"].startswith("Key ")
    assert seen.headers["x-fal-no-retry"] == "1"


def test_asks_where_the_provider_says(connect: Connect, serve: Serve) -> None:
    server = serve()
    urls = {
        f"{name}_url": f"{server.url}/its/own/{name}" for name in ("status", "response", "cancel")
    }
    result = {"images": [{"url": DATA_URI}]}
    server.replies = [
        Reply({"request_id": "job-1"} | urls),
        COMPLETED,
        Reply(result),
        Reply({"status": "OK"}),
    ]
    buyer = connect("fal", server.url)

    job = buyer.submit()
    assert isinstance(job, Job)
    assert isinstance(buyer.finish(job), Pictures)
    assert buyer.provider.cancel(job, timeout=5)

    asked = [(seen.method, seen.path) for seen in server.seen[1:]]
    assert asked == [
        ("GET", "/its/own/status"),
        ("GET", "/its/own/response"),
        ("PUT", "/its/own/cancel"),
    ]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/status",
        "http://queue.fal.run/status",  # not encrypted
        "https://queue.fal.run.example/status",
        "https://fal.run@evil.example/",
        "https://notfal.run/",
        "nonsense",
        "",
        None,
        7,
        "https://queue.fal.run/" + "x" * 3000,
    ],
)
def test_a_foreign_address_is_replaced_by_that_of_two_segments(
    connect: Connect, serve: Serve, url: Any
) -> None:
    urls = {"status_url": url, "response_url": url, "cancel_url": url}
    server = serve(
        Reply({"request_id": "job/1"} | urls),
        COMPLETED,
        Reply({"images": [{"url": DATA_URI}]}),
        Reply({"status": "OK"}),
    )
    buyer = connect("fal", server.url)

    job = buyer.submit()
    assert isinstance(job, Job)
    buyer.finish(job)
    buyer.provider.cancel(job, timeout=5)

    own = "/fal-ai/flux/requests/job%2F1"
    assert [seen.path for seen in server.seen[1:]] == [f"{own}/status", own, f"{own}/cancel"]


def test_a_foreign_polling_address_loses_nothing(buyer: Buyer, prompt: str) -> None:
    result = buyer.finish(buyer.submit(f"{prompt} sim:foreign_polling_url"))

    assert len(result.pictures) == 1


@pytest.mark.parametrize(
    ("answer", "error", "billed"),
    [
        (Reply(problem("content_policy_violation"), 422), ContentRefused, "unknown"),
        (Reply(problem("value_error"), 422), Refused, "no"),
        (Reply({"detail": "bad", "error_type": "bad_request"}, 400), Refused, "no"),
        (Reply(problem("no_media_generated"), 422), JobFailed, "unknown"),
        (Reply(problem("downstream_service_error"), 422), JobFailed, "unknown"),
        (Reply(problem("downstream_service_unavailable"), 400), JobFailed, "unknown"),
        (Reply(problem("generation_timeout"), 422), JobFailed, "unknown"),
        (Reply(problem("internal_server_error"), 500), JobFailed, "no"),
        (Reply(problem("generation_timeout"), 504), JobFailed, "no"),
        (Reply({"detail": "x", "error_type": "runner_disconnected"}, 503), JobFailed, "no"),
        (Reply({"detail": "x"}, 503, {"X-Fal-Error-Type": "startup_timeout"}), JobFailed, "no"),
        (Reply({"detail": "x", "error_type": "client_cancelled"}, 499), JobFailed, "no"),
        (Reply({"detail": "Request not found"}, 404), JobLost, "yes"),
        (Reply({"images": []}), BadAnswer, "yes"),
        (Reply({"images": [{"url": "data:image/png;base64,%%"}]}), BadAnswer, "yes"),
        (Reply({"images": [7, {"url": None}]}), BadAnswer, "yes"),
        (Reply(b"Welcome"), BadAnswer, "yes"),
        (
            Reply({"images": [{"url": DATA_URI}], "has_nsfw_concepts": [True]}),
            ContentRefused,
            "unknown",
        ),
        # A proxy's words are no verdict on the work.
        (Reply(b"<html>oops</html>", 502), Unavailable, "no"),
        (Reply(b"<html>oops</html>", 503), Unavailable, "no"),
        (Reply({"detail": "Internal server error"}, 500), Unavailable, "no"),
        (Reply({"detail": "no such key"}, 401), Unavailable, "no"),
    ],
)
def test_completed_is_not_success(
    connect: Connect, serve: Serve, answer: Reply, error: type[ProviderError], billed: str
) -> None:
    with pytest.raises(ProviderError) as caught:
        poll(connect, serve, COMPLETED, answer)

    assert (type(caught.value), caught.value.billed) == (error, billed)


@pytest.mark.parametrize(
    ("answer", "kind", "error", "billed"),
    [
        (Reply({}, 422), "content_policy_violation", ContentRefused, "unknown"),
        (Reply(b"<html>oops</html>", 500), None, JobFailed, "no"),
        (Reply({}, 503), "runner_disconnected", JobFailed, "no"),
        (Reply({}, 422), "value_error", Refused, "no"),
    ],
)
def test_the_reason_may_be_told_with_the_status_alone(
    connect: Connect,
    serve: Serve,
    answer: Reply,
    kind: str | None,
    error: type[ProviderError],
    billed: str,
) -> None:
    told = Reply({"status": "COMPLETED", "error": "It was flagged.", "error_type": kind})

    with pytest.raises(ProviderError, match="It was flagged") as caught:
        poll(connect, serve, told, answer)

    assert (type(caught.value), caught.value.billed) == (error, billed)


def test_a_success_counts_whatever_the_status_says(connect: Connect, serve: Serve) -> None:
    status = Reply({"status": "COMPLETED", "error": "odd", "error_type": "internal_error"})

    outcome = poll(connect, serve, status, Reply({"images": [{"url": DATA_URI}]}))

    assert isinstance(outcome, Pictures)


@pytest.mark.parametrize(
    "answer",
    [
        Reply({"status": "IN_PROGRESS"}, 202),
        Reply({"detail": "Request is still in progress"}, 400),
        Reply({"detail": "Request is still in progress"}, 422),
    ],
)
def test_a_result_that_is_not_there_yet_is_waited_for(
    connect: Connect, serve: Serve, answer: Reply
) -> None:
    assert poll(connect, serve, COMPLETED, answer) == Job("job-1", STATE)


def test_a_picture_that_was_blanked_is_withheld_and_the_others_kept(
    connect: Connect, serve: Serve
) -> None:
    other = base64.b64encode(PNG + b"2").decode()
    result = {
        "images": [{"url": DATA_URI}, {"url": f"data:image/png;base64,{other}"}, 7],
        "has_nsfw_concepts": [True, False, False],
        "seed": 7,
    }

    outcome = poll(connect, serve, COMPLETED, Reply(result))

    assert isinstance(outcome, Pictures)
    assert places(outcome) == [ContentRefused, PNG + b"2", BadAnswer]
    withheld, picture, _ = outcome.pictures
    assert isinstance(withheld, ContentRefused) and "has_nsfw_concepts" in withheld.message
    assert isinstance(picture, Picture) and picture.seed == 7


def test_a_refusal_counts_for_more_than_what_cannot_be_read(connect: Connect, serve: Serve) -> None:
    result = {"images": [7, {"url": DATA_URI}], "has_nsfw_concepts": [False, True]}

    with pytest.raises(ContentRefused, match="has_nsfw_concepts"):
        poll(connect, serve, COMPLETED, Reply(result))


def test_pictures_inside_the_answer_may_be_as_large_as_others(
    connect: Connect, serve: Serve
) -> None:
    large = base64.b64encode(PNG * 20_000).decode()  # well above a megabyte

    outcome = poll(connect, serve, COMPLETED, Reply({"images": [{"url": f"data:x,{large}"}] * 2}))

    assert isinstance(outcome, Pictures)
    assert [len(picture.data) for picture in outcome.pictures] == [20_000 * len(PNG)] * 2


def test_a_picture_on_a_foreign_host_is_not_fetched(connect: Connect, serve: Serve) -> None:
    elsewhere = serve(Reply(PNG))

    with pytest.raises(BadAnswer, match="address"):
        poll(connect, serve, COMPLETED, Reply({"images": [{"url": f"{elsewhere.url}/a.png"}]}))

    assert not elsewhere.seen


def test_an_account_without_money_is_locked(connect: Connect, serve: Serve) -> None:
    text = "User is locked. Reason: Exhausted balance. Top up your balance."

    with pytest.raises(OutOfCredit):
        connect("fal", serve(Reply({"detail": text}, 403)).url).submit()


def test_a_prompt_may_be_refused_at_once(connect: Connect, serve: Serve) -> None:
    server = serve(Reply(problem("content_policy_violation"), 422))

    with pytest.raises(ContentRefused):
        connect("fal", server.url).submit()


def test_the_price_is_by_the_megapixel_of_each_picture(connect: Connect, serve: Serve) -> None:
    sizes = [(512, 512), (1024, 1024), (1344, 768), (1792, 1024), (0, 0)]
    images = [{"url": DATA_URI, "width": width, "height": height} for width, height in sizes]

    outcome = poll(connect, serve, COMPLETED, Reply({"images": [*images, {"url": DATA_URI}]}))

    assert isinstance(outcome, Pictures)
    assert outcome.usage == {"cost_usd": 0.021, "cost_estimated": True}


def test_pictures_have_their_seed(buyer: Buyer, prompt: str) -> None:
    asked = replace(buyer.case.request, seed=40)

    result = buyer.finish(buyer.submit(prompt, request=asked, count=2, first=2))

    assert [picture.seed for picture in result.pictures] == [42, 42]


@pytest.mark.parametrize(
    ("status", "word", "stopped"),
    [
        (200, "OK", "no"),
        (202, "CANCELLATION_REQUESTED", "asked"),
        (400, "ALREADY_COMPLETED", None),
        (404, "NOT_FOUND", None),
    ],
)
def test_only_what_is_said_to_be_stopped_counts_as_cancelled(
    connect: Connect, serve: Serve, status: int, word: str, stopped: str | None
) -> None:
    provider = connect("fal", serve(Reply({"status": word}, status)).url).provider

    assert provider.cancel(Job("job-1", STATE), timeout=5) == stopped


@pytest.mark.parametrize("answer", [Reply(b"", 502), Reply(b"Welcome"), Reply({}, 401)])
def test_a_cancellation_that_was_not_understood_says_so(
    connect: Connect, serve: Serve, answer: Reply
) -> None:
    provider = connect("fal", serve(answer).url).provider

    with pytest.raises(ProviderError):
        provider.cancel(Job("job-1", STATE), timeout=5)


def test_a_cancellation_that_reaches_nobody_says_so(connect: Connect, dead_url: str) -> None:
    with pytest.raises(Unavailable):
        connect("fal", dead_url).provider.cancel(Job("job-1", STATE), timeout=5)
