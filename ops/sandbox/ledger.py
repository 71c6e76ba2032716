"""Remembers what was bought and which calls came in."""

import json
import os
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

Call = Literal["submit", "poll", "download"]


class Ledger:
    """The purchases, one entry per picture. Safe to use from many threads.

    With a path each purchase is also appended to that file as one JSON line before `record`
    returns, and what the file holds is read back at the start: a killed sandbox forgets nothing.
    Raises OSError when the file cannot be read and written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._purchases: list[dict[str, Any]] = []
        self._file: int | None = None
        if path is not None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._read_back(path)

    def record(
        self,
        provider: str,
        *,
        prompt: str,
        model: str,
        job_id: str,
        count: int,
        seed: int | None = None,
    ) -> None:
        """Note that `count` pictures were bought, from now on and for ever.

        `seed` is the one that was asked for: it tells apart what was bought with one prompt.
        """
        entry = {
            "provider": provider,
            "prompt": prompt,
            "at": time.time(),
            "job_id": job_id,
            "model": model,
            "seed": seed,
        }
        with self._lock:
            self._purchases.extend([entry] * count)
            if self._file is not None:
                os.write(self._file, (json.dumps(entry) + "\n").encode() * count)

    def purchases(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._purchases)

    def clear(self) -> None:
        with self._lock:
            self._purchases.clear()
            if self._file is not None:
                os.ftruncate(self._file, 0)

    def _read_back(self, path: Path) -> None:
        assert self._file is not None
        for line in path.read_bytes().splitlines(keepends=True):
            # A line without its end was torn by a crash of the machine and was never answered for.
            if line.endswith(b"\n"):
                self._purchases.append(json.loads(line))
            else:
                os.ftruncate(self._file, path.stat().st_size - len(line))


class Calls:
    """Counts per provider the calls received, and those now being answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: defaultdict[str, dict[str, int]] = defaultdict(
            lambda: {"submits": 0, "polls": 0, "downloads": 0, "downloads_with_key": 0}
        )
        self._open: defaultdict[str, int] = defaultdict(int)

    def enter(self, provider: str, call: Call, *, leaked_key: bool = False) -> None:
        with self._lock:
            self._counts[provider][f"{call}s"] += 1
            self._counts[provider]["downloads_with_key"] += leaked_key
            self._open[provider] += 1

    def leave(self, provider: str) -> None:
        with self._lock:
            self._open[provider] -= 1

    def counts(self, providers: list[str]) -> dict[str, dict[str, int]]:
        """Of each provider: `submits`, `polls`, `downloads`, `downloads_with_key` and `open`."""
        with self._lock:
            return {name: self._counts[name] | {"open": self._open[name]} for name in providers}

    def clear(self) -> None:
        """Begin counting at nought; calls now open stay open."""
        with self._lock:
            self._counts.clear()
