"""Together AI: a close relative of OpenAI's Images API, with sides in pixels and its own words."""

from __future__ import annotations

import time
from typing import Any

from common.catalog import Route
from common.errors import BadAnswer, ContentRefused, ProviderError
from common.task import ImageRequest
from workers.providers.base import Job, Order, Outcome, Picture, Pictures, Provider, from_base64
from workers.providers.transport import Answer

__all__ = ["Together"]

_FORMATS = ("png", "jpeg")
_SCHNELL_STEPS = 4  # what the model is made for; the provider's default is 20, and dearer
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
        answer = self._api.post(
            "/images/generations",
            _body(order.request, order.route, order.count, order.first),
            deadline=time.monotonic() + timeout,
            pictures=order.count,
        )
        if not answer.ok:
            raise self._error(answer)
        return _outcome(answer)

    def poll(self, job: Job, *, timeout: float) -> Outcome:
        deadline = time.monotonic() + timeout
        pictures = tuple(
            Picture(self._api.download(url, hosts=_PICTURE_HOSTS, deadline=deadline))
            for url in job.state["urls"]
        )
        return Pictures(pictures, job.usage)

    def _error(self, answer: Answer) -> ProviderError:
        # No code tells a refusal from a wrong field, only the text.
        match answer.status, answer.json():
            case 400 | 422, {"error": {"message": str(text)}} if "nsfw" in text.lower():
                return self._api.error(answer, ContentRefused)
        return self._api.error(answer)


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


def _outcome(answer: Answer) -> Outcome:
    body = answer.json()
    told = body.get("data")
    items = [item for item in told if isinstance(item, dict)] if isinstance(told, list) else []
    name = body.get("id")
    usage = {"request_id": name} if isinstance(name, str) and 0 < len(name) <= 200 else {}
    pictures = tuple(Picture(d) for item in items if (d := from_base64(item.get("b64_json"))))
    if pictures:
        return Pictures(pictures, usage)
    links = [item["url"] for item in items if _is_link(item.get("url"))]
    if links:
        return Job(usage.get("request_id", "pictures"), {"urls": links}, usage=usage)
    raise BadAnswer(
        "together answered without a picture that could be read.",
        billed="yes" if items else "unknown",
    )


def _is_link(url: object) -> bool:
    return isinstance(url, str) and 0 < len(url) <= 8000
