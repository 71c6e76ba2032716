"""What every run of the chaos suite stands on: the system, the load, the notes and the verdict."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import redis

from tests.chaos.checker import Evidence, count
from tests.chaos.load import Client, Log, Order
from tests.chaos.system import System, running

__all__ = ["CAME_TO_ITS_END", "Bench"]

CAME_TO_ITS_END = "came to its end"  # what is not so when a run has waited in vain

T = TypeVar("T")

_SAY_EVERY = 5.0  # seconds

# What no run may have, whatever was broken.
_NEVER = (
    "lost",
    "bought_twice",
    "records_open",
    "records_doubled",
    "records_that_differ",
    "went_back",
    "changed_after_the_end",
    "images_bad",
    "pictures_not_bought",
    "answers_beside_2xx_and_503",
)


class Bench:
    """One run: its letter, its seed, its size, its directory, and what is found out.

    All choices of a run come from `rng`, so that the same seed breaks the same things.
    """

    def __init__(
        self,
        run: str,
        *,
        seed: int,
        full: bool,
        directory: Path,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.run = run
        self.full = full
        self.rng = random.Random(f"{run}{seed}")
        self.directory = directory
        self.part = ""
        self.figures: dict[str, Any] = {}
        self.checks: list[dict[str, Any]] = []
        self._seed = seed
        self._settings = settings or {}
        self._began = time.monotonic()
        self._state: Callable[[], str] = lambda: "starting"
        self._over = threading.Event()
        directory.mkdir(parents=True)
        self._notes = Log(directory / "events.jsonl")

    def size(self, *, full: T, short: T) -> T:
        return full if self.full else short

    def note(self, what: str, **fields: Any) -> None:
        """Write down what was done to the system, and when."""
        self._notes.write(what, **fields)

    def say(self, text: str) -> None:
        seconds = time.monotonic() - self._began
        print(f"[{self.run} {seconds:5.0f} s] {text}", file=sys.stderr, flush=True)

    # -- the system and its load

    @contextlib.contextmanager
    def system(self, part: str = "", **options: Any) -> Iterator[System]:
        """A running system below the run's directory; `part` names one of several in a run."""
        self.part = part
        self.say(f"starting the system {part}".strip())
        directory = self.directory / part
        directory.mkdir(exist_ok=True)
        with running(System(directory, **options | self._settings)) as system:
            self.say("the system is ready")
            yield system

    @contextlib.contextmanager
    def load(
        self,
        system: System,
        wanted: Iterable[Order],
        *,
        urls: Sequence[str] = (),
        **options: Any,
    ) -> Iterator[Client]:
        """A client that carries out orders, beside which the block breaks things.

        It asks at `urls`, or at all front ends of the system; `options` are those of `Client`.
        """
        log = Log(system.directory / "client.jsonl")
        client = Client(urls or system.urls, log, **options)
        try:
            client.start(wanted)
            yield client
        finally:
            client.stop()
            log.close()

    def settle(self, client: Client, system: System, seconds: float) -> None:
        """Wait until all that was begun has ended, or nothing has for so many seconds: what is
        still open then is going to be found.

        A busy machine may take its time, as long as it gets on.
        """
        client.enough()

        def is_over() -> bool:
            with contextlib.suppress(redis.RedisError):
                return client.is_done() and system.settled()
            return False

        ended = -1
        while ended < client.ended and not is_over():
            ended = client.ended
            self._wait(is_over, seconds)
        looked = client.answered + client.look_again()
        self._wait(lambda: client.answered >= looked, 60)

    def watch(self, client: Client, faults: Callable[[], str]) -> None:
        """Say from now on how far the load has come, and the faults."""
        self._state = lambda: (
            f"{client.submitted} submitted, {client.open} open, {client.ended} ended; {faults()}"
        )

    def judge(
        self, system: System, *, images: Path | None = None, **figures: Any
    ) -> dict[str, Any]:
        """Count what came of it, and hold it against what no run may have.

        `images` is where they are stored, if not in the usual place. `figures` are published with
        those of the checker.
        """
        self.say("counting")
        counted = count(Evidence.of(system.directory, system.records(), images))
        self.figures |= {self.part: figures | counted} if self.part else figures | counted
        for name in _NEVER:
            what = f"{self.part}: {name}" if self.part else name
            self.require(what, counted[name], not counted[name], "none")
        system.keep_evidence()
        return counted

    def require(self, what: str, found: Any, ok: bool, allowed: str) -> None:
        """One thing the run is judged by."""
        self.checks.append({"what": what, "found": found, "allowed": allowed, "ok": bool(ok)})

    # -- the frame

    def carry_out(self, break_things: Callable[[Bench], None]) -> dict[str, Any]:
        """Do it, and return the report, which is also written beside the run's directory."""
        speaker = threading.Thread(target=self._speak, daemon=True)
        speaker.start()
        try:
            break_things(self)
        except AssertionError as error:  # something was waited for in vain
            self.require(CAME_TO_ITS_END, str(error), ok=False, allowed="all that was waited for")
        finally:
            self._over.set()
            speaker.join()
            self._notes.close()
        report = self._report()
        path = self.directory.with_suffix(".json")
        path.write_text(json.dumps(report, indent=2) + "\n")
        for check in self.checks:
            if not check["ok"]:
                self.say(f"FAILED  {check['what']}: {check['found']}; allowed: {check['allowed']}")
        self.say(f"{'passed' if report['passed'] else 'FAILED'}, see {path}")
        return report

    def _report(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "size": "full" if self.full else "short",
            "seed": self._seed,
            "settings": self._settings,
            "passed": bool(self.checks) and all(check["ok"] for check in self.checks),
            "seconds": round(time.monotonic() - self._began, 1),
            "machine": {
                "cores": os.cpu_count(),
                "system": f"{platform.system()} {platform.machine()}",
                "python": platform.python_version(),
            },
            "checks": self.checks,
            "figures": self.figures,
        }

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        ends = time.monotonic() + seconds
        while not condition() and time.monotonic() < ends:
            time.sleep(0.1)

    def _speak(self) -> None:
        while not self._over.wait(_SAY_EVERY):
            self.say(self._state())
