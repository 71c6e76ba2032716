"""Turns the reports of runs into the table that is published."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["as_markdown"]


def as_markdown(directory: Path) -> str:
    reports = [json.loads(path.read_text()) for path in sorted(directory.glob("?.json"))]
    return "\n".join(str(r["run"]) for r in reports)
