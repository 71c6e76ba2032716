"""Hugging Face's own inference (hf-inference): one picture per call, as the body of the answer."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from common.catalog import Route
from common.errors import BadAnswer, ProviderError, Unavailable
from common.task import ImageRequest
from common.transport import Answer
from workers.providers.base import Order, Outcome, Picture, Pictures, Provider

__all__ = ["HuggingFace"]

_SCHNELL_STEPS = 4  # what the model is made for
_LONGEST_WAIT = 3600.0  # seconds


class HuggingFace(Provider):
    """`POST {base}/models/{model}`, which answers with the bytes of the picture.

    The form of errors is not documented: whatever is no picture is read as one, even with a 200.
    """

    name = "huggingface"
    auth = ("Authorization", "Bearer ")

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        answer = self._api.post(
            f"/models/{quote(order.route.model)}",
            {
                "inputs": order.request.prompt,
                "parameters": _parameters(order.request, order.route, order.first),
            },
            deadline=time.monotonic() + timeout,
            pictures=1,
            headers={
                "Accept": "image/jpeg" if order.request.output_format == "jpeg" else "image/png"
            },
        )
        if not answer.ok:
            raise self._error(answer)
        if not _is_picture(answer):
            raise self._api.error(answer, BadAnswer)
        request_id = answer.header("x-request-id")
        return Pictures((Picture(answer.body),), {"request_id": request_id} if request_id else {})

    def _error(self, answer: Answer) -> ProviderError:
        if answer.status == 503:
            # Only a model that is still being loaded has certainly done nothing.
            match answer.json().get("estimated_time"):
                case int() | float() as wait if 0 <= wait <= _LONGEST_WAIT:
                    return self._api.error(answer, Unavailable, retry_after=float(wait))
        return self._api.error(answer)


def _parameters(request: ImageRequest, route: Route, first: int) -> dict[str, Any]:
    size = route.upstream_size(request.size)
    width, height = (int(side) for side in size.split("x"))
    parameters: dict[str, Any] = {"width": width, "height": height}
    if "schnell" in route.model:
        parameters["num_inference_steps"] = _SCHNELL_STEPS
    if request.seed is not None:
        parameters["seed"] = request.seed + first
    if request.negative_prompt:
        parameters["negative_prompt"] = request.negative_prompt
    return parameters


def _is_picture(answer: Answer) -> bool:
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    named = kind.startswith("image/") or kind in ("", "application/octet-stream")
    return named and bool(answer.body) and not answer.json()
