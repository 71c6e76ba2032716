"""`flask --app api.wsgi tasks …`: what a task is at, for whoever looks after the system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click
import orjson
from flask.cli import AppGroup

from api.cli import plain_errors
from common.store import Inspection, TaskStore
from common.task import Call, Failure, Task, is_task_id
from common.webhook import Webhook

__all__ = ["make_task_commands"]

_json = click.option("--json", "as_json", is_flag=True, help="As JSON, for scripts.")


def make_task_commands(store: TaskStore) -> AppGroup:
    """The `tasks` commands."""
    group = AppGroup("tasks", help="Look at tasks, whoever submitted them.")

    @group.command("show", help="Show a task: its record, its paid calls and its timeline.")
    @click.argument("task_id")
    @click.option(
        "--prompt",
        is_flag=True,
        help="What people wrote as well: prompts, metadata, messages that may quote them.",
    )
    @_json
    def show(task_id: str, prompt: bool, as_json: bool) -> None:
        with plain_errors():
            found = store.inspect(task_id) if is_task_id(task_id) else None
        if found is None:
            raise click.ClickException(
                f"There is no task {task_id}. A finished one is kept for RETENTION_HOURS; "
                "`tasks list --open` shows those that have not ended."
            )
        about = _about(found, prompt=prompt)
        if as_json:
            click.echo(orjson.dumps(about, option=orjson.OPT_INDENT_2))
        else:
            for line in _page(about):
                click.echo(line)

    @group.command("list", help="List tasks that have not ended, or those of one key.")
    @click.option("--open", "open_", is_flag=True, help="Those that have not ended, oldest first.")
    @click.option("--key", help="Those of the key with this id, newest first.")
    @click.option("--limit", default=50, type=click.IntRange(1, 1000), show_default=True)
    @_json
    def list_(open_: bool, key: str | None, limit: int, as_json: bool) -> None:
        if open_ == (key is not None):
            raise click.UsageError("Say which: --open or --key KEY_ID.")
        with plain_errors():
            if key is None:
                # One more than is shown: it tells whether there are more.
                tasks = [found.task for found in store.open(limit=limit + 1)]
                more = len(tasks) > limit
                tasks = sorted(tasks[:limit], key=lambda task: task.created)
            else:
                page = store.list(key, limit=limit)
                tasks, more = (list(page.tasks), page.more) if page else ([], False)
        if as_json:
            click.echo(orjson.dumps([_row(task) for task in tasks], option=orjson.OPT_INDENT_2))
        else:
            for task in tasks:
                row = _row(task)
                if row["progress"]:
                    row["progress"] = f"{row['progress']} %"
                click.echo("  ".join(str(part) for part in row.values() if part is not None))
        if not tasks and not as_json:
            click.echo("There are none.")
        if more:
            click.echo(f"There are more than these {limit}; --limit shows up to 1000.", err=True)

    return group


def _row(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "submitted": _time(task.created),
        "status": task.status,
        "progress": task.progress or None,
        "blocked": task.blocked,
        "model": task.request.model,
        "owner": task.owner,
    }


def _about(found: Inspection, *, prompt: bool) -> dict[str, Any]:
    """What there is to know, in the order of the page; what there is not is left out."""
    task = found.task
    request = task.request
    words = ("prompt", "negative_prompt", "user")
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
        "submitted": _time(task.created),
        "cancellation": task.cancellation,
        "deadline": _time(task.deadline),
        "started": _time(task.started),
        "ended": _time(task.ended),
        "seconds": (task.ended - task.created) / 1000 if task.ended else None,
        "expires": _time(task.expires),
        "queue": task.queue,
        "queue_position": task.queue_position,
        "begins_in_seconds": task.begins_in,
        "held_by": found.worker,
        "held_until": _time(found.lease),
        "not_before": _time(found.retry_at),
        "attempts": found.attempts,
        "attempts_lost": found.losses,
        "sent": found.sent,
        "warnings": list(task.warnings),
        "calls": [_call(call, prompt=prompt) for call in found.calls],
        "failure": _failure(task.failure, prompt=prompt),
        "webhook": _webhook(task.webhook),
        "timeline": [
            {"at": _time(entry.at), "event": entry.event} | dict(entry.about)
            for entry in task.timeline
        ],
    }
    if task.result is not None:
        about["result"] = {
            "provider": task.result.provider,
            "provider_model": task.result.provider_model,
            "usage": task.result.usage,
            "images": [
                {k: v for k, v in asdict(image).items() if prompt or k != "revised_prompt"}
                for image in task.result.images
            ],
            "missing": [_failure(missing, prompt=prompt) for missing in task.result.missing],
        }
    if prompt:
        about |= {word: getattr(request, word) for word in words}
        about["metadata"] = dict(task.metadata) if task.metadata else None
    return {name: value for name, value in about.items() if value not in (None, [])}


def _call(call: Call, *, prompt: bool) -> dict[str, Any]:
    about: dict[str, Any] = {
        "first": call.first,
        "pictures": call.count,
        "route": f"{call.provider}/{call.model}",
        "state": call.state,
        "sent": None if call.begun is None else _time(round(call.begun * 1000)),
        "job": None if call.job is None else call.job["id"],
        "error": call.error,
        "usage": call.usage or None,
        "failure": _failure(call.failure, prompt=prompt),
    }
    return {name: value for name, value in about.items() if value is not None}


def _failure(failure: Failure | None, *, prompt: bool) -> dict[str, Any] | None:
    if failure is None:
        return None
    # The message may quote the provider, and the provider the prompt.
    return {name: v for name, v in asdict(failure).items() if prompt or name != "message"}


def _webhook(webhook: Webhook | None) -> dict[str, Any] | None:
    if webhook is None:
        return None
    # Of its address the host: the rest is the receiver's secret.
    return {
        "host": webhook.host,
        "delivery": webhook.delivery,
        "next_try": _time(webhook.next_at),
        "tries": [asdict(tried) | {"at": _time(tried.at)} for tried in webhook.tries],
    }


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(" ", "milliseconds")


def _page(about: dict[str, Any]) -> Iterator[str]:
    """The same for people: a line for each fact, and for each item of a list."""
    width = max(map(len, about)) + 2
    for name, value in about.items():
        label = name.replace("_", " ")
        items = value if isinstance(value, list) else [value]
        for item in items:
            yield f"{label:<{width}}{_text(item)}"
            label = ""


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in _said(value))
    if isinstance(value, list):
        return " and ".join(map(_text, value)) or "none"
    return str(value)


def _said(value: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((name, part) for name, part in value.items() if part not in (None, {}, []))
