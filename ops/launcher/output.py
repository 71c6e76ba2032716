"""What the launcher and its children say: one line each, with the name in front."""

from __future__ import annotations

import os
import zlib
from typing import TextIO

__all__ = ["Output"]

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # ANSI foregrounds, readable on dark and light


class Output:
    """Writes lines to `stream`; in colour when that is a terminal and NO_COLOR is not set."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = stream.isatty() and not os.environ.get("NO_COLOR")
        self._width = 8

    def line(self, name: str, text: str) -> None:
        """One line of the child `name`."""
        self._width = max(self._width, len(name))
        label = f"{name:{self._width}} |"
        if self._colour:
            label = f"\033[{_COLOURS[zlib.crc32(name.encode()) % len(_COLOURS)]}m{label}\033[0m"
        self.text(f"{label} {text}\n")

    def text(self, text: str) -> None:
        """Text as it is, unbroken by other lines."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # Nobody reads any more (`ops/run | head`): no reason to stop serving.
            self._stream = open(os.devnull, "w")  # noqa: SIM115,PTH123
