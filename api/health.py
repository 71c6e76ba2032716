"""For those who watch over the service: does it live, can it work?"""

from __future__ import annotations

from flask import Response, jsonify
from flask_openapi.blueprint import APIBlueprint

from api.openapi import errors, tag
from api.room import Room
from api.schemas import Health, Readiness
from common.errors import StoreUnavailable
from common.store import TaskStore

__all__ = ["make_blueprint"]


def make_blueprint(
    store: TaskStore, room: Room, *, worker_age: float, sweep_age: float
) -> APIBlueprint:
    """`/healthz` and `/readyz`. A worker or sweep seen longer ago than its age, in seconds, is
    missing; so is a sweep that is as late with a due task. `store` and `room` should give up
    quickly: a probe does not wait."""
    bp = APIBlueprint("health", __name__, abp_tags=[tag("operation")])

    @bp.get(
        "/healthz",
        summary="Does the process live?",
        operation_id="healthz",
        responses={200: Health, **errors()},
    )
    def healthz() -> Response:
        return jsonify({"status": "ok"})

    @bp.get(
        "/readyz",
        summary="Can tasks be taken and worked on?",
        operation_id="readyz",
        responses={200: Readiness, 503: Readiness, **errors()},
    )
    def readyz() -> Response:
        missing: list[str]
        about: dict[str, float] = {}
        try:
            health, lacks = store.health(), room.lacks()
        except StoreUnavailable:
            missing = ["redis"]
        else:
            works = any(age <= worker_age for age in health.workers.values())
            sweeps = any(age <= sweep_age for age in health.sweeps.values())
            seen = {"worker": works, "sweep": sweeps and health.lag <= sweep_age}
            missing = [*(name for name, there in seen.items() if not there), *lacks]
            about["sweep_lag_seconds"] = health.lag
        status = "not_ready" if missing else "ready"
        response = jsonify({"status": status, "missing": missing} | about)
        response.status_code = 503 if missing else 200
        response.headers["Cache-Control"] = "no-store"
        return response

    return bp
