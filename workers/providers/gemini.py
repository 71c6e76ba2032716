"""Google's Gemini image models: answer with a picture among words, or with words alone."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import quote

from common.catalog import Route
from common.errors import (
    BadAnswer,
    ContentRefused,
    JobFailed,
    NotAuthorised,
    OutOfCredit,
    ProviderError,
    Unavailable,
)
from common.transport import Answer
from workers.providers.base import (
    Order,
    Outcome,
    Picture,
    Pictures,
    Provider,
    from_base64,
    nearest_ratio,
)

__all__ = ["Gemini"]

_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")

# What a model can be asked for, and about how many pixels that brings.
_AREAS = {"512": 512**2, "1K": 1024**2, "2K": 2048**2, "4K": 4096**2}
_SLACK = 1.1  # other shapes than the square have up to a twentieth more
_ONE_SIZE = ("gemini-2.",)  # models that make 1K, and know no such field

# Why a candidate has no picture, when it is for the rules; other reasons are failures.
_REFUSALS = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "IMAGE_OTHER",
    }
)

# Dollars per million tokens of input and output, by the beginning of the model's name: list
# prices of 2026-11. A picture of 1K has 1120 tokens.
_PRICES = {
    "gemini-3.1-flash-image": (0.5, 60.0),
    "gemini-3-pro-image": (2.0, 120.0),
    "gemini-2.5-flash-image": (0.3, 30.0),
}


class Gemini(Provider):
    """`POST {base}/models/{model}:generateContent`, one picture per call.

    The shape is one of ten, the size one of four steps; the pixels are the provider's own. A 200
    without a picture is a refusal or a failure, by the reason it names.
    """

    name = "gemini"
    auth = ("x-goog-api-key", "")

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        answer = self._api.post(
            f"/models/{quote(order.route.model, safe='')}:generateContent",
            _body(order),
            deadline=time.monotonic() + timeout,
            pictures=4,  # drafts of the thinking models come along
        )
        if not answer.ok:
            raise self._error(answer)
        body = answer.json()
        parts = _parts(body)
        found = (from_base64(_inline(part)) for part in parts)
        pictures = tuple(Picture(data) for data in found if data)
        usage = _usage(body, order.route)
        if not pictures:
            error = self._without_picture(body, parts)
            error.request_id = usage.get("request_id")
            raise error
        return Pictures(pictures, usage)

    def _error(self, answer: Answer) -> ProviderError:
        error = answer.json().get("error")
        told = error if isinstance(error, dict) else {}
        text = str(told.get("message"))
        details = told.get("details")
        known = [d for d in details if isinstance(d, dict)] if isinstance(details, list) else []
        reasons = [detail.get("reason") for detail in known]
        match answer.status, told.get("status"):
            case 400, _ if "API_KEY_INVALID" in reasons or "API key not valid" in text:
                return self._api.error(answer, NotAuthorised)
            case 400, "FAILED_PRECONDITION":  # billing is not enabled, or the country not served
                return self._api.error(answer, NotAuthorised)
            case 429, _ if any(_is_daily(detail) for detail in known):
                return self._api.error(answer, OutOfCredit)
            case 429, _:
                waits = (_seconds(detail.get("retryDelay")) for detail in known)
                wait = next((wait for wait in waits if wait is not None), None)
                return self._api.error(answer, retry_after=wait)
            case 503, "UNAVAILABLE":  # turned away at the door
                return self._api.error(answer, Unavailable)
        return self._api.error(answer)

    def _without_picture(self, body: dict[str, Any], parts: list[dict[str, Any]]) -> ProviderError:
        feedback = body.get("promptFeedback")
        blocked = feedback.get("blockReason") if isinstance(feedback, dict) else None
        if isinstance(blocked, str) and blocked:
            return ContentRefused(self._api.scrub(f"gemini refused the prompt: {blocked}"))
        ends = [end for candidate in _candidates(body) if (end := _end(candidate))]
        for reason, words in ends:
            if reason in _REFUSALS:
                return ContentRefused(self._api.scrub(f"gemini refused the picture: {words}"))
        if any("inlineData" in part for part in parts):
            return BadAnswer("gemini answered with a picture that cannot be read.", billed="yes")
        said = " ".join(part["text"] for part in parts if isinstance(part.get("text"), str)).strip()
        if said:
            return JobFailed(self._api.scrub(f"gemini made no picture, but said: {said}"))
        for reason, words in ends:
            if reason != "STOP":
                return JobFailed(self._api.scrub(f"gemini made no picture: {words}"))
        return BadAnswer("gemini answered without a picture.")


def _body(order: Order) -> dict[str, Any]:
    request, route = order.request, order.route
    size = route.upstream_size(request.size)
    width, height = (int(side) for side in size.split("x"))
    image = {"aspectRatio": nearest_ratio(width, height, _RATIOS)}
    if not route.model.startswith(_ONE_SIZE):
        enough = (name for name, area in _AREAS.items() if width * height <= area * _SLACK)
        image["imageSize"] = next(enough, "4K")
    pictures = [
        {"inlineData": {"mimeType": each.mime, "data": each.base64}} for each in order.images
    ]
    return {
        "contents": [{"role": "user", "parts": [{"text": request.prompt}, *pictures]}],
        "generationConfig": {"responseModalities": ["IMAGE"], "imageConfig": image},
    }


def _candidates(body: dict[str, Any]) -> list[dict[str, Any]]:
    told = body.get("candidates")
    return [item for item in told if isinstance(item, dict)] if isinstance(told, list) else []


def _end(candidate: dict[str, Any]) -> tuple[str, str] | None:
    """Why a candidate ended: the reason by its name, and with what is said of it beside."""
    match candidate:
        case {"finishReason": str(reason), "finishMessage": str(text)} if text:
            return reason, f"{reason}: {text}"
        case {"finishReason": str(reason)}:
            return reason, reason
    return None


def _parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    """What the model answered, without what it only thought."""
    parts = []
    for candidate in _candidates(body):
        match candidate:
            case {"content": {"parts": [*told]}}:
                parts += [part for part in told if isinstance(part, dict)]
    return [part for part in parts if not part.get("thought")]


def _inline(part: dict[str, Any]) -> object:
    inline = part.get("inlineData")
    return inline.get("data") if isinstance(inline, dict) else None


def _usage(body: dict[str, Any], route: Route) -> dict[str, Any]:
    usage: dict[str, Any] = {}
    name = body.get("responseId")
    if isinstance(name, str) and 0 < len(name) <= 200:
        usage["request_id"] = name
    told = body.get("usageMetadata")
    if not isinstance(told, dict):
        return usage
    counts = {
        "input": _count(told.get("promptTokenCount")),
        "output": _count(told.get("candidatesTokenCount")),
    }
    if not any(counts.values()):
        return usage
    usage["tokens"] = counts
    prices = (price for start, price in _PRICES.items() if route.model.startswith(start))
    if price := next(prices, None):
        millionths = counts["input"] * price[0] + counts["output"] * price[1]
        usage |= {"cost_usd": round(millionths / 1_000_000, 6), "cost_estimated": True}
    return usage


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _seconds(text: object) -> float | None:
    """A duration as Google writes it, such as `34s` or `0.5s`; an hour at most."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s", text) if isinstance(text, str) else None
    return min(float(match[1]), 3600.0) if match else None


def _is_daily(detail: dict[str, Any]) -> bool:
    """Whether it tells of a quota that is only given anew on the next day."""
    told = detail.get("violations")
    violations = [v for v in told if isinstance(v, dict)] if isinstance(told, list) else []
    return any("PerDay" in str(violation.get("quotaId")) for violation in violations)
