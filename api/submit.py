"""Takes what was checked to its answer: keep the task, wait for it where asked, and tell of it."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response, g, jsonify, request

from api.auth import caller
from api.errors import ApiError, failure_error
from api.limits import refusal, require_model, tell_requests_left
from api.prefer import wait_preference
from api.room import Room
from api.submission import Submission
from api.task_body import TaskBody
from api.waiting import Waiting
from common.errors import LimitExceeded, StoreUnavailable
from common.logging import get_logger
from common.queue import queue_for
from common.settings import ProviderAccess
from common.store import TaskStore
from common.task import Status, Task, new_task_id

__all__ = ["LONGEST_WAIT", "PREFER", "Submit"]

LONGEST_WAIT = 120  # seconds

PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "RFC 7240. `wait=N` holds the answer until the images are there, at most N "
    "seconds.",
    "schema": {"type": "string"},
    "example": "wait=60",
}

log = get_logger(__name__)


class Submit:
    """What all operations that make a task have in common, once its request is checked."""

    def __init__(
        self,
        store: TaskStore,
        providers: Mapping[str, ProviderAccess],
        bodies: TaskBody,
        waiting: Waiting,
        room: Room,
    ) -> None:
        self._store = store
        self._providers = providers
        self._bodies = bodies
        self._waiting = waiting
        self._room = room

    def answer(self, submission: Submission) -> Response:
        """Keep a task for `submission`; the answer to the request that is being served.

        That is the pending task, or its images where the caller wants to wait and they are there
        in time. Raises ApiError for a task that failed in time, and when there is no room for a
        task, a limit of the key is in its way, or it may not have been kept.
        """
        generation, limits = submission.request, caller().limits
        require_model(generation.model, limits)
        price = submission.model.price(submission.route)
        sandbox = self._providers[submission.route.provider].sandbox
        warnings = list(submission.warnings)
        if "Idempotency-Key" in request.headers:
            warnings.append(
                "Idempotency-Key is not supported yet: repeating this request makes another task."
            )
        if price is None and limits.usd_per_month is not None:
            warnings.append(
                f"The price of {generation.model} is not known beforehand: until it is, this task "
                "counts nothing in what the key may spend."
            )
        self._room.require()
        task_id = g.task_id = new_task_id()
        try:
            created = self._store.create(
                task_id,
                owner=caller().id,
                queue=queue_for(submission.route.provider),
                request=generation,
                deadline=submission.model.deadline_seconds,
                warnings=warnings,
                sandbox=sandbox,
                limits=limits,
                price=price,
            )
        except LimitExceeded as error:
            tell_requests_left(error.left)
            again = self._bodies.retry_after(generation.model)
            raise refusal(error, limits, generation, again=again) from error
        except StoreUnavailable as error:
            raise _may_not_be_kept(task_id, error) from error
        if created is None:
            raise RuntimeError("a new task id was taken")
        tell_requests_left(created.left)
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
            response.headers["Location"] = f"/v1/images/generations/{task_id}"
            response.headers["Retry-After"] = str(self._bodies.retry_after(generation.model))
        if seconds:
            response.headers["Preference-Applied"] = f"wait={seconds}"
        response.headers["X-Task-ID"] = task_id
        response.headers["Cache-Control"] = "no-store"
        return response

    def _ended(self, task_id: str, seconds: float) -> Task | None:
        """The task as it is after waiting; None when that cannot be told."""
        try:
            return self._waiting.until_final(task_id, seconds)
        except StoreUnavailable:
            # It was kept: a pending task is the truth, an error would invite a second one.
            log.warning("cannot wait", task_id=task_id)
            return None


def _may_not_be_kept(task_id: str, error: StoreUnavailable) -> ApiError:
    return ApiError(
        "service_unavailable",
        f"{error} The task may or may not have been created: its status will tell.",
        task_id=task_id,
        retry_after=2,
        retryable=True,
    )
