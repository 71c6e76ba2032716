"""The run in which what lies around the system fails: its beat, its disk, its clocks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.bench import Bench
from tests.chaos.load import Order, orders
from tests.chaos.models import ONLY
from tests.chaos.system import LEASE, START, System
from tests.processes import until

PATIENCE = 120.0  # seconds in which some task must end, until all have
LATE = 30.0  # seconds after its deadline until a task must have ended
HOUR = 3600

_WITH_JOBS = ("bfl", "replicate", "fal", "midjourney")

# How a worker gets a clock that is wrong: Python runs this before anything else. Redis is asked for
# the time of leases and deadlines; this is everything else that a worker could go by.
_WRONG_CLOCK = """
import os, time
_true, _true_ns, _shift = time.time, time.time_ns, float(os.environ["CLOCK_SHIFT"])
time.time = lambda: _true() + _shift
time.time_ns = lambda: _true_ns() + int(_shift * 1e9)
"""


def surroundings_fail(bench: Bench) -> None:
    """H: no beat for five minutes, a full disk, workers whose clocks are an hour wrong."""
    _without_beat(bench)
    _on_a_full_disk(bench)
    _with_wrong_clocks(bench)


def _without_beat(bench: Bench) -> None:
    """Nobody looks for what is due, and workers die. Jobs that never end have short deadlines."""
    seconds, providers = bench.size(full=(300.0, _WITH_JOBS * 5), short=(8.0, ()))
    endless = [
        Order(90_000 + index, 0.0, ONLY[provider], words="sim:never_ready")
        for index, provider in enumerate(providers)
    ]
    with bench.system(part="beat", workers=2) as system:
        with bench.load(system, orders(bench.rng, 2.0)) as client:
            bench.watch(client, lambda: "no beat")
            client.start(endless)
            system.kill("beat")
            bench.note("no beat")
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                time.sleep(min(LEASE, seconds / 3))
                _kill_one(bench, system)
            returned = system.now()
            system.begin("beat")
            bench.note("beat again")
            bench.settle(client, system, PATIENCE)
        _judge(bench, system, not_before=returned)


def _on_a_full_disk(bench: Bench) -> None:
    """There is no room for pictures, which are paid for; after a while there is again."""
    seconds = bench.size(full=60.0, short=5.0)
    directory = bench.directory / "small-disk"
    with _small_disk(directory) as mounted:
        if not mounted:
            bench.figures["disk"] = "not tried: only root can mount a small disk"
            return
        url = (directory / "images").as_uri()
        # What is kept back for accepted work is usually more than this whole disk.
        small = {"STORAGE_URL": url, "DISK_RESERVE_MB": "1"}
        with bench.system(part="disk", workers=2, **small) as system:
            with bench.load(system, orders(bench.rng, 3.0)) as client:
                bench.watch(client, lambda: "the disk is full")
                until(lambda: client.ended >= 5, "some tasks", START)
                ballast = directory / "ballast"
                _fill(ballast)
                bench.note("full")
                time.sleep(seconds)
                client.enough()
                waiting = len(system.open_records())
                ballast.unlink()
                bench.note("room again", waiting=waiting)
                bench.settle(client, system, PATIENCE)
            completed = _judge(bench, system, images=directory / "images")
            bench.figures["disk"]["waiting_for_room"] = waiting
            bench.require("disk: waited for room", waiting, waiting > 0, "some")
            all_of_them = len(system.records())
            bench.require(
                "disk: completed", completed, completed == all_of_them, f"all {all_of_them}"
            )


def _with_wrong_clocks(bench: Bench) -> None:
    """One worker is an hour ahead, one an hour behind; they take over from each other."""
    kills = bench.size(full=10, short=2)
    clock = bench.directory / "wrong-clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(_WRONG_CLOCK)
    apart = {
        worker: {"PYTHONPATH": str(clock), "CLOCK_SHIFT": str(shift)}
        for worker, shift in (("worker.1", HOUR), ("worker.2", -HOUR))
    }
    with bench.system(part="clock", workers=2, apart=apart) as system:
        done = 0
        with bench.load(system, orders(bench.rng, 4.0)) as client:
            bench.watch(client, lambda: f"{done} of {kills} kills of workers with wrong clocks")
            for _ in range(kills):
                time.sleep(bench.rng.uniform(2.0, 4.0))
                _kill_one(bench, system)
                done += 1
            bench.settle(client, system, PATIENCE)
        _judge(bench, system)


def _kill_one(bench: Bench, system: System) -> None:
    victim = bench.rng.choice(system.workers)
    until(lambda: system.is_ready(victim), f"{victim} ready", START)
    system.kill(victim)
    bench.note("killed", who=victim)
    system.begin(victim)


def _judge(bench: Bench, system: System, *, not_before: int = 0, images: Path | None = None) -> int:
    """How many tasks are complete; every one has to have ended by its deadline, or by the time from
    which that was possible, and LATE seconds."""
    late = max(
        (int(record.get("ended", sys.maxsize)) - max(int(record["deadline"]), not_before)) / 1000
        for record in system.records()
    )
    counted = bench.judge(system, images=images, latest_after_deadline=max(0.0, late))
    bench.require(
        f"{bench.part}: latest after its deadline", late, late <= LATE, f"at most {LATE:.0f} s"
    )
    return int(counted["completed"])


@contextlib.contextmanager
def _small_disk(directory: Path) -> Iterator[bool]:
    """A small disk at a directory; false where that cannot be had."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "chaos", str(directory)]
    can = sys.platform == "linux" and os.geteuid() == 0
    if not can or subprocess.run(mount, capture_output=True).returncode != 0:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def _fill(path: Path) -> None:
    """Write until there is no room left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
