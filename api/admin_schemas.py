"""The JSON documents of `/v1/admin`, as `api.schemas` has those of callers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import TimelineEntry, UsedSums

__all__ = [
    "AdminTask",
    "AdminTaskList",
    "History",
    "KeyList",
    "Overview",
    "PauseRequest",
    "PauseState",
    "RetryRequest",
]

_TASK_ID = "imgtask_0f4c2d5e8a9b4c7d9e1f2a3b4c5d6e7f"
_OTHER_ID = "imgtask_6a1be0ff3c2d4e5f8091a2b3c4d5e6f7"

_Why = Literal["no_credit", "bad_key", "not_served", "rate_limited", "failing", "paused"]
_STATE = {"state": "open", "reason": None, "opens_in_seconds": None, "paused_seconds": None}


class TaskCounts(BaseModel):
    """All tasks that have not ended."""

    open: int
    waiting: int = Field(description="That no worker has taken up, those in a line included.")
    taken: int = Field(description="That a worker has taken up.")
    due: int = Field(description="That a sweep has to look at now.")
    oldest_waiting_seconds: float
    sweep_lag_seconds: float = Field(description="How late the oldest due task is.")


class QueueState(BaseModel):
    """The tasks of one queue."""

    queue: str
    waiting: int
    taken: int
    oldest_waiting_seconds: float


class Held(BaseModel):
    """What a process holds of one model."""

    model: str
    tasks: int
    oldest_seconds: float = Field(description="Since the oldest of them was first taken up.")


class ProcessState(BaseModel):
    """A worker or a sweep that was seen in the last hour."""

    name: str
    kind: Literal["worker", "sweep"]
    alive: bool = Field(description="Seen within three times LEASE_SECONDS.")
    seen_seconds: float = Field(description="Since it was last seen.")
    holds: list[Held]


class Pausable(BaseModel):
    """Whether something takes calls."""

    state: Literal["open", "shut", "paused"]
    reason: _Why | None = Field(description="Why it does not.")
    opens_in_seconds: float | None = Field(description="When it is tried again, if that is known.")
    paused_seconds: float | None = Field(description="For how long an operator has it paused.")


class AccountState(Pausable):
    """A provider, with the account that we have there."""

    provider: str
    configured: bool


class RouteState(Pausable):
    """A way to serve models. What its account or a model is paused for is said there."""

    route: str = Field(examples=["bfl/flux-pro-1.1"])
    provider: str
    models: list[str] = Field(description="That it serves.")
    configured: bool
    cap: int | None = Field(description="Most calls in flight; null: any number.")
    in_flight: int | None = Field(description="Calls in flight; null without a cap.")
    waiting: int | None = Field(description="Tasks that wait for a place; null without a cap.")


class ModelState(BaseModel):
    """A model of the catalog."""

    model: str
    routes: list[str]
    paused_seconds: float | None = Field(description="For how long an operator has it paused.")


class WebhookCounts(BaseModel):
    """Webhooks that are owed."""

    owed: int
    lag_seconds: float = Field(description="How late the oldest is that could be tried.")


class RedisState(BaseModel):
    """What Redis says of itself; null where it keeps that to itself."""

    memory_bytes: int | None
    memory_limit_bytes: int | None = Field(description="0: none.")
    writes_to_disk: bool | None


class Overview(BaseModel):
    """How the fleet stands."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "admin.overview",
                    "tasks": {
                        "open": 14,
                        "waiting": 10,
                        "taken": 4,
                        "due": 0,
                        "oldest_waiting_seconds": 12.5,
                        "sweep_lag_seconds": 0.0,
                    },
                    "queues": [
                        {
                            "queue": "images.bfl",
                            "waiting": 10,
                            "taken": 4,
                            "oldest_waiting_seconds": 12.5,
                        }
                    ],
                    "processes": [
                        {
                            "name": "host:4711:3fa9c1",
                            "kind": "worker",
                            "alive": True,
                            "seen_seconds": 1.2,
                            "holds": [{"model": "flux-pro", "tasks": 4, "oldest_seconds": 3.1}],
                        }
                    ],
                    "accounts": [{"provider": "bfl", "configured": True, **_STATE}],
                    "routes": [
                        {
                            "route": "bfl/flux-pro-1.1",
                            "provider": "bfl",
                            "models": ["flux-pro"],
                            "configured": True,
                            "cap": 24,
                            "in_flight": 4,
                            "waiting": 0,
                            "state": "shut",
                            "reason": "failing",
                            "opens_in_seconds": 21.0,
                            "paused_seconds": None,
                        }
                    ],
                    "models": [
                        {
                            "model": "flux-pro",
                            "routes": ["bfl/flux-pro-1.1"],
                            "paused_seconds": 60.0,
                        }
                    ],
                    "webhooks": {"owed": 0, "lag_seconds": 0.0},
                    "redis": {
                        "memory_bytes": 2000000,
                        "memory_limit_bytes": 0,
                        "writes_to_disk": True,
                    },
                }
            ]
        }
    )

    object: Literal["admin.overview"]
    tasks: TaskCounts
    queues: list[QueueState]
    processes: list[ProcessState]
    accounts: list[AccountState]
    routes: list[RouteState]
    models: list[ModelState]
    webhooks: WebhookCounts
    redis: RedisState


class HistoryPoint(BaseModel):
    """The time between two looks, the later of which was at `at`."""

    at: float = Field(description="Unix seconds.")
    waiting: int
    taken: int
    completed_per_minute: float
    failed_per_minute: float
    p50_seconds: float | None = Field(
        description="From submit to completed, half of those that were completed meanwhile; null: "
        "none were."
    )
    p95_seconds: float | None


class History(BaseModel):
    """The last hour, every 20 seconds, as far as a sweep was there to take it down."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "admin.history",
                    "data": [
                        {
                            "at": 1706000020.0,
                            "waiting": 10,
                            "taken": 4,
                            "completed_per_minute": 27.0,
                            "failed_per_minute": 0.0,
                            "p50_seconds": 7.1,
                            "p95_seconds": 14.2,
                        }
                    ],
                }
            ]
        }
    )

    object: Literal["admin.history"]
    data: list[HistoryPoint] = Field(description="The oldest first.")


class AdminTask(BaseModel):
    """A task with its paid calls and its timeline, and without what people wrote. What is not known
    is left out. Times are Unix seconds."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "object": "admin.task",
                    "id": _TASK_ID,
                    "status": "failed",
                    "progress": 0,
                    "model": "flux-pro",
                    "pictures": 1,
                    "size": "1024x1024",
                    "owner": "key_0123456789abcdef",
                    "submitted": 1706000000.118,
                    "deadline": 1706001800.118,
                    "started": 1706000001.044,
                    "ended": 1706000003.459,
                    "seconds": 3.341,
                    "expires": 1706086403.459,
                    "queue": "images.bfl",
                    "attempts": 1,
                    "attempts_lost": 0,
                    "sent": 1,
                    "retried_as": _OTHER_ID,
                    "failure": {"code": "upstream_error", "retryable": True, "billed": "no"},
                    "timeline": [
                        {"at": 1706000000.118, "event": "accepted"},
                        {"at": 1706000003.459, "event": "failed", "error": "upstream_error"},
                    ],
                }
            ]
        },
    )

    object: Literal["admin.task"]
    id: str
    status: Literal["pending", "processing", "completed", "failed"]
    progress: int
    model: str
    pictures: int
    size: str
    owner: str = Field(description="Id of the key that submitted it.")
    sandbox: bool | None = None
    blocked: str | None = Field(None, description="Why no provider takes it at the moment.")
    submitted: float
    cancellation: Literal["requested", "declined", "cancelled"] | None = None
    deadline: float
    started: float | None = None
    ended: float | None = None
    seconds: float | None = Field(None, description="From submit to end.")
    expires: float | None = None
    queue: str
    queue_position: int | None = None
    begins_in_seconds: float | None = None
    held_by: str | None = Field(None, description="The worker that holds it.")
    held_until: float | None = None
    not_before: float | None = Field(None, description="When it is taken up again.")
    attempts: int
    attempts_lost: int = Field(description="Of them, those whose worker died.")
    sent: int = Field(description="How often calls were sent.")
    retried_as: str | None = Field(None, description="The task that an operator had made of it.")
    warnings: list[str] | None = None
    calls: list[dict[str, Any]] | None = Field(None, description="The journal of paid calls.")
    failure: dict[str, Any] | None = None
    webhook: dict[str, Any] | None = None
    timeline: list[TimelineEntry] | None = None
    result: dict[str, Any] | None = None


class TaskRow(BaseModel):
    """A task in a list."""

    id: str
    status: Literal["pending", "processing", "completed", "failed"]
    progress: int
    model: str
    owner: str
    submitted: float
    ended: float | None
    deadline: float
    blocked: str | None
    held_by: str | None
    cancellation: Literal["requested", "declined", "cancelled"] | None
    error: str | None = Field(description="The code of its failure.")
    billed: Literal["no", "yes", "unknown"] | None = Field(description="Of a failed one.")
    retried_as: str | None


class AdminTaskList(BaseModel):
    """Tasks."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [
                        {
                            "id": _TASK_ID,
                            "status": "failed",
                            "progress": 0,
                            "model": "flux-pro",
                            "owner": "key_0123456789abcdef",
                            "submitted": 1706000000.118,
                            "ended": 1706000003.459,
                            "deadline": 1706001800.118,
                            "blocked": None,
                            "held_by": None,
                            "cancellation": None,
                            "error": "upstream_error",
                            "billed": "no",
                            "retried_as": None,
                        }
                    ],
                }
            ]
        }
    )

    object: Literal["list"]
    data: list[TaskRow]


class AdminLimit(BaseModel):
    """The limits of a key; null: none."""

    models: list[str] | None
    requests_per_minute: int | None
    tasks_in_flight: int | None
    images_per_day: int | None
    usd_per_month: float | None


class KeyState(BaseModel):
    """A key, its limits and what it has used; never the key itself."""

    id: str
    name: str
    admin: bool
    state: Literal["valid", "expired", "revoked"]
    created: int = Field(description="Unix seconds.")
    expires: int | None
    open_tasks: int
    month: UsedSums
    today: UsedSums
    limits: AdminLimit


_NOTHING: dict[str, Any] = {
    "images": 0,
    "spend_usd": 0.0,
    "estimated_usd": 0.0,
    "unpriced_images": 0,
}


class KeyList(BaseModel):
    """The keys, those that spent most this month first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [
                        {
                            "id": "key_0123456789abcdef",
                            "name": "the shop",
                            "admin": False,
                            "state": "valid",
                            "created": 1706000000,
                            "expires": None,
                            "open_tasks": 2,
                            "month": {**_NOTHING, "images": 120, "spend_usd": 4.8},
                            "today": _NOTHING,
                            "limits": {
                                "models": None,
                                "requests_per_minute": 60,
                                "tasks_in_flight": None,
                                "images_per_day": None,
                                "usd_per_month": 20.0,
                            },
                        }
                    ],
                    "total": 1,
                }
            ]
        }
    )

    object: Literal["list"]
    data: list[KeyState] = Field(description="200 at most.")
    total: int


class PauseRequest(BaseModel):
    """What is meant; one of the three."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"route": "bfl/flux-pro-1.1"},
                {"provider": "bfl"},
                {"model": "flux-pro"},
            ],
            "minProperties": 1,
            "maxProperties": 1,
        },
    )

    route: str | None = Field(None, description="A route of the overview.")
    provider: str | None = Field(None, description="All routes of this provider.")
    model: str | None = Field(None, description="This model, whatever serves it.")


class PauseState(BaseModel):
    """Whether it is paused now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"object": "admin.pause", "name": "bfl/flux-pro-1.1", "paused": True}]
        }
    )

    object: Literal["admin.pause"]
    name: str
    paused: bool


class RetryRequest(BaseModel):
    """What is to be reckoned with."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{}, {"billed": "unknown"}]}
    )

    billed: Literal["no", "unknown", "yes"] = Field(
        "no",
        description="What the failed task says of its bill. Where that is not `no`, it is retried "
        "only if it is said here as well: so nothing is paid for twice unawares.",
    )
