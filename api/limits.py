"""The limits of the caller's key, as answers tell of them."""

from __future__ import annotations

import math

from flask import Response, after_this_request

from api.errors import ApiError
from common.errors import LimitExceeded
from common.limits import Limits, RequestsLeft
from common.task import ImageRequest

__all__ = ["refusal", "require_model", "tell_requests_left"]


def tell_requests_left(left: RequestsLeft | None) -> None:
    """Have the answer to the current request, an error as well, say what is left, if it is limited.

    In the headers of OpenAI's API (platform.openai.com/docs/guides/rate-limits), where
    the reset is a duration such as `1s` or `6m0s`.
    """
    if left is None:
        return
    headers = {
        "X-RateLimit-Limit-Requests": str(left.limit),
        "X-RateLimit-Remaining-Requests": str(left.remaining),
        "X-RateLimit-Reset-Requests": _duration(left.reset),
    }

    @after_this_request
    def add(response: Response) -> Response:
        response.headers.update(headers)
        return response


def refusal(error: LimitExceeded, limits: Limits, request: ImageRequest, *, again: int) -> ApiError:
    """The answer to a request that a limit is in the way of.

    `again` is in how many seconds trying again makes sense where nobody knows. What takes until
    the next day or month is 402, not 429, which OpenAI's SDK would repeat at once.
    """
    match error.limit:
        case "requests_per_minute":
            code = "rate_limit_exceeded"
            text = f"This key may make {limits.requests_per_minute} requests per minute."
        case "tasks_in_flight":
            code = "concurrency_limit_exceeded"
            text = (
                f"This key may have {limits.tasks_in_flight} tasks in flight, and has "
                f"{error.used:g}; the next can be submitted when one of them is final."
            )
        case "images_per_day":
            code = "quota_exceeded"
            text = (
                f"This key may make {limits.images_per_day} images a day (UTC), and has made "
                f"{error.used:g}; {request.n} more would be too many."
            )
        case "usd_per_month":
            code = "quota_exceeded"
            text = (
                f"This key may spend {limits.usd_per_month:.10g} US dollars a month (UTC), and has "
                f"spent {error.used:.10g}; this request could exceed it."
            )
    wait = again if error.wait is None else max(1, math.ceil(error.wait))
    if code == "quota_exceeded":
        return ApiError(
            code,
            text,
            limit=error.limit,
            resets_in=wait,
            retryable=False,
            hint="GET /v1/usage tells what is used and what is left.",
        )
    return ApiError(code, text, limit=error.limit, retry_after=wait, retryable=True)


def require_model(model_id: str, limits: Limits) -> None:
    """Raise ApiError for a model that the key must not use."""
    if not limits.allows(model_id):
        raise ApiError(
            "model_not_allowed",
            f"This key may not use {model_id}; it may use {', '.join(limits.models)}.",
            param="model",
        )


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    return f"{whole}s" if whole < 60 else f"{whole // 60}m{whole % 60}s"
