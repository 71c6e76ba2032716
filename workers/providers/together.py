"""Together AI: a close relative of OpenAI's Images API, with sides in pixels and its own words."""

from __future__ import annotations

import time
from typing import Any

from common.catalog import Route
from common.errors import BadAnswer, ContentRefused, ProviderError
from common.task import Billed, ImageRequest
from common.transport import Answer
from workers.providers.base import Job, Order, Outcome, Picture, Provider, delivered, from_base64

__all__ = ["Together"]

_FORMATS = ("png", "jpeg")
_SCHNELL_STEPS = 4  # what the model is made for; the provider's default is 20, and dearer

# Dollars per million pixels at the usual number of steps. The answer tells no cost; these are the
# list prices of 2026-11.
_PRICES = {"black-forest-labs/FLUX.1-schnell": 0.003}

_PICTURE_HOSTS = (".together.ai", ".together.xyz")


class Together(Provider):
    """`POST {base}/images/generations`, one call for up to four pictures in base64.

    Addresses, which are not asked for, are taken too; what they hold is fetched by `poll`, so that
    a failed download never leads to buying again.
    """

    name = "together"
    auth = ("Authorization", "Bearer ")
    pictures_per_call = 4

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        body = _body(order.request, order.route, order.count, order.first)
        answer = self._api.post(
            "/images/generations",
            body,
            deadline=time.monotonic() + timeout,
            pictures=order.count,
        )
        if not answer.ok:
            raise self._error(answer)
        return _outcome(answer, asked=body)

    def poll(self, job: Job, *, timeout: float) -> Outcome:
        deadline = time.monotonic() + timeout
        places = (
            self._fetch(url, hosts=_PICTURE_HOSTS, deadline=deadline) if url else _unreadable()
            for url in job.state["urls"]
        )
        return delivered(places, job.usage)

    def _error(self, answer: Answer) -> ProviderError:
        error = self._api.error(answer)
        # No code tells a refusal from a wrong field, only the text, in a form nobody promises.
        if answer.status in (400, 422) and "nsfw" in error.message.lower():
            return self._api.error(answer, ContentRefused)
        return error


def _body(request: ImageRequest, route: Route, count: int, first: int) -> dict[str, Any]:
    size = route.upstream_size(request.size)
    width, height = (int(side) for side in size.split("x"))
    body: dict[str, Any] = {
        "model": route.model,
        "prompt": request.prompt,
        "n": count,
        "width": width,
        "height": height,
        "response_format": "base64",
        # The provider's default is jpeg. What we keep should have lost nothing.
        "output_format": request.output_format if request.output_format in _FORMATS else "png",
    }
    if "schnell" in route.model:
        body["steps"] = _SCHNELL_STEPS
    if request.seed is not None:
        body["seed"] = request.seed + first
    if request.negative_prompt:
        body["negative_prompt"] = request.negative_prompt
    return body


def _outcome(answer: Answer, *, asked: dict[str, Any]) -> Outcome:
    body = answer.json()
    told = body.get("data")
    items = told if isinstance(told, list) else []
    usage = _usage(body.get("id"), asked, len(items))
    data = [from_base64(_field(item, "b64_json")) for item in items]
    if any(data):
        return delivered((Picture(each) if each else _unreadable() for each in data), usage)
    links = [_link(_field(item, "url")) for item in items]
    if any(links):
        return Job(usage.get("request_id", "pictures"), {"urls": links}, usage=usage)
    raise _unreadable(billed="yes" if items else "unknown")


def _usage(name: object, asked: dict[str, Any], count: int) -> dict[str, Any]:
    usage: dict[str, Any] = {}
    if isinstance(name, str) and 0 < len(name) <= 200:
        usage["request_id"] = name
    if price := _PRICES.get(asked["model"]):
        dollars = price * count * asked["width"] * asked["height"] / 1_000_000
        usage |= {"cost_usd": round(dollars, 6), "cost_estimated": True}
    return usage


def _field(item: object, name: str) -> object:
    return item.get(name) if isinstance(item, dict) else None


def _link(url: object) -> str:
    """The address, or nothing in its place."""
    return url if isinstance(url, str) and len(url) <= 8000 else ""


def _unreadable(billed: Billed = "yes") -> BadAnswer:
    return BadAnswer("together answered without a picture that could be read.", billed=billed)
