"""Notes how long the event loop of a process is held: `python -m ops.bench.watched worker`.

A greenlet sleeps for a millisecond again and again; how much later it wakes, somebody has held the
loop. On a busy machine that may be another process, which has the processor instead. So three kinds
are told: all by the clock, those of them in which this process had the processor, and what the
loop's own thread had of it. The longest of each are written to the file that BENCH_HOLDS names.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["LONG", "watch"]

LONG = 0.02  # seconds that nobody is to hold it for
_TICK = 0.001
_KEPT = 20
_AT_FIRST = 1.0  # seconds, in which code is still being imported


@dataclass
class _Holds:
    """In seconds: the longest, and how many were too long."""

    over: int = 0
    worst: list[float] = field(default_factory=list)

    def note(self, held: float) -> None:
        self.over += held > LONG
        self.worst = sorted([*self.worst, held], reverse=True)[:_KEPT]


def watch() -> None:
    """Begin to watch the loop of this process, until it ends."""
    import gevent

    gevent.spawn(_watch, Path(os.environ["BENCH_HOLDS"]), gevent.sleep)


def _watch(file: Path, sleep: object) -> None:
    assert callable(sleep)
    kinds = {"all": _Holds(), "process": _Holds(), "loop": _Holds()}
    said = 0.0
    sleep(_AT_FIRST)
    while True:
        began, process, loop = time.perf_counter(), time.process_time(), time.thread_time()
        sleep(_TICK)
        now = time.perf_counter()
        held = now - began - _TICK
        kinds["all"].note(held)
        kinds["process"].note(min(held, time.process_time() - process))
        kinds["loop"].note(time.thread_time() - loop)
        if now - said > 0.25:
            draft = file.with_suffix(".new")
            draft.write_text(json.dumps({name: asdict(holds) for name, holds in kinds.items()}))
            draft.replace(file)
            said = now


def main(arguments: list[str]) -> int:
    """The product's own entry point, under gevent, with its loop watched."""
    from gevent import monkey

    if not monkey.is_module_patched("threading"):
        command = ["-m", "gevent.monkey", "--module", "ops.bench.watched", *arguments]
        os.execv(sys.executable, [sys.executable, *command])  # noqa: S606
    from workers.__main__ import main as workers

    watch()
    return workers(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
