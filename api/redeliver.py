"""The wish to have a webhook once more, and what stands in its way."""

from __future__ import annotations

from collections.abc import Mapping

from api.errors import ApiError
from common.outbox import Asked, Outbox

__all__ = ["redeliver"]

_REFUSALS: Mapping[Asked, str] = {
    "nowhere": "The task has no webhook: it was submitted without webhook_url.",
    "open": "The task has not ended; its webhook comes by itself when it does.",
    "unasked": "The end of the task is not among its webhook_events.",
}


def redeliver(outbox: Outbox, task_id: str) -> None:
    """Have the webhook of a task delivered again. Raises ApiError when there is none to deliver."""
    if reason := _REFUSALS.get(outbox.redeliver(task_id)):
        raise ApiError("webhook_not_deliverable", reason)
