"""Replicate: takes a prediction, is asked about it, and hands out addresses that live an hour."""

from __future__ import annotations

import math
import re
import time
from typing import Any
from urllib.parse import quote

from common.errors import BadAnswer, ContentRefused, JobFailed, JobLost, ProviderError
from common.task import ImageRequest
from common.transport import Answer
from workers.providers.base import (
    Job,
    Order,
    Outcome,
    Picture,
    Provider,
    Stopped,
    delivered,
    nearest_ratio,
)

__all__ = ["Replicate"]

_RATIOS = (
    "1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21",
)  # fmt: skip
_QUARTER_MEGAPIXEL = 512 * 512

_PICTURE_HOSTS = (".replicate.delivery",)
_SHORTEST_LIFE = 5  # seconds, the least that Cancel-After takes

# Dollars per picture. The answer tells no cost; these are the list prices of 2026-11.
_PRICES = {"black-forest-labs/flux-schnell": 0.003}

_AGAINST_THE_RULES = re.compile(r"NSFW|flagged as sensitive|E005")
_WAIT = re.compile(r"resets in ~?(\d{1,4})s")


class Replicate(Provider):
    """`POST {base}/models/{model}/predictions`, then `GET {base}/predictions/{id}`.

    One prediction brings up to four pictures. Addresses of the answers are not used for asking:
    the key stays at the configured server.
    """

    name = "replicate"
    auth = ("Authorization", "Bearer ")
    pictures_per_call = 4
    poll_every = 0.5
    cancels = True

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        answer = self._api.post(
            f"/models/{order.route.model}/predictions",
            {"input": _input(order.request, order.count, order.first)},
            deadline=time.monotonic() + timeout,
            # Bounds what work can cost of which we never learn.
            headers={"Cancel-After": f"{max(_SHORTEST_LIFE, math.ceil(timeout))}s"},
        )
        if not answer.ok:
            raise self._api.error(answer, retry_after=_wait(answer))
        body = answer.json()
        if failure := self._failure(body):
            raise failure
        job_id = body.get("id")
        if not isinstance(job_id, str) or not 0 < len(job_id) <= 200:
            raise BadAnswer("replicate answered without the id of a prediction.")
        # Even when it has succeeded already: a failed download must not lead to buying again.
        return Job(job_id, usage={"request_id": job_id})

    def poll(self, job: Job, *, timeout: float) -> Outcome:
        deadline = time.monotonic() + timeout
        answer = self._api.get(_prediction(job), deadline=deadline)
        if not answer.ok:
            raise JobLost("replicate does not know the prediction any more.")
        body = answer.json()
        if failure := self._failure(body):
            raise failure
        match body:
            case {"status": "succeeded", "output": [_, *_] as links}:
                places = (self._picture(link, body, deadline) for link in links)
                return delivered(places, job.usage | _usage(body, len(links)))
            case {"status": "succeeded", "data_removed": True}:
                raise JobLost("replicate has deleted the pictures already.")
            case {"status": "succeeded"}:
                raise _nameless()
        return job  # `starting`, `processing`, and any state nobody has told us of

    def cancel(self, job: Job, *, timeout: float) -> Stopped | None:
        deadline = time.monotonic() + timeout
        answer = self._api.post(f"{_prediction(job)}/cancel", {}, deadline=deadline)
        if answer.status == 404:
            return None
        if not answer.ok:
            raise self._api.error(answer)
        match answer.json().get("status"):
            case "canceled":
                return "unknown"
            case "aborted":
                return "no"
            case "succeeded" | "failed":
                return None
        return "asked"

    def _picture(
        self, link: object, body: dict[str, Any], deadline: float
    ) -> Picture | ProviderError:
        if not isinstance(link, str):
            return _nameless()
        return self._fetch(link, hosts=_PICTURE_HOSTS, deadline=deadline, seed=_seed(body))

    def _failure(self, body: dict[str, Any]) -> ProviderError | None:
        """Why there will be no picture; None while there may be one."""
        match body:
            case {"status": "failed", "error": str(text)} if _AGAINST_THE_RULES.search(text):
                return ContentRefused(self._api.scrub(f"replicate refused it: {text}"))
            case {"status": "failed"}:
                text = f"replicate could not carry out the prediction: {body.get('error')}"
                return JobFailed(self._api.scrub(text))
            case {"status": "canceled"}:
                return JobFailed("replicate says that the prediction was cancelled.")
            case {"status": "aborted"}:
                text = "replicate says that the prediction was ended before it began."
                return JobFailed(text, billed="no")
        return None


def _input(request: ImageRequest, count: int, first: int) -> dict[str, Any]:
    width, height = request.pixels
    ratio = request.aspect_ratio
    picture_format = request.output_format or "png"
    fields: dict[str, Any] = {
        "prompt": request.prompt,
        "aspect_ratio": ratio if ratio in _RATIOS else nearest_ratio(width, height, _RATIOS),
        "megapixels": "0.25" if width * height <= _QUARTER_MEGAPIXEL else "1",
        "num_outputs": count,
        # The provider's default is webp. What we keep should have lost nothing.
        "output_format": "jpg" if picture_format == "jpeg" else picture_format,
    }
    if request.seed is not None:
        # The quick way does not make the same picture of the same seed.
        fields |= {"seed": request.seed + first, "go_fast": False}
    return fields


def _nameless() -> BadAnswer:
    text = "replicate calls the prediction a success, but names no picture."
    return BadAnswer(text, billed="yes")


def _prediction(job: Job) -> str:
    return f"/predictions/{quote(job.id, safe='')}"


def _wait(answer: Answer) -> float | None:
    """Seconds, which the provider tells in words."""
    found = _WAIT.search(str(answer.json().get("detail"))) if answer.status == 429 else None
    return float(found[1]) if found else None


def _usage(body: dict[str, Any], count: int) -> dict[str, Any]:
    price = _PRICES.get(str(body.get("model")))
    return {"cost_usd": round(price * count, 6), "cost_estimated": True} if price else {}


def _seed(body: dict[str, Any]) -> int | None:
    match body:
        case {"input": {"seed": int(seed)}}:
            return seed
    return None
