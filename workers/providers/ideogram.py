"""Ideogram: answers with short-lived addresses of pictures, but for those it thinks unsafe."""

from __future__ import annotations

import math
import time
from typing import Any

from common.catalog import Route
from common.errors import BadAnswer, ContentRefused, ProviderError
from common.task import Billed, ImageRequest
from common.transport import Answer
from workers.providers.base import Job, Order, Outcome, Picture, Provider, delivered

__all__ = ["Ideogram"]

# What the model can draw, width by height; it knows no others, and none of them is small.
_RESOLUTIONS = (
    "512x1536", "576x1408", "576x1472", "576x1536", "640x1344", "640x1408", "640x1472",
    "640x1536", "704x1152", "704x1216", "704x1280", "704x1344", "704x1408", "704x1472",
    "736x1312", "768x1088", "768x1216", "768x1280", "768x1344", "800x1280", "832x960",
    "832x1024", "832x1088", "832x1152", "832x1216", "832x1248", "864x1152", "896x960",
    "896x1024", "896x1088", "896x1120", "896x1152", "960x832", "960x896", "960x1024",
    "960x1088", "1024x832", "1024x896", "1024x960", "1024x1024", "1088x768", "1088x832",
    "1088x896", "1088x960", "1120x896", "1152x704", "1152x832", "1152x864", "1152x896",
    "1216x704", "1216x768", "1216x832", "1248x832", "1280x704", "1280x768", "1280x800",
    "1312x736", "1344x640", "1344x704", "1344x768", "1408x576", "1408x640", "1408x704",
    "1472x576", "1472x640", "1472x704", "1536x512", "1536x576", "1536x640",
)  # fmt: skip

_SEEDS = 2**31
_NOT_OF_AN_EDIT = ("resolution", "negative_prompt", "image_weight")
_PICTURE_HOSTS = (".ideogram.ai",)

# Dollars per picture by rendering speed, from the price list of 2026-11; answers do not tell.
_PRICES = {"TURBO": 0.03, "DEFAULT": 0.06, "QUALITY": 0.09}


class Ideogram(Provider):
    """`POST {base}/v1/{model}/generate`, one call for up to eight pictures.

    A picture to start from goes to `remix`, and to `edit` when a mask says what is made anew.

    What the addresses hold is fetched by `poll`, so that a failed download never leads to buying
    again. A job remembers which pictures the provider kept back as unsafe.
    """

    name = "ideogram"
    auth = ("Api-Key", "")
    pictures_per_call = 8
    mask_form = "black"
    poll_every = 0.0  # the pictures are there when their addresses are

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        what = "edit" if order.mask else "remix" if order.images else "generate"
        body = _body(order.request, order.route, order.count, order.first) | _images(order)
        if what == "edit":  # the result is of the picture's size, and that is all it can be told
            body = {name: body[name] for name in body if name not in _NOT_OF_AN_EDIT}
        answer = self._api.post(
            f"/v1/{order.route.model}/{what}",
            body,
            deadline=time.monotonic() + timeout,
            multipart=what != "generate",
        )
        if not answer.ok:
            raise self._error(answer)
        return self._outcome(answer, speed=body["rendering_speed"])

    def poll(self, job: Job, *, timeout: float) -> Outcome:
        deadline = time.monotonic() + timeout
        places = (self._picture(entry, deadline) for entry in job.state["pictures"])
        return delivered(places, job.usage)

    def _picture(self, entry: dict[str, Any], deadline: float) -> Picture | ProviderError:
        match entry:
            case {"url": str(url), **about}:
                return self._fetch(url, hosts=_PICTURE_HOSTS, deadline=deadline, **about)
            case {"is_image_safe": False}:
                return _unsafe()
        return _without_address()

    def _error(self, answer: Answer) -> ProviderError:
        # The only error with a published body; other statuses explain themselves.
        match answer.status, answer.json():
            case 422, {"error": str(text)} if "safety" in text.lower():
                return self._api.error(answer, ContentRefused)
        return self._api.error(answer)

    def _outcome(self, answer: Answer, *, speed: str) -> Outcome:
        told = answer.json().get("data")
        items = told if isinstance(told, list) else []
        entries = [self._entry(item if isinstance(item, dict) else {}) for item in items]
        if any("url" in entry for entry in entries):
            return Job("pictures", {"pictures": entries}, usage=_usage(speed, len(items)))
        if {"is_image_safe": False} in entries:
            raise _unsafe()
        raise _without_address(billed="yes" if items else "unknown")

    def _entry(self, item: dict[str, Any]) -> dict[str, Any]:
        """What a job has to remember of a picture."""
        if item.get("is_image_safe") is False:
            return {"is_image_safe": False}
        url = item.get("url")
        if not isinstance(url, str) or not 0 < len(url) <= 8000:
            return {}
        link: dict[str, Any] = {"url": self._api.absolute(url)}
        prompt, seed = item.get("prompt"), item.get("seed")
        if isinstance(prompt, str) and prompt:
            link["revised_prompt"] = prompt
        if isinstance(seed, int) and not isinstance(seed, bool):
            link["seed"] = seed
        return link


def _unsafe() -> ContentRefused:
    return ContentRefused("ideogram refused the picture after making it: is_image_safe is false.")


def _without_address(billed: Billed = "yes") -> BadAnswer:
    return BadAnswer("ideogram answered without the address of a picture.", billed=billed)


def _body(request: ImageRequest, route: Route, count: int, first: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "prompt": request.prompt,
        "resolution": _resolution(route.upstream_size(request.size)),
        "rendering_speed": route.quality.get(request.quality or "standard", "DEFAULT"),
        "num_images": count,
    }
    if request.negative_prompt:
        body["negative_prompt"] = request.negative_prompt
    if request.seed is not None:
        body["seed"] = (request.seed + first) % _SEEDS
    return body


def _images(order: Order) -> dict[str, Any]:
    files: dict[str, Any] = {}
    if order.images:
        files["image"] = order.images[0].file("image")
    if order.mask:
        files["mask"] = order.mask.file("mask")
    if order.images and order.request.strength is not None:
        # It wants to be told the contrary: how much of the picture is kept, 1 to 100.
        files["image_weight"] = max(1, round(100 * (1 - order.request.strength)))
    return files


def _usage(speed: str, count: int) -> dict[str, Any]:
    # Counts those kept back as well: whether they are charged is not published.
    if (price := _PRICES.get(speed)) is None:
        return {}
    return {"cost_usd": round(price * count, 6), "cost_estimated": True}


def _resolution(size: str) -> str:
    """The size itself where the model has it, else the one most like it: in shape, then in area."""
    if size in _RESOLUTIONS:
        return size
    width, height = map(int, size.split("x"))

    def distance(resolution: str) -> tuple[float, float]:
        across, down = map(int, resolution.split("x"))
        shape = abs(math.log(width / height) - math.log(across / down))
        return round(shape, 6), abs(math.log(width * height) - math.log(across * down))

    return min(_RESOLUTIONS, key=distance)
