"""The adapters against the documents on the providers' protocols (PROTOCOLS.md, its companions)."""

from __future__ import annotations

import email
import email.message
import json
import re
from collections.abc import Callable
from types import NoneType
from typing import Any

import jsonschema
import pytest

from common.errors import (
    BadAnswer,
    ContentRefused,
    JobFailed,
    JobLost,
    ModelNotServed,
    NotAuthorised,
    OutcomeUnknown,
    OutOfCredit,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
)
from common.task import ImageRequest
from tests.contracts.cases import CASES, PNG
from tests.contracts.conftest import Connect, read_document
from tests.contracts.scripted import Reply, Scripted, Seen
from workers.providers.base import Job, Order, Outcome, Pictures

Serve = Callable[..., Scripted]

_PICTURES = re.compile(r"https://(?:replicate\.delivery|v3\.fal\.media)/[^\"]+")

# What each response in examples.json must be read as: a type of outcome, or of error.
EXPECTED: dict[str, dict[str, type]] = {
    "openai": {
        "ok": Pictures,
        "bad key": NotAuthorised,
        "unknown parameter": Refused,
        "refused": ContentRefused,
        "refused, older form": ContentRefused,
        "retired model": ModelNotServed,
        "rate limit": RateLimited,
        "no money": OutOfCredit,
        "no money, newer": OutOfCredit,
        "overloaded": Unavailable,
        "server error": OutcomeUnknown,
    },
    "bfl": {
        "accepted": Job,
        "accepted with webhook": Job,
        "pending": Job,
        "ready": Pictures,
        "prompt refused": ContentRefused,
        "picture refused": ContentRefused,
        "error": JobFailed,
        "not found": Job,
        "validation": Refused,
        "no money": OutOfCredit,
        "too many": RateLimited,
    },
    "replicate": {
        "accepted": Job,
        "still running after wait": Job,
        "done": Pictures,
        "refused": ContentRefused,
        "cancelled": JobFailed,
        "aborted": JobFailed,
        "expired": JobLost,
        "no money": OutOfCredit,
        "throttled": RateLimited,
        "bad input": Refused,
    },
    "fal": {
        "queued": Job,
        "waiting": Job,
        "running": Job,
        "completed": Pictures,
        "completed but failed": ContentRefused,
        "result": Pictures,
        "result, one blanked": Pictures,
        "refused": ContentRefused,
        "no money": OutOfCredit,
        "runner gone": JobFailed,
        "cancel OK": str,
        "cancel CANCELLATION_REQUESTED": str,
        "cancel ALREADY_COMPLETED": NoneType,
        "cancel NOT_FOUND": NoneType,
    },
    "together": {"ok": Pictures, "ok url": Job, "bad key": NotAuthorised},
    "huggingface": {"loading": Unavailable},
    "stability": {
        "ok json": Pictures,
        "filtered json": ContentRefused,
        "ok bytes": Pictures,
        "bad_request": Refused,
        "unauthorized": NotAuthorised,
        "payment_required": OutOfCredit,
        "content_moderation": ContentRefused,
        "payload_too_large": Refused,
        "invalid_language": Refused,
        "rate_limit_exceeded": RateLimited,
        "internal_error": JobFailed,
    },
    "midjourney": {
        "submit code 1": Job,
        "submit code 22": Job,
        "submit code 21": Job,
        "submit code 3": Unavailable,
        "submit code 4": Refused,
        "submit code 9": RateLimited,  # this one's queue is full
        "submit code 23": RateLimited,
        "submit code 24": ContentRefused,
        "waiting": Job,
        "running": Job,
        "done": Pictures,
        "failed": ContentRefused,
        "unknown id": Job,
    },
    "ideogram": {
        "ok": Job,
        "one unsafe": Job,
        "refused": ContentRefused,
        "rate limit": RateLimited,
    },
    "gemini": {
        "ok": Pictures,
        "blocked": ContentRefused,
        "finish IMAGE_SAFETY": ContentRefused,
        "finish NO_IMAGE": JobFailed,
        "error 400": NotAuthorised,
        "error 402": OutOfCredit,
        "error 404": ModelNotServed,
        "error 503": Unavailable,
        "quota": RateLimited,
        # Of calls that are not made: nothing in them is taken for a picture.
        "imagen ok": BadAnswer,
        "imagen all filtered": BadAnswer,
        "interaction ok": BadAnswer,
    },
    "a1111": {
        "ok": Pictures,
        "progress": BadAnswer,  # of a call that is not made
        "task progress": int,
        "out of memory": JobFailed,
        "bad sampler": ModelNotServed,
    },
    "compatible": {
        "vllm-omni ok": Pictures,
        "sglang relative url": Job,
        "no created": Pictures,
        "data url": Pictures,
        "detail text": ModelNotServed,
        "detail list": Refused,
        "error text": OutcomeUnknown,
        "vllm style": Refused,
    },
    "comfyui": {
        "accepted": Job,
        "rejected": Refused,
        "duplicate": Job,
        "not yet": Job,
        "done": Pictures,
        "failed": JobFailed,
        "queue": Job,
        "job": BadAnswer,  # of a call that is not made
    },
}


def test_every_example_of_an_answer_is_read_rightly(
    connect: Connect, serve: Serve, name: str
) -> None:
    examples = read_document("examples.json")["examples"]
    ours = [
        example
        for example in examples
        if example["provider"] == CASES[name].documents and example["kind"] == "response"
    ]
    assert {example["name"] for example in ours} == set(EXPECTED[name])

    for example in ours:
        read = _read(connect, serve, name, example)
        assert type(read) is EXPECTED[name][example["name"]], example["name"]


def test_every_example_of_an_imitation_of_openai_is_read_rightly(
    connect: Connect, serve: Serve
) -> None:
    expected = {
        "vllm-omni ok": Pictures,
        "sglang relative url": Job,
        "no created": Pictures,
        "data url": Pictures,
        "detail text": ModelNotServed,
        "detail list": Refused,
        "error text": OutcomeUnknown,
        "vllm style": Refused,
    }
    examples = {
        example["name"]: example
        for example in read_document("examples.json")["examples"]
        if (example["provider"], example["kind"]) == ("openai-compatible", "response")
    }

    read = {name: _read(connect, serve, "openai", examples[name]) for name in examples}

    assert {name: type(outcome) for name, outcome in read.items()} == expected


def test_examples_tell_what_callers_want_to_know(connect: Connect, serve: Serve) -> None:
    examples = {
        (example["provider"], example["name"]): example
        for example in read_document("examples.json")["examples"]
    }

    refused = _read(connect, serve, "bfl", examples["black-forest-labs", "prompt refused"])
    assert isinstance(refused, ContentRefused)
    assert refused.message == "bfl refused the prompt: Safety Filter"

    invalid = _read(connect, serve, "bfl", examples["black-forest-labs", "validation"])
    assert isinstance(invalid, Refused)
    assert invalid.message == "bfl answered 422: width: Input should be a multiple of 32"

    limited = _read(connect, serve, "openai", examples["openai", "rate limit"])
    assert isinstance(limited, RateLimited)
    assert limited.retry_after == 20

    running = _read(connect, serve, "bfl", examples["black-forest-labs", "pending"])
    assert isinstance(running, Job)
    assert running.progress == 40

    ready = _read(connect, serve, "bfl", examples["black-forest-labs", "ready"])
    assert isinstance(ready, Pictures)
    assert (ready.pictures[0].seed, ready.usage) == (42, {"cost_usd": 0.04})

    made = _read(connect, serve, "openai", examples["openai", "ok"])
    assert isinstance(made, Pictures)
    assert [picture.data for picture in made.pictures] == [PNG, PNG]
    # 14 text tokens at $5 and 1056 image tokens at $30 a million.
    assert made.usage == {
        "request_id": "req_1",
        "tokens": {"input": 14, "input_image": 0, "output": 1056},
        "cost_usd": 0.03175,
        "cost_estimated": True,
    }


def test_every_request_is_well_formed(connect: Connect, serve: Serve, name: str) -> None:
    case = CASES[name]
    document = read_document(f"openapi/{case.documents}.json")

    for request, route in ((case.request, case.route), *case.variants):
        server = serve()
        server.replies = [Reply(case.accepts(server.url))]
        buyer = connect(name, server.url, sandbox=True)
        buyer.submit(request=request, route=route, count=buyer.provider.pictures_per_call)

        (sent,) = (seen for seen in server.seen if seen.method == "POST")
        post = document["paths"][case.document_path or sent.path]["post"]
        kind = sent.headers["content-type"].partition(";")[0]
        content = post["requestBody"]["content"][kind]
        body = sent.json() if kind == "application/json" else form_fields(sent)
        check_body(body, content["schema"], document, case.newer)


def test_the_checker_notices_a_misspelt_field(name: str) -> None:
    case = CASES[name]
    document = read_document(f"openapi/{case.documents}.json")
    post = document["paths"][case.document_path or case.submit_path]["post"]
    content = next(iter(post["requestBody"]["content"].values()))

    with pytest.raises(AssertionError, match="promt"):
        check_body({"prompt": "x", "promt": "x"}, content["schema"], document, {})


def test_a_name_of_a_person_is_not_passed_on(connect: Connect, serve: Serve, name: str) -> None:
    server = serve()
    server.replies = [Reply(CASES[name].accepts(server.url))]

    connect(name, server.url, sandbox=True).submit(
        request=ImageRequest("any", "x", user="somebody@example.org")
    )

    assert b"somebody" not in server.seen[0].body


def _read(
    connect: Connect, serve: Serve, name: str, example: dict[str, Any]
) -> Outcome | ProviderError | int | None:
    server = serve()
    picture = Reply(PNG)
    headers = {name.title(): value for name, value in example.get("headers", {}).items()}
    body = example["body"] or {}
    # Pictures lie on hosts that cannot be reached from here.
    if body.get("imageUrl"):
        body = body | {"imageUrl": f"{server.url}/grid.png"}
    links = f"{server.url}/picture.png"
    body = json.loads(_PICTURES.sub(links, json.dumps(body)))
    result = body.get("result")
    if isinstance(result, dict):
        body = body | {"result": result | {"sample": f"{server.url}/sample.png"}}
    is_picture = headers.get("Content-Type", "").startswith("image/")
    answer = Reply(PNG if is_picture else body, example["status"], headers)
    buyer = connect(name, server.url, sandbox=True)
    server.replies = [*CASES[name].script(example["name"], answer, server.url), picture]
    job = Job("job-1", CASES[name].job_state)
    try:
        if example.get("method") == "GET" or example["name"] in CASES[name].polled:
            return buyer.provider.poll(job, timeout=5)
        if example["name"] == "task progress":
            return buyer.provider.progress(Order(buyer.case.request, buyer.case.route), timeout=5)
        if example["name"].startswith("cancel "):
            return buyer.provider.cancel(job, timeout=5)
        return buyer.submit()
    except ProviderError as error:
        return error


def form_fields(sent: Seen) -> dict[str, Any]:
    """The fields of a form; what looks like a number is one, and `name[]` is a list."""
    head = f"Content-Type: {sent.headers['content-type']}\r\n\r\n"
    form = email.message_from_bytes(head.encode() + sent.body)
    fields: dict[str, Any] = {}
    for part in form.get_payload():
        assert isinstance(part, email.message.Message)
        text = str(part.get_payload())
        name = str(part.get_param("name", header="Content-Disposition"))
        if name.endswith("[]"):
            fields.setdefault(name.removesuffix("[]"), []).append(text)
        elif re.fullmatch(r"[0-9]+|[0-9]+\.[0-9]+", text):
            fields[name] = json.loads(text)
        else:
            fields[name] = text
    return fields


def check_body(body: Any, schema: Any, document: Any, newer: dict[str, Any]) -> None:
    while "$ref" in schema:
        schema = _resolve(schema["$ref"], document)
    if "anyOf" in schema:  # of several servers: a field has to be known to one of them
        schemas = [_resolve(each["$ref"], document) for each in schema["anyOf"]]
        known = [each["properties"] for each in schemas]
        schema = schema | {"properties": {n: {} for each in known for n in each}}
    if "properties" not in schema:
        return  # any names will do, and what they stand for is checked with the whole
    properties = schema["properties"] | newer
    unknown = set(body) - set(properties)
    assert not unknown, f"fields the provider does not know: {sorted(unknown)}"
    for name, value in body.items():
        if isinstance(value, dict) and "$ref" in properties[name]:
            check_body(value, properties[name], document, {})
    whole = schema | {"properties": properties, "components": document["components"]}
    jsonschema.Draft202012Validator(_without_nullable(whole)).validate(body)


def _resolve(pointer: str, document: Any) -> Any:
    for part in pointer.removeprefix("#/").split("/"):
        document = document[part]
    return document


def _without_nullable(schema: Any) -> Any:
    """JSON Schema for the same: `nullable` belongs to OpenAPI 3.0 and is ignored elsewhere."""
    if isinstance(schema, list):
        return [_without_nullable(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: _without_nullable(part) for name, part in schema.items() if name != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain
