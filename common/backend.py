"""The task store as Celery's result backend.

What Celery itself reports of a task, success, failure, or a death that nobody foresaw, lands in
the same record that the status endpoints read; `AsyncResult(id)` and `celery result ID` work. An
id that was never created is `UNKNOWN`, not `PENDING`.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.backends.base import BaseBackend

from common.errors import GenerationFailed, StoreUnavailable
from common.logging import get_logger
from common.store import TaskStore
from common.task import Failure, Result, Status, Task
from common.tracing import OFF, Tracing

__all__ = ["STORE_OPTION", "TRACING_OPTION", "RecordBackend", "backend_url"]

STORE_OPTION = "darkroom_store"  # where the Celery configuration holds the TaskStore
TRACING_OPTION = "darkroom_tracing"  # and where the Tracing, if there is one

_STATES = {
    Status.PENDING: "PENDING",
    Status.PROCESSING: "STARTED",
    Status.COMPLETED: "SUCCESS",
    Status.FAILED: "FAILURE",
}

log = get_logger(__name__)


def backend_url() -> str:
    """What `result_backend` must be for Celery to use this class."""
    return f"{__name__}:{RecordBackend.__name__}+records://"


class RecordBackend(BaseBackend):
    """Writes the last transition of a record, and reads records as Celery's task states.

    The store comes from the Celery configuration, under `STORE_OPTION`. The generation number of
    the claim travels as `request.generation`; a report without one ends only tasks nobody holds.
    """

    persistent = True

    def __init__(self, app: Celery, **options: Any) -> None:
        super().__init__(app, **options)
        self._store: TaskStore = app.conf[STORE_OPTION]
        self._tracing: Tracing = app.conf.get(TRACING_OPTION, OFF)

    def encode_result(self, result: Any, state: str) -> Any:
        """Nothing is encoded here: exceptions arrive as they are, the store knows its own form."""
        return result

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_: Any,
    ) -> Any:
        generation: int | None = getattr(request, "generation", None)
        trace: str | None = getattr(request, "trace", None)
        match state, result:
            case "SUCCESS", Result():
                with self._tracing.span("complete", parent=trace, task_id=task_id):
                    taken = generation is not None and self._store.complete(
                        task_id, generation, result
                    )
                if taken:
                    log.info("completed", task_id=task_id, provider=result.provider)
                else:
                    log.warning("a late result was refused", task_id=task_id, generation=generation)
            case "FAILURE" | "REVOKED", _:
                failure = _failure(result)
                with self._tracing.span("fail", parent=trace, task_id=task_id, code=failure.code):
                    taken = self._store.fail(task_id, generation, failure)
                if taken:
                    log.info("failed", task_id=task_id, code=failure.code)
                else:
                    log.warning("a late failure was refused", task_id=task_id)
            case _:
                pass  # the record knows of starts and retries already
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        task = self._store.read(task_id)
        return {
            "task_id": task_id,
            "status": "UNKNOWN" if task is None else _STATES[task.status],
            "result": None if task is None else _result(task),
            "traceback": None,
            "children": [],
            "date_done": None,
        }

    def _forget(self, task_id: str) -> None:
        raise NotImplementedError("records live as long as their images; they cannot be forgotten")

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """The last transition is guarded, so it may be written again until Redis answers."""
        return isinstance(exc, StoreUnavailable)


def _failure(reported: Any) -> Failure:
    if isinstance(reported, GenerationFailed):
        return reported.failure
    # Celery's own words may quote arguments or code; its class says enough to the operator's log.
    log.error("a task died outside our code", exception=type(reported).__name__)
    return Failure("internal_error", "The worker could not finish this task.", billed="unknown")


def _result(task: Task) -> Any:
    if task.failure is not None:
        return GenerationFailed(task.failure)
    if task.result is None:
        return None
    return {"images": [image.name for image in task.result.images]}
