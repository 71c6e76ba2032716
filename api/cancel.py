"""`DELETE`: cancel a task, or say why it cannot be."""

from __future__ import annotations

from flask import Response, jsonify, request

from api.auth import caller
from api.departures import connection_of
from api.errors import ApiError, task_not_found
from api.outlook import Outlook
from api.request_log import tell_task
from api.waiting import Waiting
from common.errors import StoreUnavailable
from common.logging import get_logger
from common.store import Cancelling, TaskStore
from common.task import Status, Task, is_task_id
from common.task_body import TaskBody

__all__ = ["DESCRIPTION", "Cancel"]

_PATIENCE = 5.0  # seconds for a worker to learn from the provider whether its job can be stopped

DESCRIPTION = f"""A task that has bought nothing is over at once: 200.

Where a provider works on it that can stop its jobs, it is asked to: 200 when it has, 409 when it
has not. If that is not known after {_PATIENCE:.0f} seconds, the answer is 202 with
`"cancellation_status": "requested"`, and polling tells what comes of it: `cancelled`, or
`declined`, and then the task goes on.

A cancelled task is `failed` with `"cancelled": true`; `error_detail.billed` says whether anything
was charged for it. Pictures that were received before all work could be stopped are delivered: then
the task is completed, and names the others in `missing`. Cancelling it again gives 200 again."""

_GOES_ON = "The task goes on as if it had not been asked to stop."
# What is said to the caller, and the seconds after which asking again may have another outcome.
_REFUSALS: dict[Cancelling, tuple[str, int | None]] = {
    "sending": (f"It is just being sent to its provider. {_GOES_ON}", 1),
    "in_doubt": (
        "Whether its provider has made the picture is being found out; then the task ends by "
        "itself.",
        None,
    ),
    "unstoppable": (f"Its provider is at work and cannot be told to stop. {_GOES_ON}", None),
}

log = get_logger(__name__)


class Cancel:
    """Cancels tasks, the caller's and for operators those of others."""

    def __init__(
        self, store: TaskStore, bodies: TaskBody, outlook: Outlook, waiting: Waiting
    ) -> None:
        self._store = store
        self._bodies = bodies
        self._outlook = outlook
        self._waiting = waiting

    def __call__(self, task_id: str) -> Response:
        """The answer to the wish to cancel a task.

        Raises ApiError when it is not the caller's, or cannot be cancelled.
        """
        task = self.decide(task_id, caller().id)
        response = jsonify(self._bodies.any(task) | self._outlook.of(task))
        if not task.status.final:
            response.status_code = 202
            again = self._outlook.retry_after(task.request.model, task)
            response.headers["Retry-After"] = str(again)
        response.headers["Cache-Control"] = "no-store"
        return response

    def decide(self, task_id: str, owner: str) -> Task:
        """Cancel a task of `owner`: what has become of it as far as that is known in time; it is
        not final where its provider has not answered yet.

        Raises ApiError when it is not the owner's, or cannot be cancelled.
        """
        if not is_task_id(task_id):
            task_not_found()
        tell_task(task_id)
        answer = self._store.cancel(task_id, owner)
        if answer is None:
            task_not_found()
        outcome, task = answer
        if outcome in _REFUSALS:
            message, again = _REFUSALS[outcome]
            raise _not_cancellable(task, outcome, message, again)
        if outcome == "requested":
            task = self._decided(task)
        if task.status.final and task.cancellation != "cancelled":
            raise _not_cancellable(task, str(task.status), "There is nothing left to cancel.")
        if task.cancellation == "declined":
            message = f"Its provider has not stopped the work. {_GOES_ON}"
            raise _not_cancellable(task, "not_stopped", message)
        return task

    def _decided(self, task: Task) -> Task:
        """The task once it is decided whether it is cancelled, or as far as it is known."""
        try:
            known = self._waiting.until(
                task.id,
                _PATIENCE,
                lambda now: now.status.final or now.cancellation == "declined",
                lambda: self._store.read(task.id),
                connection_of(request),
            )
        except StoreUnavailable:
            log.warning("cannot wait", task_id=task.id)
            return task  # it was asked for: that is what is known
        return known or task_not_found()


def _not_cancellable(
    task: Task, reason: str, message: str, retry_after: int | None = None
) -> ApiError:
    is_over = {Status.COMPLETED: "is completed", Status.FAILED: "has failed"}.get(task.status)
    return ApiError(
        "task_not_cancellable",
        f"The task {is_over}. {message}" if is_over else f"The task cannot be cancelled. {message}",
        reason=reason,
        task_id=task.id,
        retryable=retry_after is not None,
        retry_after=retry_after,
    )
