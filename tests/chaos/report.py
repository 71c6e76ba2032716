"""Turns the reports of runs into the table that is published."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["as_markdown"]

_HEAD = ("run", "seed", "accepted", "completed", "failed", "lost", "bought twice", "slowest answer")

# What each run has to tell beside that: its figures, by their names in the report.
_MORE = {
    "A": ("kills", "open_calls_at_the_kills", "in_doubt_at_the_kills", "outcome_unknown"),
    "B": ("faults", "longest_until_work_goes_on", "outcome_unknown"),
    "C": ("rounds", "messages_lost", "slowest_task"),
    "D": (
        "freezes",
        "frozen_before_the_journal",
        "in_doubt_when_frozen",
        "completed_of_these",
        "late_answers_adopted",
        "outcome_unknown",
    ),
    "E": ("stopped", "losses", "outcome_unknown", "why_no_answer", "most_tries"),
    "F": ("answers",),
    "G": (
        "cases",
        "tasks_as_expected",
        "tasks_in_the_storm",
        "calls_refused_in_the_storm",
        "most_calls_for_a_task_in_the_storm",
    ),
    "H": ("latest_after_deadline", "losses", "outcome_unknown", "waiting_for_room"),
}


def as_markdown(directory: Path) -> str:
    """A table of all reports below a directory, and a line of where and how long they ran."""
    reports = [json.loads(path.read_text()) for path in sorted(directory.rglob("[A-H].json"))]
    rows = [row for report in reports for row in _rows(report)]
    lines = [_line([*_HEAD, "besides", "verdict"]), _line(["---"] * (len(_HEAD) + 2))]
    lines += [_line(row) for row in rows]
    machines = sorted({_machine(report) for report in reports})
    return "\n".join([*lines, "", *machines])


def _rows(report: dict[str, Any]) -> Iterator[list[str]]:
    run, figures = report["run"], report["figures"]
    parts = {f"{run} {name}": part for name, part in figures.items() if _is_part(part)}
    if not parts and not _is_part(figures):
        blank = ["-"] * (len(_HEAD) - 1)
        yield [f"{run}, {report['size']}", str(report["seed"]), *blank, "**waited in vain**"]
        return
    for name, part in (parts or {run: figures}).items():
        yield [
            f"{name}, {report['size']}",
            str(report["seed"]),
            _said(part["accepted"]),
            _said(part["completed"]),
            _said(part["failed"]) or "0",
            _said(len(part["lost"])),
            _said(len(part["bought_twice"])),
            f"{part['slowest_answer']:.2f} s",
            "; ".join(_named(part, figure) for figure in _MORE[run] if figure in part),
            "passed" if report["passed"] else "**failed**",
        ]


def _is_part(figures: Any) -> bool:
    return isinstance(figures, dict) and "accepted" in figures


def _named(figures: dict[str, Any], name: str) -> str:
    return f"{name.replace('_', ' ')}: {_said(figures[name]) or 'none'}"


def _said(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{name} {_inner(inner)}" for name, inner in value.items())
        case float():
            return f"{value:.2f}"
        case int():
            return f"{value:,}"
    return str(value)


def _inner(value: Any) -> str:
    return f"({_said(value)})" if isinstance(value, dict) else _said(value)


def _machine(report: dict[str, Any]) -> str:
    machine = report["machine"]
    settings = ", ".join(f"{name}={value}" for name, value in report["settings"].items())
    return (
        f"{machine['system']}, {machine['cores']} cores, Python {machine['python']}"
        f"{', ' if settings else ''}{settings}."
    )


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
