"""What became of a task: three paths with one body, and one to follow it."""

from __future__ import annotations

import hashlib

import orjson
from flask import Request, Response, g, jsonify, request, stream_with_context
from flask.blueprints import BlueprintSetupState
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.types import ResponseDict
from werkzeug.routing import BaseConverter

from api.answers import Answer
from api.auth import caller
from api.cancel import DESCRIPTION, Cancel
from api.departures import connection_of
from api.errors import ApiError, task_not_found
from api.events import EventStream, last_event, told_all
from api.openapi import KEY_REQUIRED, errors, tag
from api.outlook import Outlook
from api.prefer import wait_preference
from api.redeliver import redeliver
from api.request_log import tell_task
from api.schemas import EVENTS_EXAMPLE, TASK_ID, EventsQuery, ImageTask, TaskPath
from api.waiting import Waiting
from common.outbox import Outbox
from common.store import TaskStore
from common.task import Task, is_task_id
from common.task_body import TaskBody

__all__ = ["make_blueprint"]

_LONGEST_WAIT = 60  # seconds

_RESPONSES: ResponseDict = {
    200: ImageTask,
    304: {"description": "Not changed since If-None-Match."},
    **errors(401, 404, 503),
}
# Of a poll, which reads them itself: to make objects of two texts takes longer than its whole body.
_POLLED = {
    "parameters": [
        {
            "name": "task_id",
            "in": "path",
            "required": True,
            "description": "As returned by the submit.",
            "schema": {"type": "string", "examples": [TASK_ID]},
        },
        {
            "name": "wait",
            "in": "query",
            "description": "Hold the answer until the task is final, at most this many seconds, at "
            f"most {_LONGEST_WAIT}. The header `Prefer: wait=N` does the same.",
            "schema": {"type": "string", "examples": ["30"]},
        },
    ]
}
_CANCEL_RESPONSES: ResponseDict = {200: ImageTask, 202: ImageTask, **errors(401, 404, 409, 503)}
_STREAM = {"text/event-stream": {"schema": {}, "example": EVENTS_EXAMPLE}}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event that arrived: the stream goes on behind it.",
    "schema": {"type": "string"},
    "example": "41",
}


def make_blueprint(
    store: TaskStore,
    bodies: TaskBody,
    outlook: Outlook,
    waiting: Waiting,
    events: EventStream,
    outbox: Outbox,
    cancel: Cancel,
) -> APIBlueprint:
    bp = APIBlueprint("tasks", __name__, abp_tags=[tag("tasks")], abp_security=KEY_REQUIRED)
    bp.record_once(_add_converter)

    @bp.get(
        "/v1/images/generations/<task_id>",
        summary="Ask for a generation",
        operation_id="get_generation",
        openapi_extensions=_POLLED,
        responses=_RESPONSES,
    )
    def get_generation() -> Response:
        return answer()

    @bp.get(
        "/v1/tasks/<task_id>",
        summary="Ask for a task",
        operation_id="get_task",
        openapi_extensions=_POLLED,
        responses=_RESPONSES,
    )
    def get_task() -> Response:
        return answer()

    @bp.get(
        "/v1/images/<not_submit:task_id>",
        summary="Ask for the images of a task",
        operation_id="get_image_status",
        openapi_extensions=_POLLED,
        responses=_RESPONSES,
    )
    def get_image_status() -> Response:
        return answer()

    @bp.get(
        "/v1/tasks/<task_id>/events",
        summary="Follow a task",
        description="Server-sent events until the task is final. Behind a lost connection the "
        "stream goes on from `Last-Event-ID`, at any front end, with no event lost or repeated; "
        "the answer is 204 when `done` was the last.",
        operation_id="get_task_events",
        openapi_extensions={"parameters": [_LAST_EVENT_ID]},
        responses={
            200: {"description": "`status`, `progress`, `image`, `done`.", "content": _STREAM},
            204: {"description": "Everything has been told."},
            **errors(401, 404, 503),
        },
    )
    def get_task_events(path: TaskPath, query: EventsQuery) -> Response:
        after = last_event(request.headers.get("Last-Event-ID", query.last_event_id))
        if told_all(own(path.task_id), after):
            return Response(status=204)
        if waiting.full:
            raise ApiError(
                "service_unavailable",
                "Too many requests are held already; the task can be polled.",
                retry_after=5,
                retryable=True,
            )
        told = events.of(path.task_id, after, connection_of(request))
        response = Response(stream_with_context(told), mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"  # nginx would keep it until it has a page
        return response

    @bp.delete(
        "/v1/images/generations/<task_id>",
        summary="Cancel a generation",
        description=DESCRIPTION,
        operation_id="cancel_generation",
        responses=_CANCEL_RESPONSES,
    )
    def cancel_generation(path: TaskPath) -> Response:
        return cancel(path.task_id)

    @bp.delete(
        "/v1/tasks/<task_id>",
        summary="Cancel a task",
        description=DESCRIPTION,
        operation_id="cancel_task",
        responses=_CANCEL_RESPONSES,
    )
    def cancel_task(path: TaskPath) -> Response:
        return cancel(path.task_id)

    @bp.post(
        "/v1/tasks/<task_id>/webhook/redeliver",
        summary="Deliver the webhook of a task again",
        description="With all its tries, and under the same `webhook-id`; also one that was "
        "delivered, or whose receiver was gone.",
        operation_id="redeliver_webhook",
        responses={202: ImageTask, **errors(401, 404, 409, 503)},
    )
    def redeliver_webhook(path: TaskPath) -> Response:
        task = own(path.task_id)
        redeliver(outbox, task.id)
        response = jsonify(bodies.any(own(task.id)))
        response.status_code = 202
        response.headers["Cache-Control"] = "no-store"
        return response

    def answer() -> Response:
        asked: Request = request._get_current_object()  # type: ignore[attr-defined]
        task_id: str = asked.view_args["task_id"]  # type: ignore[index]
        query = asked.args.get("wait") if asked.query_string else None
        seconds = wait_preference(asked, most=_LONGEST_WAIT, query=query)
        if seconds:
            g.held = True
            task = (
                waiting.until_final(task_id, seconds, lambda: own(task_id), connection_of(asked))
                or task_not_found()
            )
        else:
            task = own(task_id)
        etag = _etag(task)
        if asked.if_none_match.contains_weak(etag):
            response: Response = Answer(status=304)
        else:
            response = jsonify(bodies.any(task) | outlook.of(task))
        response.headers.add("ETag", f'W/"{etag}"')
        response.headers.add("Cache-Control", "private, no-cache")
        if not task.status.final:
            again = outlook.retry_after(task.request.model, task)
            response.headers.add("Retry-After", str(again))
        if seconds and "Prefer" in asked.headers:
            response.headers["Preference-Applied"] = f"wait={seconds}"
        return response

    def own(task_id: str) -> Task:
        if not is_task_id(task_id):
            task_not_found()
        tell_task(task_id)
        task = store.read(task_id)
        if task is None or task.owner != caller().id:
            task_not_found()
        return task

    return bp


class _NotSubmit(BaseConverter):
    """Keeps `/v1/images/generations` and the like, which take POST only, apart from
    `/v1/images/{task_id}`."""

    regex = "(?!(?:generations|edits|variations)$)[^/]+"
    part_isolating = True


def _add_converter(state: BlueprintSetupState) -> None:
    state.app.url_map.converters["not_submit"] = _NotSubmit


def _etag(task: Task) -> str:
    """Changes with everything in the body that can change but the time it is thought to take."""
    state = (
        task.id,
        task.status,
        task.progress,
        task.started,
        task.ended,
        task.queue_position,
        task.blocked,
        task.webhook,
        task.cancellation,
        task.timeline,
    )
    return hashlib.sha256(orjson.dumps(state)).hexdigest()[:32]
