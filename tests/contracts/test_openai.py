"""OpenAI's own ways, and those of the servers that imitate it (PROTOCOLS.md, sections 3 and 15)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import jsonschema
import pytest

from common.catalog import Route
from common.errors import (
    BadAnswer,
    ContentRefused,
    JobLost,
    ModelNotServed,
    OutcomeUnknown,
    OutOfCredit,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
)
from common.task import ImageRequest
from tests.contracts.cases import PNG
from tests.contracts.conftest import Connect, read_document
from tests.contracts.scripted import Reply, Scripted
from workers.providers.base import Job, Pictures

Serve = Callable[..., Scripted]

BASE64 = base64.b64encode(PNG).decode()

each_imitation = pytest.mark.parametrize("name", ["openai", "compatible"])


@each_imitation
@pytest.mark.parametrize(
    "item",
    [
        {"b64_json": BASE64},
        {"b64_json": f"data:image/png;base64,{BASE64}"},
        {"url": f"data:image/png;base64,{BASE64}"},
        {"b64_json": BASE64, "url": None, "index": 0, "revised_prompt": None},
        {"b64_json": BASE64, "url": "http://169.254.169.254/x.png"},
    ],
)
def test_takes_base64_in_every_form(
    connect: Connect, serve: Serve, name: str, item: dict[str, Any]
) -> None:
    server = serve(Reply({"data": [item]}))

    outcome = connect(name, f"{server.url}/v1").submit()

    assert isinstance(outcome, Pictures)
    assert [picture.data for picture in outcome.pictures] == [PNG]
    assert len(server.seen) == 1


@each_imitation
@pytest.mark.parametrize("address", ["{base}/files/a.png", "/files/a.png", "//{host}/files/a.png"])
def test_fetches_what_a_server_only_gives_the_address_of(
    connect: Connect, serve: Serve, name: str, address: str
) -> None:
    server = serve()
    url = address.format(base=server.url, host=f"127.0.0.1:{server.port}")
    answer = {"created": 1.5, "data": [{"url": url, "revised_prompt": "A red fox"}]}
    server.replies = [Reply(answer), Reply(status=503), Reply(PNG)]
    buyer = connect(name, f"{server.url}/v1")

    job = buyer.submit()
    assert isinstance(job, Job)
    with pytest.raises(Unavailable):  # a download that fails is repeated, not the purchase
        buyer.provider.poll(job, timeout=5)
    result = buyer.finish(Job(**json.loads(json.dumps(asdict(job)))))

    assert [(p.data, p.revised_prompt) for p in result.pictures] == [(PNG, "A red fox")]
    assert [seen.method for seen in server.seen] == ["POST", "GET", "GET"]
    assert server.seen[1].path == "/files/a.png"
    assert "authorization" not in server.seen[1].headers


def test_says_when_the_address_has_expired(connect: Connect, serve: Serve) -> None:
    server = serve(Reply({"data": [{"url": "/gone.png"}]}), Reply(status=404))
    buyer = connect("openai", server.url)

    with pytest.raises(JobLost) as caught:
        buyer.finish(buyer.submit())

    assert caught.value.billed == "yes"


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (400, {"code": "billing_hard_limit_reached", "type": "invalid_request_error"}, OutOfCredit),
        (400, {"code": "model_not_found"}, ModelNotServed),
        (400, {"code": "contentFilter"}, ContentRefused),
        (400, {"code": "invalid_value", "param": "size"}, Refused),
        (403, {"code": "insufficient_user_quota"}, OutOfCredit),
        (429, {"code": "slow_down", "type": "rate_limit_error"}, RateLimited),
        (429, {"code": None, "type": "insufficient_quota"}, OutOfCredit),
        (429, {"code": "project_spend_limit_exceeded", "type": "insufficient_quota"}, OutOfCredit),
        (429, {"code": ["odd"], "type": 7}, RateLimited),
        (429, {"code": "rate_limit_exceeded", "type": "requests"}, RateLimited),
        (503, {"code": None, "type": "service_unavailable_error"}, OutcomeUnknown),
        # A server that failed cannot vouch for what it did.
        (500, {"code": "model_not_found"}, OutcomeUnknown),
        (502, {"code": "server_is_overloaded"}, OutcomeUnknown),
    ],
)
def test_reads_the_code_of_an_error(
    connect: Connect, serve: Serve, status: int, error: dict[str, Any], expected: type
) -> None:
    server = serve(Reply({"error": {"message": "no", "param": None} | error}, status))

    with pytest.raises(ProviderError) as caught:
        connect("openai", server.url).submit()

    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("status", "code", "word", "expected"),
    [
        (429, "rate_limit_exceeded", "false", OutOfCredit),
        (429, None, "false", OutOfCredit),
        (429, "rate_limit_exceeded", "true", RateLimited),
        (429, "insufficient_quota", "true", OutOfCredit),
        # What may have been carried out is not repeated, whoever would like it.
        (500, None, "true", OutcomeUnknown),
        (503, "server_is_overloaded", "false", Unavailable),
    ],
)
def test_a_limit_that_no_wait_can_mend_is_not_waited_for(
    connect: Connect, serve: Serve, status: int, code: str | None, word: str, expected: type
) -> None:
    error = {"message": "no", "type": "x", "param": None, "code": code}
    server = serve(Reply({"error": error}, status, {"x-should-retry": word}))

    with pytest.raises(ProviderError) as caught:
        connect("openai", server.url).submit()

    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (403, {"code": "insufficient_user_quota", "message": "no"}, OutOfCredit),
        (400, {"object": "error", "code": "content_policy_violation"}, ContentRefused),
        (400, {"object": "error", "message": "bad", "code": 400}, Refused),
        (404, {"detail": "Model not found"}, ModelNotServed),
    ],
)
def test_reads_errors_of_imitations(
    connect: Connect, serve: Serve, status: int, body: dict[str, Any], expected: type
) -> None:
    with pytest.raises(ProviderError) as caught:
        connect("openai", serve(Reply(body, status)).url).submit()

    assert type(caught.value) is expected


def test_the_reason_of_a_refusal_survives_a_long_message(connect: Connect, serve: Serve) -> None:
    text = "Your request was rejected. " + "Please be kind. " * 50
    error = {
        "message": f"{text}safety_violations=[sexual, violence].",
        "type": "image_generation_user_error",
        "code": "moderation_blocked",
    }

    with pytest.raises(ContentRefused) as caught:
        connect("openai", serve(Reply({"error": error}, 400)).url).submit()

    assert caught.value.message.startswith("openai answered 400: Your request was rejected.")
    assert caught.value.message.endswith(" safety_violations=[sexual, violence].")
    assert len(caught.value.message) == 300


def test_bills_what_cannot_be_read(connect: Connect, serve: Serve) -> None:
    server = serve(Reply({"data": [{"b64_json": "not base64"}]}))

    with pytest.raises(BadAnswer) as caught:
        connect("openai", server.url).submit()

    assert caught.value.billed == "yes"


def test_asks_an_imitation_for_base64_and_for_nothing_it_may_not_know(
    connect: Connect, serve: Serve
) -> None:
    server = serve(Reply({"data": [{"b64_json": BASE64}]}))
    request = ImageRequest("own", "a red fox", user="ada", style="vivid", seed=3)

    connect("openai", server.url, key="").submit(request=request, route=Route("openai", "sdxl"))

    (sent,) = server.seen
    assert sent.json() == {
        "model": "sdxl",
        "prompt": "a red fox",
        "n": 1,
        "size": "1024x1024",
        "response_format": "b64_json",
    }
    assert "authorization" not in sent.headers


def test_a_plain_request_is_one_that_every_compatible_server_knows(
    connect: Connect, serve: Serve
) -> None:
    server = serve(Reply({"data": [{"b64_json": BASE64}]}))
    request = ImageRequest("own", "a red fox", n=2, size="768x512", user="ada")
    document = read_document("openapi/openai-compatible.json")
    schemas = document["components"]["schemas"]

    buyer = connect("compatible", server.url)
    buyer.submit(request=request, route=Route("compatible", "qwen-image"), count=2)

    (sent,) = server.seen
    for name in ("VllmOmniRequest", "SglangRequest", "LocalAIRequest"):
        strict = schemas[name] | {"additionalProperties": False}
        jsonschema.Draft202012Validator(strict).validate(sent.json())
    assert sent.json()["response_format"] == "b64_json"


def test_a_compatible_server_is_told_what_only_its_models_take(
    connect: Connect, serve: Serve
) -> None:
    server = serve(Reply({"data": [{"b64_json": BASE64}]}))
    request = ImageRequest("own", "x", seed=40, negative_prompt="blur", style="vivid", quality="hd")
    route = Route("compatible", "sdxl", drops=("response_format",))

    connect("compatible", server.url).submit(request=request, route=route, first=2)

    told = {"seed": 42, "negative_prompt": "blur", "style": "vivid", "quality": "hd"}
    plain = {"model": "sdxl", "prompt": "x", "n": 1, "size": "1024x1024"}
    assert server.seen[0].json() == plain | told


def test_what_a_compatible_server_charges_is_not_guessed(connect: Connect, serve: Serve) -> None:
    usage = {"input_tokens": 14, "output_tokens": 1056}
    server = serve(Reply({"data": [{"b64_json": BASE64}], "usage": usage}))

    outcome = connect("compatible", server.url, sandbox=True).submit()

    assert isinstance(outcome, Pictures)
    assert outcome.usage == {"tokens": {"input": 14, "input_image": 0, "output": 1056}}


def test_never_asks_a_gpt_image_model_for_a_response_format(connect: Connect, serve: Serve) -> None:
    server = serve(Reply({"data": [{"b64_json": BASE64}]}))

    connect("openai", server.url).submit()

    assert "response_format" not in server.seen[0].json()


def test_does_not_send_what_the_route_drops(connect: Connect, serve: Serve) -> None:
    server = serve(Reply({"data": [{"b64_json": BASE64}]}))
    request = ImageRequest("own", "x", background="transparent", output_format="png")
    route = Route("openai", "gpt-image-2", drops=("background",))

    connect("openai", server.url).submit(request=request, route=route)

    assert "background" not in server.seen[0].json()
    assert server.seen[0].json()["output_format"] == "png"


def test_one_user_is_always_the_same_nobody(connect: Connect, serve: Serve) -> None:
    server = serve(Reply({"data": [{"b64_json": BASE64}]}))
    buyer = connect("openai", server.url, sandbox=True)

    for user in ("ada", "ada", "bob"):
        buyer.submit(request=ImageRequest("own", "x", user=user))

    ada, again, bob = (seen.json()["safety_identifier"] for seen in server.seen)
    assert ada == again != bob
