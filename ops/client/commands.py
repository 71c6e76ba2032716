"""What each command does: asks the server, and tells what came of it."""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops.client.errors import ClientError, NotSaved, Refused, TaskFailed, Unreachable, WrongUse
from ops.client.follow import follow
from ops.client.pictures import Destination, file_format
from ops.client.screen import FINAL, Screen, plain
from ops.client.server import HOLD, File, Server
from ops.client.tables import model_lines, models_table, task_lines, tasks_table

__all__ = ["Commands", "Result"]

_SECOND_THOUGHT = 3.0  # seconds after Ctrl-C in which another one cancels
_PAGE = 100  # tasks; the most that the server gives at once

# Options of `generate` that are fields of the request.
_FIELDS = ("model", "prompt", "size", "n", "quality", "style", "negative_prompt", "seed")


@dataclass(frozen=True)
class Result:
    """What goes to stdout: `body` with --json, `lines` without."""

    body: dict[str, Any]
    lines: list[str] = field(default_factory=list)


class Commands:
    """One method for each command. All raise ClientError, and KeyboardInterrupt after having told
    what becomes of the task."""

    def __init__(
        self, server: Server, screen: Screen, resume: Callable[[str, Path | None], str]
    ) -> None:
        """`resume` is the command line that takes up the wait for a task."""
        self._server = server
        self._screen = screen
        self._resume = resume

    def generate(self, options: argparse.Namespace) -> Result:
        """Submit, wait, and write the pictures."""
        out = Destination(options.output or Path(), options.force)
        if options.wait:
            out.check(options.n or 1)
        fields = {name: getattr(options, name) for name in _FIELDS}
        if options.prompt == "-":
            fields["prompt"] = sys.stdin.read().strip()
        fields["output_format"] = out.wanted_format
        fields = {name: value for name, value in fields.items() if value is not None}
        files = [("image", _read(path)) for path in options.image]
        files += [("mask", _read(path)) for path in (options.mask,) if path]
        try:
            task = self._server.submit(fields, files, options.idempotency_key or str(uuid.uuid4()))
        except KeyboardInterrupt:
            self._screen.tell(
                "Interrupted in the middle of the submit: whether there is a task, `list` tells."
            )
            raise
        with self._resumable(task, options):
            self._screen.tell(f"Accepted: {task['id']}")
            for warning in task.get("warnings") or []:
                # It is asked for by the name of the file, and if it is not granted the name tells.
                if not str(warning).startswith("output_format "):
                    self._screen.tell(f"Warning: {plain(warning)}")
            if not options.wait:
                return Result(task, [task["id"]])
            return self._finished(task, out)

    def wait(self, options: argparse.Namespace) -> Result:
        """Wait for a task, and write its pictures where asked to."""
        task = self._server.task(options.id)
        out = Destination(options.output, options.force) if options.output else None
        if out is not None:
            out.check(len(task["data"]) or 1)
        with self._resumable(task, options):
            return self._finished(task, out)

    def status(self, options: argparse.Namespace) -> Result:
        """A task as it is now."""
        task = self._server.task(options.id)
        return Result(task, task_lines(task))

    def list(self, options: argparse.Namespace) -> Result:
        """The caller's tasks, the newest first, as many as asked for."""
        query = {"status": options.status, "model": options.model, "after": options.after}
        tasks: list[dict[str, Any]] = []
        while True:
            query["limit"] = min(_PAGE, options.limit - len(tasks))
            page = self._server.tasks(query)
            tasks += page["data"]
            query["after"] = page.get("last_id")
            # With a filter a page may be empty although there are more.
            if len(tasks) >= options.limit or not (page.get("has_more") and page.get("last_id")):
                break
        more = bool(page.get("has_more"))
        if more:
            self._screen.tell(f"There are more: --after {plain(page.get('last_id'))}")
        body = {"object": "list", "data": tasks, "last_id": page.get("last_id"), "has_more": more}
        return Result(body, tasks_table(tasks) if tasks else [])

    def cancel(self, options: argparse.Namespace) -> Result:
        """Cancel a task, and wait until that is decided."""
        task = self._cancelled(options.id)
        return Result(task, [f"{task['id']} is cancelled."])

    def models(self, options: argparse.Namespace) -> Result:
        """All models, or one of them."""
        if options.id is not None:
            model = self._server.model(options.id)
            return Result(model, model_lines(model))
        models = self._server.models()
        return Result(models, models_table(models["data"]))

    def _finished(self, task: dict[str, Any], out: Destination | None) -> Result:
        task = follow(self._server, self._screen, task)
        _require_completed(task)
        for missing in task.get("missing") or []:
            self._screen.tell(f"One picture is missing: {plain(missing.get('message'))}")
        if out is None:
            return Result(task, [plain(entry.get("url") or "") for entry in task["data"]])
        files = [str(file) for file in out.save(task, self._server, self._screen)]
        return Result(task | {"files": files}, files)

    @contextmanager
    def _resumable(self, task: dict[str, Any], options: argparse.Namespace) -> Iterator[None]:
        """Whatever ends the block early, say how to go on: the task does so by itself."""
        again = self._resume(task["id"], options.output)
        try:
            yield
        except (Unreachable, NotSaved):
            self._screen.leave()
            self._screen.tell(f"To go on later: {again}")
            raise
        except KeyboardInterrupt:
            self._screen.leave()
            if not (options.cancel_on_interrupt or self._thought_again(again)):
                raise
            try:
                self._cancelled(task["id"])
                self._screen.tell("The task is cancelled.")
            except ClientError as error:
                self._screen.tell(f"{error}\nTo go on later: {again}")
            raise

    def _thought_again(self, again: str) -> bool:
        """Whether the user, told that the task goes on, interrupts once more."""
        self._screen.tell(f"The task goes on. To take it up again: {again}")
        if not self._screen.is_terminal:
            return False
        self._screen.tell(f"Ctrl-C within {_SECOND_THOUGHT:g} s cancels it.")
        try:
            time.sleep(_SECOND_THOUGHT)
        except KeyboardInterrupt:
            return True
        return False

    def _cancelled(self, task_id: str) -> dict[str, Any]:
        """The task once it is cancelled. Raises Refused when it is not."""
        task = self._server.cancel(task_id)
        while task["status"] not in FINAL:
            if task.get("cancellation_status") == "declined":
                raise Refused("The provider has not stopped the work; the task goes on.", task)
            time.sleep(HOLD)
            task = self._server.task(task_id)
        if not task.get("cancelled"):
            raise Refused(f"The task was over before: {plain(task['status'])}.", task)
        return task


def _require_completed(task: dict[str, Any]) -> None:
    if task["status"] == "completed":
        return
    detail = task.get("error_detail") or {}
    text = f"The task failed: {plain(task.get('error'))} ({plain(detail.get('code'))})"
    if detail.get("billed") in ("yes", "unknown"):
        may = "was" if detail["billed"] == "yes" else "may have been"
        text += f"\n  It {may} charged by the provider."
    if detail.get("retryable"):
        text += "\n  The same request may succeed later."
    raise TaskFailed(text, task)


def _read(path: Path) -> File:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WrongUse(f"{path} cannot be read: {error.strerror}") from error
    # The name alone: where it lies is nobody's business. What it is, the server judges.
    return path.name, data, f"image/{file_format(data) or 'unknown'}"
