"""Midjourney behind a midjourney-proxy: takes a job, and brings one picture that shows four."""

from __future__ import annotations

import math
import re
import time
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from common.catalog import Route
from common.errors import (
    BadAnswer,
    ContentRefused,
    JobFailed,
    JobLost,
    ModelNotServed,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
)
from common.task import ImageRequest
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
)

__all__ = ["Midjourney"]

_DISCORD = ("cdn.discordapp.com", "media.discordapp.net")
_KEY_LENGTH = 255  # of `state`, which the proxy keeps and shows with the task
_NOT_FOUND_LIMIT = 5  # polls in a row

# novicezk's line lists all the tasks it has, of up to thirty days; trueai-org's the newest hundred.
_LIST_BYTES = 32_000_000
_LIST_CUT = 100  # tasks
_LIST_REACH = 3_600_000  # milliseconds; a task of ours is over long before

# Answers to a submit: a number in a body whose HTTP status is 200 nearly always.
_ACCEPTED = (1, 21, 22)
_QUEUE_IS_FULL = "队列已满"  # told apart by nothing else from other failures with code 9

_VERSION = re.compile(r"v(\d+(?:\.\d+)?)")
# Midjourney reads a dash that was made of two, as telephones do, like the two.
_PARAMETER = re.compile(r"(?:--|(?<!\S)—)[a-z]+", re.IGNORECASE)
_AGAINST_THE_RULES = re.compile(r"banned|moderat|policy|敏感", re.IGNORECASE)


class Midjourney(Provider):
    """`POST {base}/mj/submit/imagine`, then `GET {base}/mj/task/{id}/fetch`.

    Serves both lines of the proxy, novicezk's and trueai-org's. The subscription is paid, not the
    call: there is no cost to tell.
    """

    name = "midjourney"
    auth = ("mj-api-secret", "")
    pictures_per_call = 4
    poll_every = 3.0
    cancels = True
    in_doubt = "lookup"

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        body = {"prompt": _prompt(order.request, order.route, order.first)}
        if order.key:
            body["state"] = _state(order)
        answer = self._api.post("/mj/submit/imagine", body, deadline=time.monotonic() + timeout)
        match answer.json():
            case {"code": code, "result": result} if (
                answer.ok and code in _ACCEPTED and (job := _job(result, order))
            ):
                return job
        raise self._refusal(answer)

    def poll(self, job: Job, *, timeout: float) -> Outcome:
        deadline = time.monotonic() + timeout
        answer = self._api.get(f"{_task(job)}/fetch", deadline=deadline)
        match answer.json() if answer.ok else {}:
            case {"status": "SUCCESS", **task}:
                return self._pictures(job, task, deadline)
            case {"status": "FAILURE", **task}:
                raise self._failure(task)
            case {"status": "CANCEL"}:
                raise JobFailed("midjourney says that the job was cancelled.")
            case {"status": "MODAL"}:
                raise JobFailed(
                    "midjourney waits for a confirmation, and nobody is going to give it."
                )
            case {"id": str(), **task}:
                # Any state nobody has told us of goes on until the task's deadline. Whatever
                # `imageUrl` says by now is a blurred preview.
                state = {"count": job.state["count"]} if "count" in job.state else {}
                return Job(job.id, state, _percent(task.get("progress")), job.usage)
        # An empty body is how both lines say that they do not know the task.
        times = job.state.get("not_found", 0) + 1
        if times > _NOT_FOUND_LIMIT:
            raise JobLost("midjourney does not know the job any more.")
        return Job(job.id, job.state | {"not_found": times}, job.progress, job.usage)

    def cancel(self, job: Job, *, timeout: float) -> Stopped | None:
        answer = self._api.post(f"{_task(job)}/cancel", {}, deadline=time.monotonic() + timeout)
        if answer.status in (404, 405):
            return None  # novicezk's line cannot
        if not answer.ok:
            raise self._api.error(answer)
        return "unknown"

    def lookup(self, order: Order, *, timeout: float) -> Job | None:
        """Finds the order's key among the tasks that the proxy lists, finished ones too.

        Raises Unavailable also when the list may have been cut before it came to the call.
        """
        if not order.key:
            raise Unavailable("midjourney cannot be asked for a call without a name.")
        deadline = time.monotonic() + timeout
        answer = self._api.get("/mj/task/list", deadline=deadline, room=_LIST_BYTES, verdicts=())
        told = answer.array()
        if told is None:
            raise Unavailable("midjourney answered without a list of its tasks.")
        tasks = [task for task in told if isinstance(task, dict)]
        ours = [task for task in tasks if task.get("state") == _state(order)]
        # If there are several, the earlier ones failed for nothing, and the call was made again.
        for task in sorted(ours, key=_submitted, reverse=True):
            if job := _job(task.get("id"), order):
                return job
        times = [at for task in tasks if (at := _submitted(task))] or [0]
        if len(told) == _LIST_CUT and max(times) - min(times) < _LIST_REACH:
            raise Unavailable("midjourney has too many new tasks to tell of this one.")
        return None

    def _pictures(self, job: Job, task: dict[str, Any], deadline: float) -> Pictures:
        count = job.state.get("count", 1)
        seed = _seed(task.get("seed"))
        match task.get("imageUrls"):
            case [*entries]:
                urls = [url for e in entries if isinstance(e, dict) and (url := e.get("url"))]
            case _:
                urls = []
        if len(urls) >= count:
            singles = (self._picture(url, seed, deadline) for url in urls[:count])
            return delivered(singles, job.usage)
        grid = self._picture(task.get("imageUrl"), seed, deadline)
        if isinstance(grid, ProviderError):
            raise grid
        quarters = tuple(replace(grid, quarter=number) for number in range(count))
        return Pictures(quarters, job.usage)

    def _picture(self, url: object, seed: int | None, deadline: float) -> Picture | ProviderError:
        if not isinstance(url, str) or not url:
            text = "midjourney calls the job a success, but names no picture."
            return BadAnswer(text, billed="yes")
        # Some proxies keep the pictures themselves, and may give the path alone.
        hosts = (*_DISCORD, self._api.host)
        return self._fetch(self._api.absolute(url), hosts=hosts, deadline=deadline, seed=seed)

    def _refusal(self, answer: Answer) -> ProviderError:
        body = answer.json()
        said = str(body.get("description") or "no reason given")
        match body.get("code") if answer.status < 500 else None:
            case 3:  # with an imagine it is no parent task that is missing
                return self._error(Unavailable, "has no account to do it", said)
            case 4:
                return self._error(Refused, "does not take the request", said)
            case 9 if _QUEUE_IS_FULL in said:
                return self._error(RateLimited, "has a full queue", said)
            case 9 if _AGAINST_THE_RULES.search(said):
                return self._error(ContentRefused, "refused the prompt", said)
            case 9:
                return self._error(JobFailed, "could not begin the job", said)
            case 23:
                return self._error(RateLimited, "has a full queue", said)
            case 24:
                return self._error(ContentRefused, "refused the prompt", _banned_word(body) or said)
        if answer.ok:
            return BadAnswer("midjourney answered without the id of a job.")
        return self._api.error(answer)

    def _error(self, kind: type[ProviderError], what: str, said: str) -> ProviderError:
        # Each of these codes says that nothing was handed on to Midjourney.
        return kind(self._api.scrub(f"midjourney {what}: {said}"), billed="no")

    def _failure(self, task: dict[str, Any]) -> ProviderError:
        reason = str(task.get("failReason") or "no reason given")
        if _AGAINST_THE_RULES.search(reason):
            return ContentRefused(self._api.scrub(f"midjourney refused it: {reason}"))
        if reason.casefold().startswith("[invalid parameter]"):
            return Refused(self._api.scrub(f"midjourney does not take the request: {reason}"))
        return JobFailed(self._api.scrub(f"midjourney could not carry out the job: {reason}"))


def _prompt(request: ImageRequest, route: Route, first: int) -> str:
    """The prompt with its parameters, which are part of its text."""
    version = _VERSION.fullmatch(route.model)
    if version is None:
        raise ModelNotServed(f"midjourney has no version {route.model}: it would be v7, or v6.1.")
    width, height = request.pixels
    divisor = math.gcd(width, height)
    parts = [request.prompt, f"--ar {width // divisor}:{height // divisor}", f"--v {version[1]}"]
    if request.seed is not None:
        parts.append(f"--seed {(request.seed + first) % 2**32}")
    if request.negative_prompt:
        parts.append(f"--no {request.negative_prompt}")
    # Refused rather than removed: some cost many times as much (--repeat), and who wrote another
    # is better told than sold something else.
    for text in (request.prompt, request.negative_prompt or ""):
        if found := _PARAMETER.search(text):
            raise Refused(
                f"midjourney parameters like {found[0][:30]} cannot be written in the prompt; "
                "size, seed and negative_prompt are fields of the request."
            )
    return " ".join(parts)


def _state(order: Order) -> str:
    """By what the proxy knows the call."""
    return order.key[:_KEY_LENGTH]


def _job(task_id: object, order: Order) -> Job | None:
    """What the proxy is asked about; None for an id that cannot be one."""
    if not isinstance(task_id, str | int) or not 0 < len(str(task_id)) <= 200:
        return None
    name = str(task_id)
    return Job(name, {"count": order.count}, usage={"request_id": name})


def _submitted(task: dict[str, Any]) -> int:
    """When a task was submitted, in Unix milliseconds; 0 when that is not told."""
    told = task.get("submitTime")
    return told if type(told) is int else 0


def _task(job: Job) -> str:
    return f"/mj/task/{quote(job.id, safe='')}"


def _banned_word(body: dict[str, Any]) -> str:
    match body:
        case {"properties": {"bannedWord": str(word)}} if word:
            return f"the word {word} is banned"
    return ""


def _percent(progress: object) -> int | None:
    """Of `"45%"`. It may also be empty, or text; only a finished job is at 100."""
    found = re.fullmatch(r"(\d{1,3})%", progress) if isinstance(progress, str) else None
    return min(99, int(found[1])) if found else None


def _seed(seed: object) -> int | None:
    return int(seed) if isinstance(seed, str) and re.fullmatch(r"[0-9]{1,10}", seed) else None
