"""Black Forest Labs (FLUX): takes a job, is asked about it, and hands out a short-lived address."""

from __future__ import annotations

import math
import time
from typing import Any
from urllib.parse import quote

from common.catalog import Route
from common.errors import BadAnswer, ContentRefused, JobFailed, JobLost
from common.task import ImageRequest
from common.transport import Answer
from workers.providers.base import Job, Order, Outcome, Picture, Pictures, Provider, nearest_ratio

__all__ = ["BlackForestLabs"]

_RATIOS = (
    "21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16", "9:21",
)  # fmt: skip

# A job lives on one regional host, named by the answer, and takes a moment to be known there.
_POLLING_HOSTS = (".bfl.ai",)
_PICTURE_HOSTS = (".bfl.ai", "bfldeliveryprod.blob.core.windows.net")
_NOT_FOUND_LIMIT = 5  # polls in a row

_POLICY = "content_policy_violation"

_RETRY_AFTER = 5.0  # seconds, when a 429 names none
_DOLLARS_PER_CREDIT = 0.01


class BlackForestLabs(Provider):
    """`POST {base}/v1/{model}`, one picture per job; then `GET polling_url` until it is there."""

    name = "bfl"
    auth = ("x-key", "")

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        answer = self._api.post(
            f"/v1/{order.route.model}",
            _body(order.request, order.route, order.first) | _images(order),
            deadline=time.monotonic() + timeout,
        )
        if not answer.ok:
            raise self._api.error(answer, retry_after=_wait(answer))
        body = answer.json()
        job_id = body.get("id")
        if not isinstance(job_id, str) or not 0 < len(job_id) <= 200:
            raise BadAnswer("bfl answered without the id of a job.")
        url = body.get("polling_url")
        state = {"polling_url": url} if isinstance(url, str) and len(url) <= 2000 else {}
        return Job(job_id, state, usage={"request_id": job_id} | _usage(body))

    def poll(self, job: Job, *, timeout: float) -> Outcome:
        deadline = time.monotonic() + timeout
        url = job.state.get("polling_url", "")
        if not self._api.admits(url, hosts=_POLLING_HOSTS):
            url = f"/v1/get_result?id={quote(job.id, safe='')}"
        answer = self._api.get(url, hosts=_POLLING_HOSTS, deadline=deadline)
        body = answer.json() if answer.ok else {"status": "Task not found"}
        usage = job.usage | _usage(body)
        match body:
            case {"status": "Ready", "result": {"sample": str(sample), **result}}:
                data = self._api.download(sample, hosts=_PICTURE_HOSTS, deadline=deadline)
                return Pictures((Picture(data, seed=_integer(result.get("seed"))),), usage)
            case {"status": "Ready"}:
                raise BadAnswer("bfl calls the job ready, but names no picture.", billed="yes")
            case {"status": "Request Moderated" | "Content Moderated" as state}:
                what = "prompt" if state == "Request Moderated" else "picture"
                raise ContentRefused(self._text(f"bfl refused the {what}", _reasons(body)))
            case {"status": "Error" | "Failed"} if _POLICY in _reasons(body):
                raise ContentRefused(self._text("bfl refused it", _reasons(body)))
            case {"status": "Error" | "Failed"}:
                raise JobFailed(self._text("bfl could not carry out the job", _reasons(body)))
            case {"status": "Task not found"}:
                return self._not_found(job)
        # `Pending`, and any state nobody has told us of, goes on until the task's deadline.
        state = {name: job.state[name] for name in job.state if name != "not_found"}
        return Job(job.id, state, progress=_percent(body.get("progress")), usage=usage)

    def _not_found(self, job: Job) -> Job:
        times = job.state.get("not_found", 0) + 1
        if times > _NOT_FOUND_LIMIT:
            raise JobLost("bfl does not know the job any more.")
        return Job(job.id, job.state | {"not_found": times}, job.progress, job.usage)

    def _text(self, what: str, reasons: str) -> str:
        return self._api.scrub(f"{what}: {reasons}" if reasons else f"{what}.")


def _body(request: ImageRequest, route: Route, first: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "prompt": request.prompt,
        # The provider's default is jpeg. What we keep should have lost nothing.
        "output_format": request.output_format or "png",
    }
    size = route.upstream_size(request.size)
    width, height = (int(side) for side in size.split("x"))
    if "ultra" in route.model or "kontext" in route.model:
        body["aspect_ratio"] = request.aspect_ratio or nearest_ratio(width, height, _RATIOS)
    else:
        body |= {"width": width, "height": height}
    if request.seed is not None:
        body["seed"] = request.seed + first
    return body


def _images(order: Order) -> dict[str, str]:
    """The pictures to start from: `input_image`, `input_image_2` and so on."""
    numbers = ("", *(f"_{number}" for number in range(2, len(order.images) + 1)))
    return {
        f"input_image{number}": image.base64
        for number, image in zip(numbers, order.images, strict=False)
    }


def _wait(answer: Answer) -> float | None:
    if answer.status != 429:
        return None
    told = answer.json().get("retry_after")
    return float(told) if isinstance(told, int | float) and 0 <= told <= 3600 else _RETRY_AFTER


def _usage(body: dict[str, Any]) -> dict[str, Any]:
    credits_used = body.get("cost")
    if isinstance(credits_used, int | float) and math.isfinite(credits_used):
        return {"cost_usd": round(credits_used * _DOLLARS_PER_CREDIT, 6)}
    return {}


def _reasons(body: dict[str, Any]) -> str:
    for told in (body.get("details"), body.get("result"), body):
        match told:
            case {"Moderation Reasons": [_, *_] as reasons}:
                return ", ".join(str(reason) for reason in reasons)
            case {"error": str(code), "message": str(text)}:
                return f"{code}: {text}"
            case {"error": str(text)} | {"message": str(text)} | str(text):
                return text
    return ""


def _percent(progress: object) -> int | None:
    """The provider counts to 1; only a finished job is at 100."""
    if not isinstance(progress, int | float) or not 0 <= progress <= 1:
        return None
    return min(99, int(progress * 100))


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
