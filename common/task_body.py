"""A task as its owner gets to see it: the same body at submit and on every path of polling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pybase64

from common.file_signer import FileSigner
from common.storage import ImageStorage
from common.task import ImageRequest, Result, Status, StoredImage, Task, TimelineEntry
from common.webhook import Webhook, webhook_id

__all__ = ["TaskBody"]

_NOTIFIED = "notified"  # the event, in the timeline, of a webhook that has come to its end
_LOST = "The image is not stored any more."


class TaskBody:
    """Builds the bodies. `base_url` gives the scheme and host for addresses of images."""

    def __init__(
        self,
        signer: FileSigner,
        storage: ImageStorage,
        base_url: Callable[[], str],
    ) -> None:
        self._signer = signer
        self._storage = storage
        self._base_url = base_url

    def pending(
        self,
        task_id: str,
        request: ImageRequest,
        *,
        created: int,
        warnings: Sequence[str],
        sandbox: bool,
    ) -> dict[str, Any]:
        """A task that was just created, at `created` in Unix milliseconds."""
        body: dict[str, Any] = {
            "created": created // 1000,
            "id": task_id,
            "task_id": task_id,
            "object": "image.generation.task",
            "status": Status.PENDING,
            "progress": 0,
            "model": request.model,
            "poll_url": f"/v1/images/generations/{task_id}",
            "data": [{"url": "", "revised_prompt": request.prompt}] * request.n,
            "warnings": list(warnings),
        }
        if sandbox:
            body["sandbox"] = True
        return body

    def any(self, task: Task, *, linked: bool = False) -> dict[str, Any]:
        """A task in whatever state. Raises StoreUnavailable when its images cannot be read.

        `linked`: images are given by address, also where Base64 was asked for.
        """
        body = self.told(task, linked=linked)
        if task.webhook is not None:
            body["webhook"] = _webhook(task, task.webhook)
            body |= _timeline(task.timeline)
        return body

    def told(self, task: Task, *, linked: bool = False) -> dict[str, Any]:
        """The same as a webhook says it: all but the state of that webhook."""
        request = task.request
        body = self.pending(
            task.id,
            request,
            created=task.created,
            warnings=task.warnings,
            sandbox=task.sandbox,
        )
        body |= {"status": task.status, "progress": task.progress, "size": request.size}
        body |= {
            name: value
            for name, value in (
                ("quality", request.quality),
                ("style", request.style),
                ("started", _seconds(task.started)),
                ("cancellation_status", task.cancellation),
                ("expires_at", _seconds(task.expires)),
            )
            if value is not None
        }
        if task.metadata is not None:
            body["metadata"] = dict(task.metadata)
        if task.status is Status.COMPLETED and task.result is not None:
            body |= self._completed(task, task.result, linked=linked)
        elif task.status is Status.FAILED:
            body |= _failed(task)
        # What it says is the same on every try.
        return body | _timeline(entry for entry in task.timeline if entry.event != _NOTIFIED)

    def inline(self, task: Task) -> dict[str, Any]:
        """A completed task as OpenAI's Images API answers: nothing of ours beside it."""
        assert task.result is not None, task.id
        images = [self._image(task, image) for image in task.result.images]
        return {"created": task.created // 1000, "data": images}

    def image(self, task: Task, index: int, *, linked: bool = False) -> dict[str, Any]:
        """One entry of a completed task's `data`."""
        assert task.result is not None, task.id
        image = task.result.images[index]
        size = {"width": image.width, "height": image.height}
        return self._image(task, image, linked=linked) | size

    def _completed(self, task: Task, result: Result, *, linked: bool) -> dict[str, Any]:
        indices = range(len(result.images))
        body: dict[str, Any] = {
            "data": [self.image(task, index, linked=linked) for index in indices],
            "completed_at": _seconds(task.ended),
            "provider": result.provider,
            "provider_model": result.provider_model,
            "usage": {"provider": result.provider, "model": result.provider_model} | result.usage,
        }
        if result.missing:
            body["missing"] = [asdict(failure) for failure in result.missing]
        if told := _other_sizes(task.request, result.images):
            body["warnings"] = [*task.warnings, told]
        return body

    def _image(self, task: Task, image: StoredImage, *, linked: bool = False) -> dict[str, Any]:
        described = {"revised_prompt": image.revised_prompt or task.request.prompt}
        if linked or task.request.response_format == "url":
            path = self._signer.path(image.name, (task.expires or 0) // 1000)
            return {"url": self._base_url() + path} | described
        data = self._storage.get(image.name)
        if data is None:
            # The task did complete, and final is final: what is missing is said beside it.
            return {"b64_json": None} | described | {"error": _LOST}
        return {"b64_json": pybase64.b64encode(data).decode("ascii")} | described


def _other_sizes(request: ImageRequest, images: Iterable[StoredImage]) -> str:
    """What to say when not all of the images have the size that was asked for, else nothing.

    Some providers choose the pixels themselves, and a picture is never enlarged or cropped.
    """
    sizes = dict.fromkeys(f"{image.width}x{image.height}" for image in images)
    others = [size for size in sizes if size != request.size]
    if not others:
        return ""
    return f"size {request.size} was asked for; the provider made {' and '.join(others)}."


def _failed(task: Task) -> dict[str, Any]:
    body: dict[str, Any] = {"data": [], "failed_at": _seconds(task.ended)}
    if task.failure is not None:
        body |= {"error": task.failure.message, "error_detail": asdict(task.failure)}
    if task.cancellation == "cancelled":
        body["cancelled"] = True
    return body


def _timeline(entries: Iterable[TimelineEntry]) -> dict[str, Any]:
    told = [{"at": entry.at / 1000, "event": entry.event} | dict(entry.about) for entry in entries]
    return {"timeline": told} if told else {}


def _webhook(task: Task, webhook: Webhook) -> dict[str, Any]:
    owed = webhook.delivery is not None
    return {
        "id": webhook_id(task.id, task.status) if owed else None,
        "url": webhook.shown_url,
        "events": list(webhook.events),
        "status": webhook.delivery or ("not_asked" if task.status.final else "pending"),
        "attempts": [
            {"at": _seconds(tried.at), "status": tried.status, "error": tried.error, "ms": tried.ms}
            for tried in webhook.tries
        ],
        "next_attempt_at": _seconds(webhook.next_at),
    }


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds // 1000
