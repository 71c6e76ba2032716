"""Takes what was checked to its answer: keep the task, wait for it where asked, and tell of it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import orjson
from flask import Response, g, jsonify, request

from api.auth import caller
from api.departures import connection_of
from api.errors import ApiError, Problem, ValidationFailed, failure_error
from api.limits import refusal, require_model, tell_requests_left
from api.outlook import Outlook
from api.prefer import wait_preference
from api.request_log import tell_task
from api.room import Room
from api.submission import Submission
from api.uploads import Attached
from api.waiting import Waiting
from common.addresses import host_of
from common.errors import (
    DarkroomError,
    LimitExceeded,
    NameReused,
    QueueFull,
    StoreUnavailable,
    SubmitRefused,
)
from common.logging import get_logger
from common.queue import queue_for
from common.settings import ProviderAccess
from common.store import Created, Once, TaskStore
from common.task import ImageRequest, Status, Task, new_task_id
from common.task_body import TaskBody
from common.tracing import Tracing
from common.webhook import Webhook

__all__ = ["IDEMPOTENCY_KEY", "LONGEST_WAIT", "PREFER", "Submit"]

LONGEST_WAIT = 120  # seconds

PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "RFC 7240. `wait=N` holds the answer until the images are there, at most N "
    "seconds.",
    "schema": {"type": "string"},
    "example": "wait=60",
}

IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A name of yours for this submit, kept for 24 hours: however often it is sent, "
    "it is one task. An answer that repeats the first has `Idempotency-Replayed: true`.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x20-\x7e]+$"},
    "example": "order-4711-picture-1",
}

_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_LONGEST_REFUSAL = 3600  # seconds: by then everything may have changed

log = get_logger(__name__)


class Submit:
    """What all operations that make a task have in common, once its request is checked."""

    def __init__(
        self,
        store: TaskStore,
        providers: Mapping[str, ProviderAccess],
        bodies: TaskBody,
        outlook: Outlook,
        waiting: Waiting,
        room: Room,
        base_url: Callable[[], str],
        tracing: Tracing,
    ) -> None:
        """`base_url` gives the scheme and host by which the current request reached us."""
        self._store = store
        self._providers = providers
        self._bodies = bodies
        self._outlook = outlook
        self._waiting = waiting
        self._room = room
        self._base_url = base_url
        self._tracing = tracing

    def answer(self, submission: Submission, attached: Attached | None = None) -> Response:
        """Keep a task for `submission`, and before it the pictures that it starts from, if any; the
        answer to the request that is being served.

        That is the pending task, or its images where the caller wants to wait and they are there
        in time. A submit that is repeated under its Idempotency-Key gets the answer of the first:
        the same task. Raises ApiError for a task that failed in time, and when no task was made or
        it may not have been kept.
        """
        generation, limits = submission.request, caller().limits
        require_model(generation.model, limits)
        price = submission.model.price(submission.route)
        sandbox = self._providers[submission.route.provider].sandbox
        warnings = list(submission.warnings)
        once = _once(submission)
        if price is None and limits.usd_per_month is not None:
            warnings.append(
                f"The price of {generation.model} is not known beforehand: until it is, this task "
                "counts nothing in what the key may spend."
            )
        self._room.require()
        task_id = new_task_id()
        tell_task(task_id)
        try:
            created = self._create(
                task_id,
                attached,
                owner=caller().id,
                queue=queue_for(submission.route.provider),
                route=submission.route.name,
                request=generation,
                deadline=submission.model.deadline_seconds,
                warnings=warnings,
                sandbox=sandbox,
                once=once,
                limits=limits,
                price=price,
                metadata=submission.metadata,
                webhook=self._webhook(submission),
            )
        except LimitExceeded as error:
            tell_requests_left(error.left)
            again = self._outlook.retry_after(generation.model)
            raise refusal(error, limits, generation, again=again) from error
        except StoreUnavailable as error:
            raise _may_not_be_kept(task_id, error) from error
        except NameReused:
            raise ApiError(
                "idempotency_key_reused",
                "The Idempotency-Key was used for another request within the last 24 hours.",
                param=IDEMPOTENCY_KEY["name"],
                hint="Use a new key for each generation, and the same one only to repeat it.",
            ) from None
        except QueueFull as full:
            raise ApiError(
                "queue_full",
                f"Too many tasks for {generation.model} wait already; this one might not be "
                "finished in time. Nothing was kept.",
                retry_after=max(1, min(_LONGEST_REFUSAL, math.ceil(full.wait))),
                retryable=True,
            ) from None
        if created is None:
            raise RuntimeError("a new task id was taken")
        task_id = created.task_id
        tell_task(task_id)
        tell_requests_left(created.left)
        if created.replayed is not None:  # warnings may have changed with the catalog since
            warnings, sandbox = list(created.replayed.warnings), created.replayed.sandbox
        seconds = wait_preference(request, most=LONGEST_WAIT)
        task = self._ended(task_id, seconds) if seconds else None
        if task is not None and task.status is Status.FAILED and task.failure is not None:
            raise failure_error(task.failure, task_id)
        if task is not None and task.status is Status.COMPLETED:
            response = jsonify(self._bodies.inline(task))
        else:
            response = jsonify(
                self._bodies.pending(
                    task_id, generation, created=created.at, warnings=warnings, sandbox=sandbox
                )
            )
            response.status_code = 202
            response.headers.add("Location", f"/v1/images/generations/{task_id}")
            again = self._outlook.retry_after(generation.model)
            response.headers.add("Retry-After", str(again))
        if seconds:
            response.headers.add("Preference-Applied", f"wait={seconds}")
        if created.replayed is not None:
            response.headers.add("Idempotency-Replayed", "true")
        response.headers.add("X-Task-ID", task_id)
        response.headers.add("Cache-Control", "no-store")
        return response

    def _webhook(self, submission: Submission) -> Webhook | None:
        url = submission.webhook_url
        if url is None:
            return None
        host = host_of(url, private=True)  # it was judged when the submission was read
        return Webhook(url, host, submission.webhook_events, self._base_url())

    def _create(self, task_id: str, attached: Attached | None, **terms: Any) -> Created | None:
        """Keep a task, as a part of the caller's trace if there is one."""
        generation: ImageRequest = terms["request"]
        with self._tracing.span(
            "submit",
            kind="server",
            parent=request.headers.get("traceparent"),
            fine=(SubmitRefused,),
            task_id=task_id,
            model=generation.model,
            operation=generation.operation,
            n=generation.n,
            size=generation.size,
        ) as span:
            created = self._keep(task_id, attached, trace=span.traceparent, **terms)
            if created is not None and created.task_id != task_id:
                span.tell(task_id=created.task_id, replayed=True)
            return created

    def _keep(self, task_id: str, attached: Attached | None, **terms: Any) -> Created | None:
        """Keep a task, and before it what it starts from, which goes again without it."""
        if attached is None:
            return self._store.create(task_id, **terms)
        attached.keep(task_id)
        try:
            created = self._store.create(task_id, **terms)
        except StoreUnavailable:
            raise  # there may be a task
        except DarkroomError:
            attached.discard(task_id)
            raise
        if created is None or created.task_id != task_id:
            attached.discard(task_id)
        return created

    def _ended(self, task_id: str, seconds: float) -> Task | None:
        """The task as it is after waiting; None when that cannot be told."""
        try:
            g.held = True
            return self._waiting.until_final(
                task_id, seconds, lambda: self._store.read(task_id), connection_of(request)
            )
        except StoreUnavailable:
            # It was kept: a pending task is the truth, an error would invite a second one.
            log.warning("cannot wait", task_id=task_id)
            return None


def _once(submission: Submission) -> Once | None:
    """The name that the caller gave to this submit, if any. Raises ValidationFailed."""
    name = request.headers.get(IDEMPOTENCY_KEY["name"])
    if name is None:
        return None
    if _IDEMPOTENCY_KEY.fullmatch(name) is None:
        raise ValidationFailed(
            [
                Problem(
                    "invalid_value",
                    "Idempotency-Key must be 1 to 255 printable ASCII characters.",
                    param=IDEMPOTENCY_KEY["name"],
                )
            ]
        )
    asked = (
        asdict(submission.request),
        submission.metadata,
        submission.webhook_url,
        submission.webhook_events,
    )
    digest = hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Once(name, digest)


def _may_not_be_kept(task_id: str, error: StoreUnavailable) -> ApiError:
    return ApiError(
        "service_unavailable",
        f"{error} The task may or may not have been created: its status will tell.",
        task_id=task_id,
        retry_after=2,
        retryable=True,
    )
