"""Bodies of the API as text for people."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from ops.client.screen import FINAL, plain

__all__ = ["model_lines", "models_table", "task_lines", "tasks_table"]

_SHOWN_SIZES = 3
_SHOWN_PROMPT = 48  # characters


def models_table(models: Iterable[dict[str, Any]]) -> list[str]:
    """A row for each model: what can be used now, which sizes it takes, how long it takes."""
    rows = [("MODEL", "STATUS", "USUAL TIME", "PRICE", "MAX N", "SIZES")]
    for model in models:
        image = model.get("image") or {}
        rows.append(
            (
                plain(model.get("id")),
                _availability(image),
                _seconds(image.get("typical_seconds")),
                _price(image.get("price_per_image_usd")),
                plain(image.get("max_n")),
                _sizes(image.get("sizes") or []),
            )
        )
    return _aligned(rows)


def model_lines(model: dict[str, Any]) -> list[str]:
    """All about one model."""
    image = model["image"]
    edits = image.get("edits")
    return _described(
        plain(model.get("id")),
        {
            "about": image.get("description"),
            "status": _availability(image),
            "usual time": _seconds(image.get("typical_seconds")),
            "price": f"{_price(image.get('price_per_image_usd'))} per picture",
            "sizes": ", ".join(map(str, image.get("sizes") or [])),
            "usual size": image.get("default_size"),
            "most at once": image.get("max_n"),
            "parameters": ", ".join(map(str, image.get("parameters") or [])),
            "qualities": ", ".join(map(str, image.get("qualities") or [])),
            "styles": ", ".join(map(str, image.get("styles") or [])),
            "formats": ", ".join(map(str, image.get("output_formats") or [])),
            "edits": f"up to {edits.get('max_images')} images" if edits else "no",
        },
    )


def tasks_table(tasks: Iterable[dict[str, Any]]) -> list[str]:
    """A row for each task."""
    rows = [("TASK", "STATUS", "MODEL", "CREATED", "PROMPT, OR WHAT WENT WRONG")]
    for task in tasks:
        prompt = next((entry.get("revised_prompt") for entry in task["data"]), None)
        about = plain(prompt or task.get("error") or "")
        rows.append(
            (
                plain(task["id"]),
                _status(task),
                plain(task.get("model")),
                _moment(task.get("created")),
                about[:_SHOWN_PROMPT] + ("…" if len(about) > _SHOWN_PROMPT else ""),
            )
        )
    return _aligned(rows)


def task_lines(task: dict[str, Any]) -> list[str]:
    """All about one task that its owner may want to know."""
    usage = task.get("usage") or {}
    about = {
        "status": _status(task),
        "model": task.get("model"),
        "created": _moment(task.get("created")),
        "ended": _moment(task.get("completed_at") or task.get("failed_at")),
        "kept until": _moment(task.get("expires_at")),
        "place": task.get("queue_position"),
        "to go": _seconds(task.get("eta_seconds")),
        "held up": task.get("blocked_reason"),
        "made by": task.get("provider"),
        "cost": _price(usage.get("cost_usd")),
        "error": task.get("error"),
    }
    lines = _described(plain(task["id"]), about)
    lines += [f"  warning       {plain(text)}" for text in task.get("warnings") or []]
    return lines + [f"  picture       {plain(entry['url'])}" for entry in _with_address(task)]


def _with_address(task: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in task["data"] if entry.get("url")]


def _described(title: str, about: dict[str, Any]) -> list[str]:
    known = {name: plain(value) for name, value in about.items() if value not in (None, "", "-")}
    return [title, *(f"  {name:13} {value}" for name, value in known.items())]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _availability(image: dict[str, Any]) -> str:
    return "available" if image.get("available") else "not configured"


def _status(task: dict[str, Any]) -> str:
    status = plain(task["status"])
    if task.get("cancelled"):
        return f"{status} (cancelled)"
    if status not in FINAL and task.get("progress"):
        return f"{status} {plain(task['progress'])} %"
    return status


def _sizes(sizes: Sequence[Any]) -> str:
    shown = ", ".join(map(plain, sizes[:_SHOWN_SIZES]))
    more = len(sizes) - _SHOWN_SIZES
    return f"{shown} and {more} more" if more > 0 else shown


def _seconds(seconds: Any) -> str:
    return f"{seconds:.0f} s" if isinstance(seconds, int | float) else "-"


def _price(dollars: Any) -> str:
    return f"${dollars:.4g}" if isinstance(dollars, int | float) else "-"


def _moment(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
