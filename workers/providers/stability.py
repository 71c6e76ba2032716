"""Stability AI: takes a form, and answers with one picture, blurred if it was not to be shown."""

from __future__ import annotations

import time
from typing import Any

from common.catalog import Route
from common.errors import BadAnswer, ContentRefused, JobFailed, ProviderError
from common.task import ImageRequest
from common.transport import Answer
from workers.providers.base import (
    Order,
    Outcome,
    Picture,
    Pictures,
    Provider,
    anonymous,
    from_base64,
    nearest_ratio,
)

__all__ = ["Stability"]

_RATIOS = ("21:9", "16:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21")
_LARGEST_SEED = 4_294_967_294  # and 0 asks for a random one

_STRENGTH = 0.7  # of an edit that names none; the provider has no default

_TIMEOUT = 60.0  # seconds for which everything is turned away after too many calls

# Stability's price list of 2026-11, in credits; answers do not tell.
_CREDITS = {
    "sd3.5-large": 6.5,
    "sd3.5-large-turbo": 4.0,
    "sd3.5-medium": 3.5,
    "sd3.5-flash": 2.5,
}
_DOLLARS_PER_CREDIT = 0.01


class Stability(Provider):
    """`POST {base}/v2beta/stable-image/generate/sd3`, a form, for one picture of a megapixel.

    The shape is one of nine; the size is the provider's own.
    """

    name = "stability"
    auth = ("Authorization", "Bearer ")

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        user = (
            {"stability-client-user-id": anonymous(order.request.user)}
            if order.request.user
            else {}
        )
        answer = self._api.post(
            "/v2beta/stable-image/generate/sd3",
            _fields(order.request, order.route, order.first) | _image(order),
            deadline=time.monotonic() + timeout,
            pictures=1,
            multipart=True,
            headers={"Accept": "application/json"} | user,
        )
        if not answer.ok:
            raise self._error(answer)
        data, finish_reason, seed = _read(answer)
        if finish_reason == "CONTENT_FILTERED":
            raise ContentRefused(
                "stability refused the picture after making it: CONTENT_FILTERED.",
                request_id=answer.header("x-request-id"),
            )
        if data is None:
            raise BadAnswer("stability answered without a picture that could be read.")
        return Pictures((Picture(data, seed=seed),), _usage(answer, order.route))

    def _error(self, answer: Answer) -> ProviderError:
        match answer.status, answer.json().get("name"):
            case 403 | 422, "content_moderation" | "public_figure":
                return self._api.error(answer, ContentRefused, billed="no")
            case 500, "internal_error":
                # Its own word for work that failed, which is promised to be free.
                return self._api.error(answer, JobFailed, billed="no")
            case 429, _:
                return self._api.error(answer, retry_after=_TIMEOUT)
        return self._api.error(answer)


def _fields(request: ImageRequest, route: Route, first: int) -> dict[str, Any]:
    size = route.upstream_size(request.size)
    width, height = (int(side) for side in size.split("x"))
    fields: dict[str, Any] = {
        "model": route.model,
        "prompt": request.prompt,
        "output_format": request.output_format or "png",
    }
    if request.operation == "generation":  # else it has the shape of the picture it starts from
        fields["aspect_ratio"] = nearest_ratio(width, height, _RATIOS)
    if request.negative_prompt:
        fields["negative_prompt"] = request.negative_prompt
    if request.seed is not None:
        fields["seed"] = (request.seed + first) % (_LARGEST_SEED + 1) or _LARGEST_SEED
    return fields


def _image(order: Order) -> dict[str, Any]:
    if not order.images:
        return {}
    strength = order.request.strength
    return {
        "mode": "image-to-image",
        "image": order.images[0].file("image"),
        "strength": _STRENGTH if strength is None else strength,
    }


def _read(answer: Answer) -> tuple[bytes | None, object, int | None]:
    """The picture, how it ended, and its seed: in JSON as asked for, or as bytes with headers."""
    if answer.headers.get("Content-Type", "").startswith("image/"):
        seed = _seed(answer.header("seed"))
        return answer.body or None, answer.header("finish-reason"), seed
    body = answer.json()
    return from_base64(body.get("image")), body.get("finish_reason"), _seed(body.get("seed"))


def _seed(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else None


def _usage(answer: Answer, route: Route) -> dict[str, Any]:
    usage: dict[str, Any] = {}
    if request_id := answer.header("x-request-id"):
        usage["request_id"] = request_id
    # The older names are served by the models that followed them.
    if credits_used := _CREDITS.get(route.model.replace("sd3-", "sd3.5-")):
        dollars = round(credits_used * _DOLLARS_PER_CREDIT, 6)
        usage |= {"cost_usd": dollars, "cost_estimated": True}
    return usage
