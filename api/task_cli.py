"""`flask --app api.wsgi tasks …`: what a task is at, for whoever looks after the system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import click
import orjson
from flask.cli import AppGroup

from api.cli import plain_errors
from api.inspection import describe
from common.store import TaskStore
from common.task import Task, is_task_id

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
        about = describe(found, _time, words=prompt)
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
