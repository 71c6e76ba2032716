"""`POST /v1/images/generations`: check, keep, answer with a pending task."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response, g, jsonify, request
from flask_openapi.blueprint import APIBlueprint

from api.auth import caller
from api.errors import ApiError, failure_error
from api.json_body import json_object
from api.openapi import KEY_REQUIRED, errors, tag
from api.prefer import wait_preference
from api.room import Room
from api.schemas import GenerationRequest, ImageTask, InlineImages
from api.submission import read_submission
from api.task_body import TaskBody
from api.waiting import Waiting
from common.catalog import Catalog
from common.errors import StoreUnavailable
from common.logging import get_logger
from common.queue import queue_for
from common.settings import ProviderAccess
from common.store import TaskStore
from common.task import Status, Task, new_task_id

__all__ = ["make_blueprint"]

_LONGEST_WAIT = 120  # seconds

_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "RFC 7240. `wait=N` holds the answer until the images are there, at most N "
    "seconds.",
    "schema": {"type": "string"},
    "example": "wait=60",
}

log = get_logger(__name__)


def make_blueprint(
    store: TaskStore,
    catalog: Catalog,
    providers: Mapping[str, ProviderAccess],
    bodies: TaskBody,
    waiting: Waiting,
    room: Room,
) -> APIBlueprint:
    bp = APIBlueprint("images", __name__, abp_tags=[tag("images")], abp_security=KEY_REQUIRED)

    @bp.post(
        "/v1/images/generations",
        summary="Generate images",
        description="Answers 202 with a pending task, or, with the header `Prefer: wait=N` "
        f"(N up to {_LONGEST_WAIT} seconds), 200 with the images when they are ready in time. A "
        "task that fails in time is answered with the status of its code.",
        operation_id="generate_images",
        openapi_extensions={"parameters": [_PREFER]},
        request_body={
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/GenerationRequest"}}
            },
        },
        responses={
            200: InlineImages,
            202: ImageTask,
            **errors(400, 401, 402, 403, 409, 413, 415, 429, 502, 503, 504),
        },
    )
    def generate_images() -> Response:
        submission = read_submission(json_object(request), catalog, providers)
        generation, sandbox = submission.request, providers[submission.route.provider].sandbox
        warnings = list(submission.warnings)
        if "Idempotency-Key" in request.headers:
            warnings.append(
                "Idempotency-Key is not supported yet: repeating this request makes another task."
            )
        room.require()
        task_id = g.task_id = new_task_id()
        try:
            created = store.create(
                task_id,
                owner=caller().id,
                queue=queue_for(submission.route.provider),
                request=generation,
                deadline=submission.model.deadline_seconds,
                warnings=warnings,
                sandbox=sandbox,
            )
        except StoreUnavailable as error:
            raise _may_not_be_kept(task_id, error) from error
        if created is None:
            raise RuntimeError("a new task id was taken")
        seconds = wait_preference(request, most=_LONGEST_WAIT)
        task = _ended(waiting, task_id, seconds) if seconds else None
        if task is not None and task.status is Status.FAILED and task.failure is not None:
            raise failure_error(task.failure, task_id)
        if task is not None and task.status is Status.COMPLETED:
            response = jsonify(bodies.inline(task))
        else:
            response = jsonify(
                bodies.pending(
                    task_id, generation, created=created, warnings=warnings, sandbox=sandbox
                )
            )
            response.status_code = 202
            response.headers["Location"] = f"/v1/images/generations/{task_id}"
            response.headers["Retry-After"] = str(bodies.retry_after(generation.model))
        if seconds:
            response.headers["Preference-Applied"] = f"wait={seconds}"
        response.headers["X-Task-ID"] = task_id
        response.headers["Cache-Control"] = "no-store"
        return response

    bp.components_schemas["GenerationRequest"] = GenerationRequest.model_json_schema()
    return bp


def _ended(waiting: Waiting, task_id: str, seconds: float) -> Task | None:
    """The task as it is after waiting; None when that cannot be told."""
    try:
        return waiting.until_final(task_id, seconds)
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
