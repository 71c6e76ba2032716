"""The task as all parts of the system see it: plain, frozen data.

A `Task` is what the store keeps for one generation. Times are Unix milliseconds by the clock of
Redis, so that records of different machines can be compared.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from common.webhook import Webhook

__all__ = [
    "Billed",
    "Call",
    "CallState",
    "Cancellation",
    "Claim",
    "Failure",
    "ImageRequest",
    "Input",
    "Operation",
    "Result",
    "Status",
    "StoredImage",
    "Task",
    "TimelineEntry",
    "is_task_id",
    "new_task_id",
]

Billed = Literal["no", "yes", "unknown"]
Cancellation = Literal["requested", "declined", "cancelled"]

Operation = Literal["generation", "edit", "variation"]
"""What pictures are made from: words alone, pictures and words, or one picture."""

_TASK_ID = re.compile(r"imgtask_[0-9a-f]{32}")


def new_task_id() -> str:
    """128 random bits: an id cannot be guessed, and says nothing about its neighbours."""
    return f"imgtask_{secrets.token_hex(16)}"


def is_task_id(text: str) -> bool:
    """Whether `text` has the form of a task id, so that nothing else reaches a Redis key."""
    return _TASK_ID.fullmatch(text) is not None


class Status(StrEnum):
    """The four words a client ever sees. They only move forward, and final is final."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED)


@dataclass(frozen=True, slots=True)
class Input:
    """A picture that a task starts from. It is in the image store for as long as the task."""

    file: str  # below the task's id; `input-0.png` and so on, `mask.png` the mask
    format: Literal["png", "jpeg", "webp"]
    width: int
    height: int
    bytes: int
    sha256: str

    def name(self, task_id: str) -> str:
        """Its name in the image store."""
        return f"{task_id}/{self.file}"


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What the caller wants, validated and complete: defaults are filled in.

    A field is None when the caller did not say and the model has no default for it. What people
    wrote is kept out of the repr, and with it out of logs and of Flower.
    """

    model: str
    prompt: str = field(repr=False)
    n: int = 1
    size: str = "1024x1024"
    quality: str | None = None
    style: str | None = None
    response_format: Literal["url", "b64_json"] = "url"
    user: str | None = field(default=None, repr=False)
    seed: int | None = None
    negative_prompt: str | None = field(default=None, repr=False)
    aspect_ratio: str | None = None
    output_format: str | None = None
    output_compression: int | None = None
    background: str | None = None
    moderation: str | None = None
    input_fidelity: str | None = None
    strength: float | None = None  # how far the result may go from the input: 0, not at all, to 1
    operation: Operation = "generation"
    inputs: tuple[Input, ...] = ()
    mask: Input | None = None  # of the first input; what is fully transparent there is made anew

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height in pixels.

        Raises ValueError for a size that is not of the form WIDTHxHEIGHT.
        """
        width, height = self.size.split("x")
        return int(width), int(height)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task, or one of its pictures, came to nothing; shown to its owner as it is."""

    code: str
    message: str = field(repr=False)  # may quote the provider, and the provider the prompt
    retryable: bool = False
    billed: Billed = "no"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One verified picture in the image store."""

    name: str
    format: Literal["png", "jpeg", "webp"]
    width: int
    height: int
    bytes: int
    sha256: str
    revised_prompt: str | None = field(default=None, repr=False)
    seed: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """What a completed task delivers. `missing` names the pictures that could not be had."""

    images: tuple[StoredImage, ...]
    provider: str
    provider_model: str
    usage: dict[str, Any] = field(default_factory=dict)
    missing: tuple[Failure, ...] = ()

    def __repr__(self) -> str:
        # What Celery's log line and Flower show of a finished task.
        return f"{len(self.images)} image(s) of {self.provider} {self.provider_model}"


class CallState(StrEnum):
    """How far a paid call is known to have come. Written before and after, never guessed."""

    SUBMITTING = "submitting"  # about to be sent, or sent: from here on it may cost money
    ACCEPTED = "accepted"  # the provider gave us a job id
    RECEIVED = "received"  # the provider answered with pictures: bought
    TURNED_AWAY = "turned_away"  # not carried out, for the reason kept beside it: may be sent again
    IN_DOUBT = "in_doubt"  # submitting when its worker was lost; a late answer is still waited for
    MISSED = "missed"  # received when its worker was lost, and not stored; it may still be
    FAILED = "failed"  # ended without a picture, for the reason kept beside it


@dataclass(frozen=True, slots=True)
class Call:
    """The journal entry of one paid call: pictures `first` to `first + count - 1` of the task."""

    first: int
    count: int
    provider: str
    model: str
    state: CallState
    begun: float | None = None  # Unix seconds, by the clock of the worker that sent it
    stoppable: bool = False  # whether the provider may be able to stop its job
    job: dict[str, Any] | None = None  # what the adapter needs to go on polling, as plain data
    usage: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    error: str | None = None  # the kind of that failure: rate_limited, outcome_unknown, …
    pictures: tuple[dict[str, Any], ...] = field(
        default=(), repr=False
    )  # per received picture: revised_prompt, seed


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One thing that happened to a task, at `at`, and what its owner may know of it."""

    at: int
    event: str
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """One generation. Times in Unix milliseconds; None where it has not happened yet."""

    id: str
    owner: str  # id of the API key that submitted it
    request: ImageRequest
    queue: str
    created: int
    deadline: int
    status: Status = Status.PENDING
    generation: int = 0
    progress: int = 0
    warnings: tuple[str, ...] = ()
    sandbox: bool = False
    started: int | None = None
    ended: int | None = None
    expires: int | None = None
    result: Result | None = None
    failure: Failure | None = None
    cancellation: Cancellation | None = None  # declined: it was asked for, and the task goes on
    blocked: str | None = None  # why no provider takes it at the moment
    queue_position: int | None = None  # 1 is next; None when nobody knows, or it has begun
    begins_in: float | None = None  # seconds until a worker takes it up, as things go
    metadata: Mapping[str, str] | None = field(default=None, repr=False)  # the caller's own
    webhook: Webhook | None = None
    trace: str | None = None  # traceparent of its submit, where that was traced
    timeline: tuple[TimelineEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a task: valid while `task.generation` is the record's own."""

    task: Task
    calls: tuple[Call, ...]
    attempt: int  # claims so far, this one included
    time_left: float  # seconds until the deadline, by the clock of Redis
    trace: str | None = None  # traceparent of the work on it, where that is traced
