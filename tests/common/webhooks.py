"""Tasks with a webhook to test with, and the shortest way to their end."""

from __future__ import annotations

from typing import Any

from common.addresses import host_of
from common.store import TaskStore
from common.task import ImageRequest
from common.webhook import EVENTS, Event, Webhook
from tests.common.tasks import FAILURE, REQUEST, RESULT, claim, create

URL = "https://shop.example.com/hooks/images?token=MARKEDTOKEN"


def webhook(url: str = URL, events: tuple[Event, ...] = EVENTS) -> Webhook:
    return Webhook(url, host_of(url, private=True), events, "https://darkroom.example.com")


def ended(
    store: TaskStore,
    *,
    url: str = URL,
    events: tuple[Event, ...] = EVENTS,
    failed: bool = False,
    request: ImageRequest = REQUEST,
    **options: Any,
) -> str:
    """A task that has ended, and whose webhook is owed if its end is among the events."""
    task_id = create(store, request=request, webhook=webhook(url, events), **options)
    held = claim(store, task_id)
    if failed:
        assert store.fail(task_id, held.task.generation, FAILURE)
    else:
        assert store.complete(task_id, held.task.generation, RESULT)
    return task_id
