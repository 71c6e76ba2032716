"""What the user is told beside the results: lines, and how far a task is, on stderr."""

from __future__ import annotations

import os
import time
from typing import Any, TextIO

__all__ = ["FINAL", "Screen", "plain"]

FINAL = ("completed", "failed")

_BAR = 24  # characters


def plain(text: object) -> str:
    """A text of the server's as one line without control characters, which a terminal obeys."""
    return "".join(c if c.isprintable() else " " for c in str(text))


class Screen:
    """Draws a bar where `stream` is a terminal, and else writes a line for each change."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn = False
        self._told = ""
        self._began = time.monotonic()

    def tell(self, text: str) -> None:
        """A line, or several; a bar that is drawn goes on below it."""
        self._clear()
        self._write(f"{text}\n")

    def show(self, task: dict[str, Any]) -> None:
        """How far a task is, as polling tells it."""
        state = _state(task)
        if not self.is_terminal:
            if state != self._told:
                self._write(f"{state}\n")
            self._told = state
            return
        line = f"{_bar(task)}  {state}, {time.monotonic() - self._began:.0f} s"
        if (left := task.get("eta_seconds")) is not None:
            line += f", about {plain(left)} s to go"
        ends = task["status"] in FINAL
        self._write(f"\r{line[: self._width - 1]}\033[K" + "\n" * ends)
        self._drawn = not ends

    def leave(self) -> None:
        """Leave a bar that is drawn as it is."""
        if self._drawn:
            self._write("\n")
            self._drawn = False

    def _clear(self) -> None:
        if self._drawn:
            self._write("\r\033[K")
            self._drawn = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    @property
    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:
            return 80


def _state(task: dict[str, Any]) -> str:
    state = plain(task["status"])
    if task["status"] not in FINAL:
        state += f" {_percent(task)} %"
    if (place := task.get("queue_position")) is not None:
        state += f", place {plain(place)} in the queue"
    if reason := task.get("blocked_reason"):
        state += f", held up: {plain(reason)}"
    return state


def _bar(task: dict[str, Any]) -> str:
    done = _BAR * _percent(task) // 100
    return f"[{'#' * done}{'-' * (_BAR - done)}]"


def _percent(task: dict[str, Any]) -> int:
    progress = task.get("progress")
    return max(0, min(100, progress)) if isinstance(progress, int) else 0
