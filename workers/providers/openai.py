"""OpenAI's Images API, and the servers that speak it too: answers with the pictures themselves."""

from __future__ import annotations

import time
from typing import Any

from common.catalog import Route
from common.errors import (
    BadAnswer,
    ContentRefused,
    ModelNotServed,
    NotAuthorised,
    OutOfCredit,
    ProviderError,
    RateLimited,
    Unavailable,
)
from common.task import Billed, Operation
from common.transport import Answer
from workers.providers.base import (
    Job,
    Order,
    Outcome,
    Picture,
    Provider,
    anonymous,
    delivered,
    from_base64,
)

__all__ = ["Compatible", "OpenAI"]

# The codes of `error` that say more than the status, and the statuses they are believed with.
_CODES: dict[str, type[ProviderError]] = {
    "moderation_blocked": ContentRefused,
    "content_policy_violation": ContentRefused,
    "contentFilter": ContentRefused,
    "invalid_api_key": NotAuthorised,
    "model_not_found": ModelNotServed,
    "rate_limit_exceeded": RateLimited,
    "slow_down": RateLimited,
    "insufficient_quota": OutOfCredit,
    "insufficient_user_quota": OutOfCredit,
    "credit_balance_exhausted": OutOfCredit,
    "organization_spend_limit_exceeded": OutOfCredit,
    "project_spend_limit_exceeded": OutOfCredit,
    "organization_usage_limit_exceeded": OutOfCredit,
    "billing_hard_limit_reached": OutOfCredit,
}

# Dollars per million tokens of text input, image input and image output. OpenAI reports tokens,
# not money; these are its list prices of 2026-11, by the beginning of the model's name.
_PRICES = {
    "gpt-image-2-": (5.0, 8.0, 30.0),
    "gpt-image-2.5-": (5.0, 8.0, 30.0),
    "gpt-image-2.6-": (5.0, 8.0, 30.0),
}

# Other servers hand out addresses on picture hosts of their own choosing.
_PICTURE_HOSTS = ("*",)


_PATHS: dict[Operation, str] = {
    "generation": "/images/generations",
    "edit": "/images/edits",
    "variation": "/images/variations",
}
# What the forms do not have that the JSON of a generation does.
_UNKNOWN: dict[Operation, frozenset[str]] = {
    "generation": frozenset(),
    "edit": frozenset({"moderation"}),
    "variation": frozenset(
        {"prompt", "quality", "background", "output_format", "output_compression", "moderation"}
    ),
}


class OpenAI(Provider):
    """`POST {base}/images/generations`, `edits` or `variations`, one call for up to ten pictures.

    GPT image models always send base64. A compatible server may send addresses instead; what they
    hold is fetched by `poll`, so that a failed download never leads to buying again.
    """

    name = "openai"
    auth = ("Authorization", "Bearer ")
    pictures_per_call = 10

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        answer = self._api.post(
            _PATHS[order.request.operation],
            self._body(order) | _files(order),
            deadline=time.monotonic() + timeout,
            pictures=order.count,
            multipart=order.request.operation != "generation",
        )
        if not answer.ok:
            raise self._error(answer)
        return self._outcome(answer, order.route)

    def poll(self, job: Job, *, timeout: float) -> Outcome:
        deadline = time.monotonic() + timeout
        places = (
            self._fetch(hosts=_PICTURE_HOSTS, deadline=deadline, **entry)
            if entry
            else self._unreadable()
            for entry in job.state["pictures"]
        )
        return delivered(places, job.usage)

    @property
    def _is_openai(self) -> bool:
        """Whether this is the original, whose newer parameters a strict imitation refuses."""
        host = self._api.host
        return self._api.sandbox or host == "api.openai.com" or host.endswith(".api.openai.com")

    def _body(self, order: Order) -> dict[str, Any]:
        drops = {*order.route.drops, *_UNKNOWN[order.request.operation]}
        return {
            name: value
            for name, value in self._fields(order).items()
            if value is not None and name not in drops
        }

    def _fields(self, order: Order) -> dict[str, Any]:
        request, route = order.request, order.route
        fields = {
            "model": route.model,
            "prompt": request.prompt,
            "n": order.count,
            "size": route.upstream_size(request.size),
            "quality": route.quality.get(request.quality or "standard", request.quality),
            "background": request.background,
            "output_format": request.output_format,
            "output_compression": request.output_compression,
            "moderation": request.moderation,
            "input_fidelity": request.input_fidelity,
        }
        if self._is_openai and request.user is not None:
            fields["safety_identifier"] = anonymous(request.user)
        if not self._is_openai and not route.model.startswith(("gpt-image", "chatgpt-image")):
            # The default is `url` in some servers and refused by others; GPT image models, also
            # behind a reseller, refuse the parameter.
            fields["response_format"] = "b64_json"
        return fields

    def _error(self, answer: Answer) -> ProviderError:
        body = answer.json()
        error = body.get("error")
        told = error if isinstance(error, dict) else body
        words = [word for word in (told.get("code"), told.get("type")) if isinstance(word, str)]
        if answer.status == 503 and "server_is_overloaded" in words:
            return self._api.error(answer, Unavailable)
        kinds = [_CODES[word] for word in words if word in _CODES] if answer.status < 500 else []
        kind = kinds[0] if kinds else None
        if answer.status == 429 and answer.header("x-should-retry") == "false":
            # Its own clients then give up at once: more is spent than a wait can mend.
            kind = OutOfCredit
        return self._api.error(answer, kind)

    def _outcome(self, answer: Answer, route: Route) -> Outcome:
        body = answer.json()
        data = body.get("data")
        told = data if isinstance(data, list) else []
        items = [item if isinstance(item, dict) else {} for item in told]
        usage = self._usage(answer, body, route)
        pictures = [_picture(item) for item in items]
        if any(pictures):
            return delivered((picture or self._unreadable() for picture in pictures), usage)
        links = [self._link(item) for item in items]
        if any(links):
            return Job(usage.get("request_id", "pictures"), {"pictures": links}, usage=usage)
        raise self._unreadable(billed="yes" if items or "tokens" in usage else "unknown")

    def _unreadable(self, billed: Billed = "yes") -> BadAnswer:
        text = f"{self.name} answered without a picture that could be read."
        return BadAnswer(text, billed=billed)

    def _link(self, item: dict[str, Any]) -> dict[str, str]:
        """Where a picture is, and what is said of it; empty when that is not told."""
        url = item.get("url")
        if not isinstance(url, str) or not 0 < len(url) <= 8000:
            return {}
        link = {"url": self._api.absolute(url)}
        prompt = _revised_prompt(item)
        return link | {"revised_prompt": prompt} if prompt else link

    def _usage(self, answer: Answer, body: dict[str, Any], route: Route) -> dict[str, Any]:
        usage: dict[str, Any] = {}
        if request_id := answer.header("x-request-id"):
            usage["request_id"] = request_id
        told = body.get("usage")
        if not isinstance(told, dict):
            return usage
        details = told.get("input_tokens_details")
        counts = {
            "input": _count(told.get("input_tokens")),
            "input_image": _count(details.get("image_tokens")) if isinstance(details, dict) else 0,
            "output": _count(told.get("output_tokens")),
        }
        if not counts["input"] and not counts["output"]:
            return usage
        usage["tokens"] = counts
        prices = (price for start, price in _PRICES.items() if f"{route.model}-".startswith(start))
        if self._is_openai and (price := next(prices, None)):
            text, image, output = price
            millionths = (
                (counts["input"] - counts["input_image"]) * text
                + counts["input_image"] * image
                + counts["output"] * output
            )
            usage |= {"cost_usd": round(millionths / 1_000_000, 6), "cost_estimated": True}
        return usage


class Compatible(OpenAI):
    """A server of somebody's own that speaks the same, or an aggregator in front of others.

    It serves models that OpenAI does not have, or not any more, and some of them take more.
    """

    name = "compatible"

    @property
    def _is_openai(self) -> bool:
        return False

    def _fields(self, order: Order) -> dict[str, Any]:
        request = order.request
        return super()._fields(order) | {
            "style": request.style,
            "seed": None if request.seed is None else request.seed + order.first,
            "negative_prompt": request.negative_prompt,
        }


def _files(order: Order) -> dict[str, Any]:
    images = [image.file(f"image-{at}") for at, image in enumerate(order.images)]
    files: dict[str, Any] = {}
    if len(images) == 1:
        files["image"] = images[0]
    elif images:
        files["image[]"] = images  # as OpenAI's own clients name them
    if order.mask is not None:
        files["mask"] = order.mask.file("mask")
    return files


def _picture(item: dict[str, Any]) -> Picture | None:
    """The picture an item carries in itself, as base64 with or without `data:`, in either field."""
    for name in ("b64_json", "url"):
        text = item.get(name)
        if name == "url" and not str(text).startswith("data:"):
            continue
        if data := from_base64(text):
            return Picture(data, revised_prompt=_revised_prompt(item))
    return None


def _revised_prompt(item: dict[str, Any]) -> str | None:
    text = item.get("revised_prompt")
    return text if isinstance(text, str) and text else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
