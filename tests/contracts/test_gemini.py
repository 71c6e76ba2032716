"""Gemini's own ways (PROTOCOLS.md, section 11)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from common.catalog import Route
from common.errors import (
    BadAnswer,
    ContentRefused,
    JobFailed,
    NotAuthorised,
    OutcomeUnknown,
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
from workers.providers.base import Pictures

Serve = Callable[..., Scripted]

INLINE = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}}
DRAFT = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(b"draft").decode()}}


def candidate(*parts: Any, reason: str = "STOP") -> dict[str, Any]:
    return {"candidates": [{"finishReason": reason, "content": {"parts": list(parts)}}]}


def outcome_of(connect: Connect, serve: Serve, body: Any, status: int = 200) -> Any:
    """What is made of an answer: pictures, or the error."""
    try:
        return connect("gemini", serve(Reply(body, status)).url).submit()
    except ProviderError as error:
        return error


@pytest.mark.parametrize(
    "parts",
    [
        (INLINE,),
        ({"text": "Here it is"}, INLINE, {"text": "Do you like it?"}),
        (DRAFT | {"thought": True}, {"text": "better", "thought": True}, INLINE),
        (None, 5, {"inlineData": None}, {"inlineData": {"data": "%"}}, INLINE),
        (INLINE | {"thoughtSignature": "c2ln"},),
    ],
)
def test_finds_the_picture_among_the_parts(
    connect: Connect, serve: Serve, parts: tuple[Any, ...]
) -> None:
    outcome = outcome_of(connect, serve, candidate(*parts))

    assert isinstance(outcome, Pictures)
    assert [picture.data for picture in outcome.pictures] == [PNG]


@pytest.mark.parametrize(
    "reason", ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY"]
)
def test_a_blocked_prompt_is_refused(connect: Connect, serve: Serve, reason: str) -> None:
    error = outcome_of(connect, serve, {"promptFeedback": {"blockReason": reason}})

    assert type(error) is ContentRefused
    assert error.message == f"gemini refused the prompt: {reason}"
    assert error.billed == "unknown"


@pytest.mark.parametrize(
    "reason",
    [
        *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"),
        *("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER"),
    ],
)
def test_a_withheld_picture_is_refused(connect: Connect, serve: Serve, reason: str) -> None:
    for body in (
        {"candidates": [{"finishReason": reason}]},
        candidate({"text": "I cannot draw that."}, reason=reason),
    ):
        error = outcome_of(connect, serve, body)

        assert type(error) is ContentRefused
        assert error.message == f"gemini refused the picture: {reason}"


def test_what_google_adds_to_its_reason_is_told(connect: Connect, serve: Serve) -> None:
    said = {"finishReason": "IMAGE_SAFETY", "finishMessage": "Unable to show it: violence."}

    error = outcome_of(connect, serve, {"candidates": [said], "responseId": "r1"})

    assert (type(error), error.request_id) == (ContentRefused, "r1")
    assert error.message.endswith("refused the picture: IMAGE_SAFETY: Unable to show it: violence.")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"candidates": [{"finishReason": "NO_IMAGE"}]}, "NO_IMAGE"),
        ({"candidates": [{"finishReason": "NO_IMAGE", "finishMessage": "Try"}]}, "NO_IMAGE: Try"),
        ({"candidates": [{"finishReason": "NO_IMAGE", "finishMessage": 5}]}, "NO_IMAGE"),
        ({"candidates": [{"finishReason": "MAX_TOKENS"}]}, "MAX_TOKENS"),
        ({"candidates": [{"finishReason": "SOMETHING_NEW"}]}, "SOMETHING_NEW"),
        (candidate({"text": "Which fox, red or grey?"}), "but said: Which fox, red or grey?"),
        (candidate({"text": "A key: sk-1234567"}), r"\[hidden\]"),
    ],
)
def test_words_instead_of_a_picture_are_a_failure(
    connect: Connect, serve: Serve, body: Any, said: str
) -> None:
    error = outcome_of(connect, serve, body)

    assert type(error) is JobFailed
    with pytest.raises(JobFailed, match=said):
        raise error


@pytest.mark.parametrize(
    ("body", "billed"),
    [
        (candidate(), "unknown"),
        (candidate(DRAFT | {"thought": True}), "unknown"),
        (candidate({"inlineData": {"data": "not base64"}}), "yes"),
        ({"candidates": [{"finishReason": 5, "content": {"parts": {}}}]}, "unknown"),
        ({"promptFeedback": {}}, "unknown"),
    ],
)
def test_nothing_at_all_is_a_bad_answer(
    connect: Connect, serve: Serve, body: Any, billed: str
) -> None:
    error = outcome_of(connect, serve, body)

    assert (type(error), error.billed) == (BadAnswer, billed)


def problem(name: str, *details: Any, message: str = "no") -> dict[str, Any]:
    return {"error": {"code": 0, "message": message, "status": name, "details": list(details)}}


DAILY = {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}]}
MINUTE = {"violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}]}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, problem("INVALID_ARGUMENT"), Refused),
        (400, problem("INVALID_ARGUMENT", {"reason": "API_KEY_INVALID"}), NotAuthorised),
        (400, problem("INVALID_ARGUMENT", message="API key not valid."), NotAuthorised),
        (400, problem("FAILED_PRECONDITION"), NotAuthorised),
        (402, problem("RESOURCE_EXHAUSTED"), OutOfCredit),
        (403, problem("PERMISSION_DENIED"), NotAuthorised),
        (429, problem("RESOURCE_EXHAUSTED"), RateLimited),
        (429, problem("RESOURCE_EXHAUSTED", MINUTE), RateLimited),
        (429, problem("RESOURCE_EXHAUSTED", DAILY, {"retryDelay": "34s"}), OutOfCredit),
        (429, problem("RESOURCE_EXHAUSTED", None, 5, {"violations": [None]}), RateLimited),
        (500, problem("INTERNAL"), OutcomeUnknown),
        (503, problem("UNAVAILABLE"), Unavailable),
        (504, problem("DEADLINE_EXCEEDED"), OutcomeUnknown),
    ],
)
def test_reads_what_google_calls_an_error(
    connect: Connect, serve: Serve, status: int, body: Any, expected: type
) -> None:
    assert type(outcome_of(connect, serve, body, status)) is expected


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [("34s", 34), ("0.5s", 0.5), ("99999999s", 3600), ("soon", None), ("-1s", None), (5, None)],
)
def test_hears_the_wait_in_the_body(
    connect: Connect, serve: Serve, delay: Any, seconds: float | None
) -> None:
    kind = "type.googleapis.com/google.rpc.RetryInfo"
    body = problem("RESOURCE_EXHAUSTED", {"@type": kind, "retryDelay": delay})

    error = outcome_of(connect, serve, body, 429)

    assert (type(error), error.retry_after) == (RateLimited, seconds)


@pytest.mark.parametrize(
    ("size", "ratio", "step"),
    [
        ("512x512", "1:1", "512"),
        ("1024x1024", "1:1", "1K"),
        ("1376x768", "16:9", "1K"),
        ("768x1376", "9:16", "1K"),
        ("1264x848", "3:2", "1K"),
        ("1200x896", "4:3", "1K"),
        ("1152x928", "5:4", "1K"),
        ("1584x672", "21:9", "1K"),
        ("1792x1024", "16:9", "2K"),
        ("2048x2048", "1:1", "2K"),
        ("5504x3072", "16:9", "4K"),
    ],
)
def test_a_size_becomes_a_shape_and_a_step(
    connect: Connect, serve: Serve, size: str, ratio: str, step: str
) -> None:
    server = serve(Reply(candidate(INLINE)))
    request = ImageRequest("gemini-image", "a fox", size=size, seed=3, user="ada")

    connect("gemini", server.url).submit(request=request)

    assert server.seen[0].json() == {
        "contents": [{"role": "user", "parts": [{"text": "a fox"}]}],
        "generationConfig": {
            "responseModalities": ["IMAGE"],
            "imageConfig": {"aspectRatio": ratio, "imageSize": step},
        },
    }


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("gemini-3.1-flash-image", 0.067),
        ("gemini-3-pro-image", 0.134),
        ("gemini-2.5-flash-image", 0.039),
    ],
)
def test_every_model_answers_and_has_its_price(
    connect: Connect, sandbox: Sandbox, prompt: str, model: str, cost: float
) -> None:
    result = connect("gemini", f"{sandbox.url}/gemini/v1beta").submit(
        prompt, route=Route("gemini", model)
    )

    assert isinstance(result, Pictures)
    assert len(result.pictures) == 1
    assert result.usage["cost_usd"] == pytest.approx(cost, rel=0.02)
    assert result.usage["request_id"]
