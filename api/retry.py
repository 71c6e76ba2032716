"""What an operator can do about a failed task: have a new one made of it, and bought once."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import NoReturn

from api.errors import ApiError, task_not_found
from api.limits import refusal, require_model
from api.outlook import Outlook
from api.room import Room
from common.catalog import Catalog
from common.errors import LimitExceeded, QueueFull, RetryRefused, StoreUnavailable
from common.keys import ApiKey, KeyStore
from common.queue import queue_for
from common.settings import ProviderAccess
from common.storage import ImageStorage
from common.store import Retry, TaskStore
from common.task import Billed, Task, new_task_id

__all__ = ["DESCRIPTION", "Retries"]

DESCRIPTION = """Makes a new task of the same request, for the same key, and within its limits. It
has its own id and deadline, is charged to that key, and sends the same webhook. Its timeline begins
with `retry`, which names the failed task; that one stays as it is, and says `retried_as`.

A task is retried once, however often it is asked for; what came of that can be retried in its turn.
One that may have been charged is retried only where `billed` says so. A cancelled one is not: its
owner has called it off."""

_BILLS: dict[Billed, tuple[Billed, ...]] = {
    "no": ("no",),
    "unknown": ("no", "unknown"),
    "yes": ("no", "unknown", "yes"),
}
_REFUSALS = {
    "open": "The task has not ended.",
    "completed": "The task is completed: there is nothing to be tried again.",
    "cancelled": "The task was cancelled by its owner, and nobody wants it.",
}


class Retries:
    """Makes new tasks of failed ones."""

    def __init__(
        self,
        store: TaskStore,
        keys: KeyStore,
        storage: ImageStorage,
        catalog: Catalog,
        providers: Mapping[str, ProviderAccess],
        outlook: Outlook,
        room: Room,
    ) -> None:
        self._store = store
        self._keys = keys
        self._storage = storage
        self._catalog = catalog
        self._providers = providers
        self._outlook = outlook
        self._room = room

    def make(self, task: Task, billed: Billed) -> str:
        """Retry `task`, which may have been billed so far: the id of the new one.

        Raises ApiError when it cannot be retried, StoreUnavailable when it is not known whether it
        was; to ask again does no harm.
        """
        if not task.status.final:
            _refuse(RetryRefused("open"), task.id)  # before anything is copied for it
        request = task.request
        key = self._owner(task)
        require_model(request.model, key.limits)
        model = self._catalog.get(request.model)
        route = None if model is None else model.route(self._providers, request.operation)
        if model is None or route is None:
            raise ApiError(
                "model_unavailable",
                f"No provider of {request.model} is configured.",
                retryable=False,
                hint="Configure one, or put the model back into CATALOG_FILE.",
            )
        self._room.require()
        new_id = new_task_id()
        try:
            with self._copied(task, new_id):
                created = self._store.create(
                    new_id,
                    owner=task.owner,
                    queue=queue_for(route.provider),
                    route=route.name,
                    request=request,
                    deadline=model.deadline_seconds,
                    warnings=task.warnings,
                    sandbox=self._providers[route.provider].sandbox,
                    limits=key.limits,
                    price=model.price(route),
                    metadata=task.metadata,
                    webhook=task.webhook,
                    retry=Retry(task.id, _BILLS[billed]),
                )
        except LimitExceeded as error:
            again = self._outlook.retry_after(request.model)
            raise refusal(error, key.limits, request, again=again) from error
        except QueueFull as full:
            raise ApiError(
                "queue_full",
                f"Too many tasks for {request.model} wait already.",
                retry_after=max(1, math.ceil(full.wait)),
                retryable=True,
            ) from None
        except RetryRefused as error:
            _refuse(error, task.id)
        if created is None:
            raise RuntimeError("a new task id was taken")
        return created.task_id

    def _owner(self, task: Task) -> ApiKey:
        key = self._keys.get(task.owner)
        if key is None or key.revoked is not None or key.expired(time.time()):
            raise _not_retryable(
                "key_invalid", "The key that submitted the task is not valid any more.", task.id
            )
        return key

    @contextlib.contextmanager
    def _copied(self, task: Task, new_id: str) -> Iterator[None]:
        """Give a new task what the old one started from; it goes again where no task is made."""
        request = task.request
        inputs = request.inputs if request.mask is None else (*request.inputs, request.mask)
        for input_ in inputs:
            data = self._storage.get(input_.name(task.id))
            if data is None:
                raise _not_retryable(
                    "input_lost", "An image that the task started from is not kept.", task.id
                )
            self._storage.put(input_.name(new_id), data)
        try:
            yield
        except StoreUnavailable:
            raise  # there may be a task
        except Exception:
            if inputs:
                with contextlib.suppress(StoreUnavailable):
                    self._storage.delete(*(input_.name(new_id) for input_ in inputs))
            raise


def _refuse(error: RetryRefused, task_id: str) -> NoReturn:
    match error.reason:
        case "absent":
            task_not_found()
        case "retried":
            raise _not_retryable(
                "retried",
                "The task was retried already.",
                task_id,
                hint=f"{error.known} came of it; if that failed too, retry that.",
            )
        case "billed":
            known = {"yes": "was charged", "unknown": "may have been charged"}[error.known]
            raise _not_retryable(
                "billed",
                f"The task {known}: to retry it may pay twice.",
                task_id,
                hint=f'To buy it once more all the same, send {{"billed": "{error.known}"}}.',
            )
        case reason:
            raise _not_retryable(reason, _REFUSALS[reason], task_id)


def _not_retryable(reason: str, message: str, task_id: str, hint: str | None = None) -> ApiError:
    return ApiError(
        "task_not_retryable", message, reason=reason, task_id=task_id, retryable=False, hint=hint
    )
