"""fal: takes a request into its queue, says when it is over, and then what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from common.catalog import Route
from common.errors import (
    BadAnswer,
    ContentRefused,
    JobFailed,
    JobLost,
    OutOfCredit,
    ProviderError,
    Refused,
    Unavailable,
)
from common.task import Billed, ImageRequest
from common.transport import Answer
from workers.providers.base import (
    Job,
    Order,
    Outcome,
    Picture,
    Pictures,
    Provider,
    Stopped,
    delivered,
    from_base64,
)

__all__ = ["Fal"]

_API_HOSTS = (".fal.run",)
_PICTURE_HOSTS = (".fal.media",)
_URLS = ("status_url", "response_url", "cancel_url")

# Statuses with which the place of a result may tell how the work ended.
_VERDICTS = (400, 404, 410, 422, 499, 500, 503, 504)

# Troubles of the work itself, whatever the status that they come with.
_FAILURES = {
    "no_media_generated",
    "generation_timeout",
    "downstream_service_error",
    "downstream_service_unavailable",
    "internal_server_error",
}

# Dollars per megapixel, of which each picture has a whole number. The answer tells no cost;
# these are the list prices of 2026-11.
_PRICES = {"fal-ai/flux/schnell": 0.003}
_MEGAPIXEL = 1024 * 1024


class Fal(Provider):
    """`POST {base}/{model}`, then `GET status_url`, and when that is over `GET response_url`.

    One request brings up to four pictures. It is over also when it has failed: only the place of
    its result knows.
    """

    name = "fal"
    auth = ("Authorization", "Key ")
    pictures_per_call = 4
    poll_every = 0.5
    cancels = True

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        answer = self._api.post(
            f"/{order.route.model}",
            _body(order.request, order.route, order.count, order.first),
            deadline=time.monotonic() + timeout,
            headers={"X-Fal-No-Retry": "1"},
        )
        if not answer.ok:
            raise self._error(answer)
        body = answer.json()
        job_id = body.get("request_id")
        if not isinstance(job_id, str) or not 0 < len(job_id) <= 200:
            raise BadAnswer("fal answered without the id of a request.")
        urls = {name: body[name] for name in _URLS if _is_link(body.get(name))}
        state = {"model": order.route.model, "count": order.count} | urls
        return Job(job_id, state, usage={"request_id": job_id})

    def poll(self, job: Job, *, timeout: float) -> Outcome:
        deadline = time.monotonic() + timeout
        url = self._url(job, "status_url", "/status")
        answer = self._api.get(url, hosts=_API_HOSTS, deadline=deadline)
        if not answer.ok:
            raise JobLost("fal does not know the request any more.")
        match answer.json():
            case {"status": "COMPLETED", **told}:
                return self._result(job, told, deadline)
        return job  # `IN_QUEUE`, `IN_PROGRESS`, and any state nobody has told us of

    def cancel(self, job: Job, *, timeout: float) -> Stopped | None:
        url = self._url(job, "cancel_url", "/cancel")
        deadline = time.monotonic() + timeout
        answer = self._api.put(url, hosts=_API_HOSTS, deadline=deadline)
        match answer.json().get("status"):
            case "OK":  # taken out of the queue: nothing ran
                return "no"
            case "CANCELLATION_REQUESTED":  # it may still be finished, and charged
                return "asked"
            case "ALREADY_COMPLETED" | "NOT_FOUND":
                return None
        raise self._error(answer) if not answer.ok else BadAnswer("fal answered without sense.")

    def _url(self, job: Job, name: str, end: str) -> str:
        """Where to ask about a job: as the provider said, if that is a place of its own."""
        url = job.state.get(name, "")
        if self._api.admits(url, hosts=_API_HOSTS):
            return str(url)
        # Of the model's name only two parts are in the addresses of its requests.
        app = "/".join(job.state["model"].split("/")[:2])
        return f"/{app}/requests/{quote(job.id, safe='')}{end}"

    def _result(self, job: Job, told: dict[str, Any], deadline: float) -> Outcome:
        answer = self._api.get(
            self._url(job, "response_url", ""),
            hosts=_API_HOSTS,
            deadline=deadline,
            pictures=job.state["count"],
            verdicts=_VERDICTS,
        )
        body = answer.json()
        if answer.status == 202 or "still in progress" in str(body.get("detail")):
            return job
        if not answer.ok:
            raise self._verdict(answer, told)
        match body:
            case {"images": [*images]} if images:
                return self._pictures(job, body, images, deadline)
        raise BadAnswer("fal calls the request completed, but names no picture.", billed="yes")

    def _pictures(
        self, job: Job, body: dict[str, Any], images: list[Any], deadline: float
    ) -> Pictures:
        flags = body.get("has_nsfw_concepts")
        blanked = flags if isinstance(flags, list) else []
        seed = body.get("seed") if type(body.get("seed")) is int else None
        places = (
            # The address leads to a picture, but not to the one that was made.
            ContentRefused("fal refused to show what it made: has_nsfw_concepts.")
            if blanked[index : index + 1] == [True]
            else self._picture(image, seed, deadline)
            for index, image in enumerate(images)
        )
        return delivered(places, job.usage | _usage(job, images))

    def _picture(self, image: object, seed: int | None, deadline: float) -> Picture | ProviderError:
        match image:
            case {"url": str(url)} if url and not url.startswith("data:"):
                return self._fetch(url, hosts=_PICTURE_HOSTS, deadline=deadline, seed=seed)
            case {"url": url} if data := from_base64(url):
                return Picture(data, seed=seed)
        return BadAnswer("fal answered without a picture that could be read.", billed="yes")

    def _error(self, answer: Answer) -> ProviderError:
        if answer.status == 403 and "locked" in str(answer.json().get("detail")).lower():
            return self._api.error(answer, OutOfCredit)
        if answer.status < 500 and "content_policy_violation" in _types(answer):
            return self._api.error(answer, ContentRefused)
        return self._api.error(answer)

    def _verdict(self, answer: Answer, told: dict[str, Any]) -> ProviderError:
        """What an answer other than a success, at the place of the result, says of the work.

        `told` is what was said when the request was over.
        """
        types = _types(answer) | _texts(told.get("error_type"))
        reason = next(iter(_texts(told.get("error"))), "")
        if "content_policy_violation" in types:
            return self._api.error(answer, ContentRefused, said=reason)
        if answer.status in (404, 410):
            return JobLost("fal does not know the result any more.")
        if answer.status in (400, 422) and not types & _FAILURES:
            return self._api.error(answer, Refused, said=reason)
        if types or reason:
            # Requests that end with such a status are never charged, the provider says.
            billed: Billed | None = "no" if answer.status >= 499 else None
            return self._api.error(answer, JobFailed, billed=billed, said=reason)
        return self._api.error(answer, Unavailable)  # not the model's own words: ask again


def _body(request: ImageRequest, route: Route, count: int, first: int) -> dict[str, Any]:
    size = route.upstream_size(request.size)
    width, height = (int(side) for side in size.split("x"))
    body: dict[str, Any] = {
        "prompt": request.prompt,
        "image_size": {"width": width, "height": height},
        "num_images": count,
        # The provider's default is jpeg. What we keep should have lost nothing.
        "output_format": "jpeg" if request.output_format == "jpeg" else "png",
    }
    if request.seed is not None:
        body["seed"] = request.seed + first
    return body


def _types(answer: Answer) -> set[str]:
    """What the provider calls the trouble, in either of its two shapes."""
    body = answer.json()
    problems = body.get("detail")
    told: Iterable[Any] = (
        [problem.get("type") for problem in problems if isinstance(problem, dict)]
        if isinstance(problems, list)
        else []
    )
    return _texts(*told, body.get("error_type"), answer.header("x-fal-error-type"))


def _texts(*values: object) -> set[str]:
    return {value for value in values if isinstance(value, str) and value}


def _usage(job: Job, images: list[Any]) -> dict[str, Any]:
    price = _PRICES.get(job.state["model"])
    if price is None:
        return {}
    megapixels = 0
    for image in images:
        match image:
            case {"width": int(width), "height": int(height)}:
                megapixels += max(1, math.ceil(width * height / _MEGAPIXEL))
            case _:
                megapixels += 1
    return {"cost_usd": round(price * megapixels, 6), "cost_estimated": True}


def _is_link(url: object) -> bool:
    return isinstance(url, str) and 0 < len(url) <= 2000
