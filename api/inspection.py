"""A task as those see it who look after the system: its record, its paid calls and its timeline.

What people wrote is not part of it, unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from common.store import Inspection
from common.task import Call, Failure
from common.webhook import Webhook

__all__ = ["describe"]

Time = Callable[[int | None], Any]


def describe(found: Inspection, time: Time, *, words: bool = False) -> dict[str, Any]:
    """All that there is to know of a task; what there is not is left out.

    `words`: what people wrote as well, and messages that may quote it. `time` says how Unix
    milliseconds are given.
    """
    task = found.task
    request = task.request
    about: dict[str, Any] = {
        "id": task.id,
        "status": task.status,
        "progress": task.progress,
        "blocked": task.blocked,
        "model": request.model,
        "pictures": request.n,
        "size": request.size,
        "owner": task.owner,
        "sandbox": task.sandbox or None,
        "submitted": time(task.created),
        "cancellation": task.cancellation,
        "deadline": time(task.deadline),
        "started": time(task.started),
        "ended": time(task.ended),
        "seconds": (task.ended - task.created) / 1000 if task.ended else None,
        "expires": time(task.expires),
        "queue": task.queue,
        "queue_position": task.queue_position,
        "begins_in_seconds": task.begins_in,
        "held_by": found.worker,
        "held_until": time(found.lease),
        "not_before": time(found.retry_at),
        "attempts": found.attempts,
        "attempts_lost": found.losses,
        "sent": found.sent,
        "retried_as": found.retried,
        "warnings": list(task.warnings),
        "calls": [_call(call, time, words=words) for call in found.calls],
        "failure": _failure(task.failure, words=words),
        "webhook": _webhook(task.webhook, time),
        "timeline": [
            {"at": time(entry.at), "event": entry.event} | dict(entry.about)
            for entry in task.timeline
        ],
    }
    if task.result is not None:
        about["result"] = {
            "provider": task.result.provider,
            "provider_model": task.result.provider_model,
            "usage": task.result.usage,
            "images": [
                {k: v for k, v in asdict(image).items() if words or k != "revised_prompt"}
                for image in task.result.images
            ],
            "missing": [_failure(missing, words=words) for missing in task.result.missing],
        }
    if words:
        about |= {name: getattr(request, name) for name in ("prompt", "negative_prompt", "user")}
        about["metadata"] = dict(task.metadata) if task.metadata else None
    return {name: value for name, value in about.items() if value not in (None, [])}


def _call(call: Call, time: Time, *, words: bool) -> dict[str, Any]:
    about: dict[str, Any] = {
        "first": call.first,
        "pictures": call.count,
        "route": f"{call.provider}/{call.model}",
        "state": call.state,
        "sent": None if call.begun is None else time(round(call.begun * 1000)),
        "job": None if call.job is None else call.job["id"],
        "error": call.error,
        "usage": call.usage or None,
        "failure": _failure(call.failure, words=words),
    }
    return {name: value for name, value in about.items() if value is not None}


def _failure(failure: Failure | None, *, words: bool) -> dict[str, Any] | None:
    if failure is None:
        return None
    # The message may quote the provider, and the provider the prompt.
    return {name: v for name, v in asdict(failure).items() if words or name != "message"}


def _webhook(webhook: Webhook | None, time: Time) -> dict[str, Any] | None:
    if webhook is None:
        return None
    # Of its address the host: the rest is the receiver's secret.
    return {
        "host": webhook.host,
        "delivery": webhook.delivery,
        "next_try": time(webhook.next_at),
        "tries": [asdict(tried) | {"at": time(tried.at)} for tried in webhook.tries],
    }
