"""A task's record in Redis, read as the frozen data of `common.task`, and its journal as fields.

A record is a hash of strings; `lua/tasks.lua` says what each field means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from common.task import (
    Call,
    CallState,
    Cancellation,
    Failure,
    ImageRequest,
    Input,
    Result,
    Status,
    StoredImage,
    Task,
    TimelineEntry,
)
from common.webhook import Try, Webhook

__all__ = ["calls_from", "entries", "task_from"]


def task_from(
    record: Mapping[str, str], place: int | None = None, begins_in: float | None = None
) -> Task:
    """The task that a record says; its place in the queue, and in how many seconds it begins, are
    no part of the record."""

    def when(field: str) -> int | None:
        return int(record[field]) if field in record else None

    return Task(
        id=record["id"],
        owner=record["owner"],
        request=_request(record["request"]),
        queue=record["queue"],
        created=int(record["created"]),
        deadline=int(record["deadline"]),
        status=Status(record["status"]),
        generation=int(record["generation"]),
        progress=int(record.get("progress", 0)),
        warnings=tuple(orjson.loads(record["warnings"])),
        sandbox=record["sandbox"] == "1",
        started=when("started"),
        ended=when("ended"),
        expires=when("expires"),
        result=_result(record.get("result")),
        failure=Failure(**orjson.loads(record["failure"])) if "failure" in record else None,
        cancellation=_cancellation(record),
        blocked=record.get("blocked"),
        queue_position=place,
        begins_in=begins_in,
        metadata=orjson.loads(record["metadata"]) if "metadata" in record else None,
        webhook=_webhook(record),
        trace=record.get("trace"),
        timeline=_timeline(record.get("timeline", ""), int(record["created"])),
    )


def calls_from(record: Mapping[str, str]) -> tuple[Call, ...]:
    """The journal of a record, by the pictures that the calls stand for."""
    calls = [_call(orjson.loads(v)) for k, v in record.items() if k.startswith("call:")]
    return tuple(sorted(calls, key=lambda call: call.first))


def entries(calls: Iterable[Call]) -> dict[str, Any]:
    """The fields of the journal that say these calls."""
    return {f"call:{call.first}": orjson.dumps(call).decode() for call in calls}


def _request(text: str) -> ImageRequest:
    data = orjson.loads(text)
    inputs = tuple(Input(**told) for told in data.pop("inputs", ()))
    mask = data.pop("mask", None)
    return ImageRequest(**data, inputs=inputs, mask=Input(**mask) if mask else None)


def _result(text: str | None) -> Result | None:
    if text is None:
        return None
    data = orjson.loads(text)
    images = tuple(StoredImage(**image) for image in data.pop("images"))
    missing = tuple(Failure(**failure) for failure in data.pop("missing"))
    return Result(images=images, missing=missing, **data)


def _webhook(record: Mapping[str, str]) -> Webhook | None:
    if "webhook" not in record:
        return None
    asked = orjson.loads(record["webhook"])
    tries = {
        int(name.removeprefix("try:")): Try(**orjson.loads(value))
        for name, value in record.items()
        if name.startswith("try:")
    }
    delivery: Any = record.get("delivery")
    return Webhook(
        **asked | {"events": tuple(asked["events"])},
        delivery=delivery,
        next_at=int(record["deliver_at"]) if "deliver_at" in record else None,
        tries=tuple(tries[number] for number in sorted(tries)),
    )


def _cancellation(record: Mapping[str, str]) -> Cancellation | None:
    if record.get("cancelled") == "1":
        return "cancelled"
    if "cancel" not in record:
        return None
    still_asked = record["cancel"] == "requested" and not Status(record["status"]).final
    return "requested" if still_asked else "declined"


def _timeline(text: str, created: int) -> tuple[TimelineEntry, ...]:
    entries = []
    for line in text.splitlines():
        since, event, *said = line.split(" ", 2)
        about = orjson.loads(said[0]) if said else {}
        entries.append(TimelineEntry(created + int(since), event, about))
    return tuple(entries)


def _call(data: dict[str, Any]) -> Call:
    failure = data.pop("failure")
    return Call(
        **data
        | {
            "state": CallState(data["state"]),
            "failure": Failure(**failure) if failure else None,
            "pictures": tuple(data["pictures"]),
        }
    )
