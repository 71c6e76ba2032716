"""`GET /v1/tasks`: what a caller has submitted, the newest first."""

from __future__ import annotations

from flask import Response, jsonify
from flask_openapi.blueprint import APIBlueprint

from api.auth import caller
from api.errors import ApiError
from api.openapi import KEY_REQUIRED, errors, tag
from api.outlook import Outlook
from api.schemas import TaskList, TaskListQuery
from common.store import TaskStore
from common.task import Status, is_task_id
from common.task_body import TaskBody

__all__ = ["make_blueprint"]

_MOST = 100  # tasks on a page
_STATUSES = [status.value for status in Status]


def make_blueprint(store: TaskStore, bodies: TaskBody, outlook: Outlook) -> APIBlueprint:
    bp = APIBlueprint("history", __name__, abp_tags=[tag("tasks")], abp_security=KEY_REQUIRED)

    @bp.get(
        "/v1/tasks",
        summary="List tasks",
        description="The caller's own, the newest first, for as long as they are kept. To go on, "
        "ask again with `after` set to `last_id` while `has_more` is true: with a filter a page "
        "may hold fewer tasks than `limit`, or none, though there are more.",
        operation_id="list_tasks",
        responses={200: TaskList, **errors(400, 401, 503)},
    )
    def list_tasks(query: TaskListQuery) -> Response:
        page = store.list(
            caller().id,
            limit=_limit(query.limit),
            after=_after(query.after),
            status=_status(query.status),
            model=query.model or "",
        )
        if page is None:
            raise ApiError(
                "invalid_value",
                "after must be the id of a task of yours that is still kept.",
                param="after",
                hint="Use the last_id of the page before, or begin anew without after.",
            )
        tasks = [bodies.any(task, linked=True) | outlook.of(task) for task in page.tasks]
        response = jsonify(
            {
                "object": "list",
                "data": tasks,
                "first_id": tasks[0]["id"] if tasks else None,
                "last_id": page.last,
                "has_more": page.more,
            }
        )
        response.headers["Cache-Control"] = "private, no-store"
        return response

    return bp


def _after(text: str | None) -> str:
    if text is None:
        return ""
    return text if is_task_id(text) else "-"  # of which nobody is the owner


def _limit(text: str | None) -> int:
    if text is None:
        return 20
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _MOST):
        raise ApiError(
            "invalid_value", f"limit must be an integer from 1 to {_MOST}.", param="limit"
        )
    return int(text)


def _status(text: str | None) -> Status | None:
    if text is None:
        return None
    if text not in _STATUSES:
        raise ApiError(
            "invalid_value",
            f"status must be one of {', '.join(_STATUSES)}.",
            param="status",
            suggestions=_STATUSES,
        )
    return Status(text)
