"""`/v1/admin`: what operators see of everybody's tasks, and what they can do about them.

`api.auth` lets operators' keys in here, and no other. Nothing that people wrote is shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from flask import Response, jsonify, request
from flask_openapi.blueprint import APIBlueprint
from pydantic import BaseModel

from api.admin_schemas import (
    AdminTask,
    AdminTaskList,
    History,
    KeyList,
    Overview,
    PauseRequest,
    PauseState,
    RetryRequest,
)
from api.auth import ADMIN_PATH, caller
from api.cancel import Cancel
from api.errors import ApiError, task_not_found
from api.inspection import describe
from api.json_body import json_object
from api.openapi import ADMIN_KEY_REQUIRED, errors, tag
from api.overview import history, overview
from api.redeliver import redeliver
from api.request_log import tell_task
from api.retry import DESCRIPTION, Retries
from api.schemas import AdminTaskQuery, TaskPath
from common.catalog import Catalog
from common.fleet import Fleet
from common.keys import ApiKey, KeyStore
from common.limits import Usage
from common.logging import get_logger
from common.outbox import Outbox
from common.oversight import Oversight
from common.settings import ProviderAccess
from common.store import Inspection, TaskStore
from common.task import Billed, is_task_id

__all__ = ["make_blueprint"]

T = TypeVar("T", bound=str)

_MOST = 200  # tasks of a list, and keys
_TASKS = 50
_SHOWN = ("open", "failed")
_PAUSABLE = ("route", "provider", "model")
_BILLED: tuple[Billed, ...] = ("no", "unknown", "yes")

log = get_logger(__name__)


def make_blueprint(
    catalog: Catalog,
    providers: Mapping[str, ProviderAccess],
    store: TaskStore,
    fleet: Fleet,
    oversight: Oversight,
    keys: KeyStore,
    cancel: Cancel,
    retries: Retries,
    outbox: Outbox,
    *,
    alive: float,
) -> APIBlueprint:
    """A process that was seen within `alive` seconds counts as there."""
    bp = APIBlueprint(
        "admin",
        __name__,
        url_prefix=ADMIN_PATH,
        abp_tags=[tag("admin")],
        abp_security=ADMIN_KEY_REQUIRED,
    )

    @bp.get(
        "/overview",
        summary="How the fleet stands",
        description="Queues, processes, providers and routes.",
        operation_id="admin_overview",
        responses={200: Overview, **errors(401, 403, 503)},
    )
    def get_overview() -> Response:
        return _fresh(overview(fleet.look(), oversight.working(), catalog, providers, alive=alive))

    @bp.get(
        "/history",
        summary="How the fleet stood in the last hour",
        operation_id="admin_history",
        responses={200: History, **errors(401, 403, 503)},
    )
    def get_history() -> Response:
        return _fresh(history(oversight.history()))

    @bp.get(
        "/tasks",
        summary="List tasks of everybody",
        description="Of many thousands of waiting tasks the oldest are told by the heads of queues "
        "and lines.",
        operation_id="admin_list_tasks",
        responses={200: AdminTaskList, **errors(400, 401, 403, 503)},
    )
    def list_tasks(query: AdminTaskQuery) -> Response:
        limit = _limit(query.limit)
        show = _one_of("show", query.show or "open", _SHOWN)
        if query.key is not None:
            found = oversight.of_key(query.key, limit)
        elif show == "failed":
            found = oversight.failed(limit)
        else:
            found = oversight.oldest(limit)
        return _fresh({"object": "list", "data": [_row(one) for one in found]})

    @bp.get(
        "/tasks/<task_id>",
        summary="Look at a task",
        operation_id="admin_get_task",
        responses={200: AdminTask, **errors(401, 403, 404, 503)},
    )
    def get_task(path: TaskPath) -> Response:
        return _fresh(_body(inspected(path.task_id)))

    @bp.post(
        "/tasks/<task_id>/cancel",
        summary="Cancel a task of anybody",
        description="As its owner would. 202: its provider has not answered yet whether it stops.",
        operation_id="admin_cancel_task",
        responses={200: AdminTask, 202: AdminTask, **errors(401, 403, 404, 409, 503)},
    )
    def cancel_task(path: TaskPath) -> Response:
        owner = inspected(path.task_id).task.owner
        task = cancel.decide(path.task_id, owner)
        _tell("cancel", task_id=task.id)
        return _fresh(_body(inspected(task.id)), 200 if task.status.final else 202)

    @bp.post(
        "/tasks/<task_id>/retry",
        summary="Try a failed task again",
        description=DESCRIPTION,
        operation_id="admin_retry_task",
        request_body=_reads("RetryRequest", required=False),
        responses={
            202: AdminTask,
            **errors(400, 401, 402, 403, 404, 409, 413, 415, 429, 503),
        },
    )
    def retry_task(path: TaskPath) -> Response:
        body = _object(RetryRequest) if _has_body() else {}
        billed = _one_of("billed", body.get("billed", "no"), _BILLED)
        task_id = retries.make(inspected(path.task_id).task, billed)
        _tell("retry", task_id=path.task_id, retried_as=task_id)
        return _fresh(_body(inspected(task_id)), 202)

    @bp.post(
        "/tasks/<task_id>/redeliver",
        summary="Deliver the webhook of a task again",
        operation_id="admin_redeliver_webhook",
        responses={202: AdminTask, **errors(401, 403, 404, 409, 503)},
    )
    def redeliver_webhook(path: TaskPath) -> Response:
        task_id = inspected(path.task_id).task.id
        redeliver(outbox, task_id)
        _tell("redeliver", task_id=task_id)
        return _fresh(_body(inspected(task_id)), 202)

    @bp.post(
        "/pause",
        summary="Buy nothing more by a route, from a provider, or of a model",
        description="Calls that were announced before go on. Tasks wait, with `blocked_reason` "
        "`paused`, or take another route; what is not resumed by their deadline fails them. Holds "
        "until it is resumed, whatever is started anew.",
        operation_id="admin_pause",
        request_body=_reads("PauseRequest"),
        responses={200: PauseState, **errors(400, 401, 403, 413, 415, 503)},
    )
    def pause() -> Response:
        return switch("pause", oversight.pause)

    @bp.post(
        "/resume",
        summary="Take a pause back",
        operation_id="admin_resume",
        request_body=_reads("PauseRequest"),
        responses={200: PauseState, **errors(400, 401, 403, 413, 415, 503)},
    )
    def resume() -> Response:
        return switch("resume", oversight.resume)

    @bp.get(
        "/keys",
        summary="List keys and what they have used",
        description="Months and days are UTC.",
        operation_id="admin_list_keys",
        responses={200: KeyList, **errors(401, 403, 503)},
    )
    def list_keys() -> Response:
        known = keys.list()
        known.sort(key=lambda key: (key.revoked is None, key.created), reverse=True)
        shown = known[:_MOST]
        used = oversight.usages([key.id for key in shown])
        data = [_key(key, usage) for key, usage in zip(shown, used, strict=True)]
        data.sort(key=lambda key: -key["month"]["spend_usd"])
        return _fresh({"object": "list", "data": data, "total": len(known)})

    def switch(what: str, act: Callable[[str], object]) -> Response:
        name = pausable()
        act(name)
        _tell(what, name=name)
        return _fresh({"object": "admin.pause", "name": name, "paused": what == "pause"})

    def inspected(task_id: str) -> Inspection:
        if not is_task_id(task_id):
            task_not_found()
        tell_task(task_id)
        return store.inspect(task_id) or task_not_found()

    def pausable() -> str:
        """The name, in Redis, of what the request is about."""
        body = _object(PauseRequest)
        given = [name for name in _PAUSABLE if body.get(name) is not None]
        if len(given) != 1:
            raise ApiError(
                "missing_required_parameter" if not given else "invalid_value",
                "One of route, provider and model has to be there, and one only.",
                param=given[1] if given else "route",
            )
        kind, name = given[0], body[given[0]]
        models = list(catalog)
        known = {
            "route": {route.name for model in models for route in model.routes},
            "provider": catalog.providers(),
            "model": {model.id for model in models},
        }[kind]
        _one_of(kind, name, sorted(known))
        return f"model:{name}" if kind == "model" else str(name)

    for schema in (PauseRequest, RetryRequest):
        bp.components_schemas[schema.__name__] = schema.model_json_schema()
    return bp


def _tell(what: str, **about: str) -> None:
    """A line in the log for what an operator did, with the key that it was done with."""
    log.info(f"operator: {what}", key=caller().id, **about)


def _fresh(body: dict[str, Any], status: int = 200) -> Response:
    response = jsonify(body)
    response.status_code = status
    response.headers["Cache-Control"] = "no-store"
    return response


def _reads(schema: str, *, required: bool = True) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"required": required, "content": content}


def _has_body() -> bool:
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def _object(schema: type[BaseModel]) -> dict[str, Any]:
    """The body, which has no field but those of `schema`. Raises ApiError."""
    body = json_object(request)
    for name in body:
        if name not in schema.model_fields:
            raise ApiError(
                "invalid_value",
                f"There is no field {name[:64]!a}; there are {', '.join(schema.model_fields)}.",
                param=name[:64],
            )
    return body


def _one_of(param: str, value: object, known: Collection[T]) -> T:
    for one in known:
        if value == one:
            return one
    names = [str(one) for one in known]
    near = difflib.get_close_matches(value[:200], names, n=3) if isinstance(value, str) else []
    those = f": {', '.join(names)}" if len(names) < 5 else ""
    raise ApiError(
        "invalid_value",
        f"{param} must be one that is known{those}.",
        param=param,
        did_you_mean=near[0] if near else None,
        suggestions=near or None,
        hint=None if those else f"GET {ADMIN_PATH}/overview names them.",
    )


def _limit(text: str | None) -> int:
    if text is None:
        return _TASKS
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _MOST):
        raise ApiError(
            "invalid_value", f"limit must be an integer from 1 to {_MOST}.", param="limit"
        )
    return int(text)


def _body(found: Inspection) -> dict[str, Any]:
    return {"object": "admin.task"} | describe(found, _seconds)


def _row(found: Inspection) -> dict[str, Any]:
    task = found.task
    return {
        "id": task.id,
        "status": task.status,
        "progress": task.progress,
        "model": task.request.model,
        "owner": task.owner,
        "submitted": _seconds(task.created),
        "ended": _seconds(task.ended),
        "deadline": _seconds(task.deadline),
        "blocked": task.blocked,
        "held_by": found.worker,
        "cancellation": task.cancellation,
        "error": task.failure.code if task.failure else None,
        "billed": task.failure.billed if task.failure else None,
        "retried_as": found.retried,
    }


def _key(key: ApiKey, usage: Usage) -> dict[str, Any]:
    gone = "revoked" if key.revoked is not None else "expired"
    valid = key.revoked is None and not key.expired(usage.now / 1000)
    limits = asdict(key.limits)
    return {
        "id": key.id,
        "name": key.name,
        "admin": key.admin,
        "state": "valid" if valid else gone,
        "created": key.created,
        "expires": key.expires,
        "open_tasks": usage.open_tasks,
        "month": asdict(usage.month.total),
        "today": asdict(usage.today.total),
        "limits": limits | {"models": list(key.limits.models) or None},
    }


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
