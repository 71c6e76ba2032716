"""What a run found: rows of a table, the numbers behind them, and drawings of some of these."""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["Finding", "Row", "Series", "drawing", "machine", "ratio_row", "spread", "table"]

_COLOURS = ("#2563eb", "#dc2626", "#059669", "#9333ea", "#d97706")


@dataclass(frozen=True)
class Row:
    """One line of the table. `met` None: there is no target, or this run was too short for it."""

    what: str
    target: str
    figure: str
    spread: str = ""
    ratio: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "missed", None: "–"}[self.met]


@dataclass(frozen=True)
class Series:
    """A line of a drawing."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Finding:
    """What a case found. `drawings` by file name: title, what is to the right, what is upwards, and
    the lines."""

    rows: Sequence[Row]
    numbers: Mapping[str, Any]
    drawings: Mapping[str, tuple[str, str, str, Sequence[Series]]] = field(default_factory=dict)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    return f"{min(values):{form}}–{max(values):{form}}"


def ratio_row(
    what: str, ours: Sequence[float], theirs: Sequence[float], target: float, than: str
) -> Row:
    """A row for rates of rounds that took turns: the median of the rounds' own ratios."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    return Row(
        what,
        f"≥ {target} × {than}",
        f"{statistics.median(ours):.0f}/s, {than} {statistics.median(theirs):.0f}/s",
        spread(ratios),
        f"{ratio:.2f}",
        ratio >= target,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| what | target | figure | ratio | spread | |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.what} | {row.target} | {row.figure} | {row.ratio} | {row.spread} | {row.verdict} |"
        for row in rows
    ]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where and when, and how busy it was with other things."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "cores": os.cpu_count(),
        "processor": names[0] if names else platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def drawing(title: str, right: str, up: str, lines: Sequence[Series]) -> str:
    """Lines as an SVG; to the right by logarithm where that spans more than a hundredfold."""
    width, height, left, top, bottom = 720, 400, 70, 40, 60
    xs = [x for line in lines for x, _ in line.points]
    most_y = max((y for line in lines for _, y in line.points), default=1) * 1.1 or 1
    logarithmic = min(xs) > 0 and max(xs) / min(xs) > 100

    def place(x: float) -> float:
        if max(xs) == min(xs):
            return width / 2
        low, high, at = min(xs), max(xs), x
        if logarithmic:
            low, high, at = _log(low), _log(high), _log(x)
        return left + (at - low) / (high - low) * (width - left - 30)

    def rise(y: float) -> float:
        return height - bottom - y / most_y * (height - top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{width / 2}" y="22" text-anchor="middle" font-size="15">{escape(title)}</text>',
        f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">{escape(right)}</text>',
        f'<text x="16" y="{height / 2}" text-anchor="middle" '
        f'transform="rotate(-90 16 {height / 2})">{escape(up)}</text>',
    ]
    for step in range(6):
        y = most_y * step / 5
        parts.append(
            f'<line x1="{left}" x2="{width - 30}" y1="{rise(y):.1f}" y2="{rise(y):.1f}" '
            f'stroke="#ddd"/><text x="{left - 6}" y="{rise(y) + 4:.1f}" '
            f'text-anchor="end">{y:.4g}</text>'
        )
    parts += [
        f'<text x="{place(x):.1f}" y="{height - bottom + 18}" text-anchor="middle">{x:,.0f}</text>'
        for x in sorted(set(xs))
    ]
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{place(x):.1f},{rise(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{place(x):.1f}" cy="{rise(y):.1f}" r="3" fill="{colour}"/>'
            for x, y in line.points
        ]
        parts.append(
            f'<text x="{left + 12}" y="{top + 14 + 16 * number}" fill="{colour}">'
            f"{escape(line.name)}</text>"
        )
    return "\n".join([*parts, "</svg>\n"])


def _log(value: float) -> float:
    return math.log10(value)
