"""What keeps the launcher from its work and is no defect: said in a line or two, no traceback."""

from __future__ import annotations

__all__ = ["LauncherError"]


class LauncherError(Exception):
    """The text says what happened, where, and what would help."""
