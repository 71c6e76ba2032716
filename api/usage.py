"""`GET /v1/usage`: what the caller's key has used, and what is left to it."""

from __future__ import annotations

import re
from typing import Any

from flask import Response, jsonify
from flask_openapi.blueprint import APIBlueprint

from api.auth import caller
from api.errors import ApiError
from api.openapi import KEY_REQUIRED, errors, tag
from api.schemas import UsageQuery, UsageReport
from common.keys import ApiKey
from common.limits import MONTHS_KEPT, Usage, Used
from common.store import TaskStore

__all__ = ["make_blueprint"]

_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])", re.ASCII)


def make_blueprint(store: TaskStore) -> APIBlueprint:
    bp = APIBlueprint("usage", __name__, abp_tags=[tag("usage")], abp_security=KEY_REQUIRED)

    @bp.get(
        "/v1/usage",
        summary="What this key has used",
        description="Images and spend of a month and of today, the limits of the key, and what is "
        "left. Months and days are UTC; a task counts in those of its submit.",
        operation_id="get_usage",
        responses={200: UsageReport, **errors(400, 401, 503)},
    )
    def get_usage(query: UsageQuery) -> Response:
        key = caller()
        if query.month is not None and _MONTH.fullmatch(query.month) is None:
            raise ApiError("invalid_value", "month must be YYYY-MM, as 2026-11.", param="month")
        usage = store.usage(key.id, key.limits, month=query.month or "")
        if not 0 <= _months(usage.month.period) - _months(usage.asked.period) <= MONTHS_KEPT:
            raise ApiError(
                "invalid_value",
                f"month must be {usage.month.period} or one of the {MONTHS_KEPT} before it: "
                "older sums are not kept.",
                param="month",
            )
        response = jsonify(_body(key, usage))
        response.headers["Cache-Control"] = "no-store"
        return response

    return bp


def _body(key: ApiKey, usage: Usage) -> dict[str, Any]:
    limits = key.limits
    today, month = usage.today.total, usage.month.total
    return {
        "object": "usage",
        "month": _used(usage.asked),
        "today": _used(usage.today),
        "open_tasks": usage.open_tasks,
        "limits": {
            "models": list(limits.models) or None,
            "expires_at": key.expires,
            "requests_per_minute": _left(limits.requests_per_minute, usage.requests_left),
            "tasks_in_flight": _left(limits.tasks_in_flight, minus=usage.open_tasks),
            "images_per_day": _left(limits.images_per_day, minus=today.images),
            "usd_per_month": _left(limits.usd_per_month, minus=month.spend_usd),
        },
    }


def _used(used: Used) -> dict[str, Any]:
    def sums(of: Any) -> dict[str, Any]:
        return {
            "images": of.images,
            "spend_usd": of.spend_usd,
            "estimated_usd": of.estimated_usd,
            "unpriced_images": of.unpriced_images,
        }

    models = {model: sums(of) for model, of in used.models.items()}
    return {"period": used.period, **sums(used.total), "models": models}


def _left(
    limit: float | None, remaining: float | None = None, *, minus: float = 0
) -> dict[str, float] | None:
    if limit is None:
        return None
    if remaining is None:
        remaining = max(0, round(limit - minus, 6))
    return {"limit": limit, "remaining": remaining}


def _months(period: str) -> int:
    year, month = period.split("-")
    return 12 * int(year) + int(month)
