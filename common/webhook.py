"""Webhooks: where word of a task's end goes, who may be told, and how far it has come.

As Standard Webhooks 1.0.0 wants it: https://github.com/standard-webhooks/standard-webhooks
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

__all__ = ["EVENTS", "Delivery", "Event", "Try", "Webhook", "webhook_id"]

Event = Literal["completed", "failed"]
EVENTS: tuple[Event, ...] = ("completed", "failed")

Delivery = Literal["pending", "delivered", "failed", "gone"]


@dataclass(frozen=True, slots=True)
class Try:
    """One try to deliver. `status` of the answer, or in `error` why there was none."""

    at: int  # Unix milliseconds, by the clock of Redis
    status: int | None = None
    error: str | None = None
    ms: int | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """What the caller asked for, and what came of it so far. Times in Unix milliseconds."""

    url: str = field(repr=False)
    host: str = field(repr=False)
    events: tuple[Event, ...]
    base_url: str  # scheme and host of this service, for the addresses of images
    delivery: Delivery | None = None  # None: nothing is owed, or not yet
    next_at: int | None = None  # of the next try; None also while one is under way
    tries: tuple[Try, ...] = ()  # the last twenty, oldest first

    @property
    def shown_url(self) -> str:
        """The address without what may be a secret: its query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}" + ("?…" if parts.query else "")


def webhook_id(task_id: str, event: str) -> str:
    """The `webhook-id` of a task's end: the same on every try, and of no other."""
    return f"{task_id}_{event}"
