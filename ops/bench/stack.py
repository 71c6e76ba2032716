"""The whole stack: what it takes when nobody asks for anything, and its round trips to Redis."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ops.bench.front_end import SUBMIT, kept
from ops.bench.load import Load, get, run
from ops.bench.report import Finding, Row
from ops.bench.rig import KEY, ROOT, Rig, rig, until
from ops.bench.worker import hearing

__all__ = ["idle", "round_trips", "waiters"]

_BODY = re.compile(r'"body": "([A-Za-z0-9+/=]+)"')


def idle(directory: Path, brief: bool) -> Finding:
    """The processor time and memory of a stack that has nothing to do."""
    seconds = 3 if brief else 60
    with rig(directory, SANDBOX="on") as bench:
        processes = [bench.valkey, bench.web(), bench.worker("threads", 500)]
        processes += [bench.start(name, bench.lines[name]) for name in ("beat", "flower")]
        time.sleep(2 if brief else 10)  # what happens at the start is over
        before = {running.name: running.cpu() for running in processes}
        time.sleep(seconds)
        cpu = {r.name: 100 * (r.cpu() - before[r.name]) / seconds for r in processes}
        memory = {running.name: running.share() / 1e6 for running in processes}
    rows = [
        Row(
            "idle stack: processor time",
            "< 2 % of a core",
            ", ".join(f"{name} {percent:.1f}" for name, percent in cpu.items()),
            ratio=f"{sum(cpu.values()):.1f} %",
            met=None if brief else sum(cpu.values()) < 2,
        ),
        Row(
            "idle stack: memory",
            "< 400 MB",
            ", ".join(f"{name} {megabytes:.0f}" for name, megabytes in memory.items()),
            ratio=f"{sum(memory.values()):.0f} MB",
            met=None if brief else sum(memory.values()) < 400,
        ),
    ]
    return Finding(rows, {"cpu_percent": cpu, "megabytes": memory})


def round_trips(directory: Path, brief: bool) -> Finding:
    """Commands to Redis per submit, poll and inline task; one of each is enough to count."""
    with rig(directory) as bench:
        bench.provider(delay=0.05)
        web = bench.web()
        worker = bench.worker("threads", 10)
        own = get(f"/v1/tasks/{kept(bench.store, bench.owner)}", Authorization=f"Bearer {KEY}")
        with hearing(bench.redis_url) as ends:

            def submit() -> str:
                ((_, answer),) = run(Load(web.port, [SUBMIT], 0, 1, trace=True)).answers
                return answer.partition('"id":"')[2][:40]

            ends.wait([submit()], 60)  # what is remembered for some seconds is there from now on
            run(Load(web.port, [own], 0.2, 1))
            with watching(bench) as sent:
                task_id = submit()
                # The event of the end comes behind the end itself.
                until(lambda: any(_tells_end(task_id, command) for command in sent), "the end")
            with watching(bench) as asked:
                polled = run(Load(web.port, [own], 0.05, 1))
        assert worker.process.poll() is None
    counts = {
        "submit": sum(f" create {task_id}" in command for command in sent),
        # Celery's own as well: one look into the queues, and events for Flower.
        "task": 1 + sum(_is_about(task_id, c) and f" create {task_id}" not in c for c in sent),
        "poll": sum(" look " in command for command in asked) / polled.count,
    }
    about = [command for command in sent if _is_about(task_id, command)]
    operations = Counter(c.split(" ")[3 if c.startswith("FCALL") else 0] for c in about)
    rows = [
        Row(
            f"round trips to Redis per {what}",
            f"≤ {most}",
            f"{counts[what]:.3g}",
            met=counts[what] <= most,
        )
        for what, most in (("submit", 2), ("poll", 1), ("task", 8))
    ]
    return Finding(rows, {"round_trips": counts, "operations": operations})


def _is_about(task_id: str, command: str) -> bool:
    """Whether a command is, or publishes an event, of a task."""
    if " renew " in command:
        return False
    return task_id in command or any(e.get("uuid") == task_id for e in _events(command))


def _tells_end(task_id: str, command: str) -> bool:
    return any(
        (e.get("uuid"), e.get("type")) == (task_id, "task-succeeded") for e in _events(command)
    )


def _events(command: str) -> list[dict[str, Any]]:
    """What a command publishes for Flower."""
    body = _BODY.search(command) if command.startswith("PUBLISH") else None
    told = [] if body is None else json.loads(b64decode(body[1]))
    return [event for event in told if "type" in event] if isinstance(told, list) else [told]


@contextlib.contextmanager
def watching(bench: Rig) -> Iterator[list[str]]:
    """The commands that clients send to Redis meanwhile; not those within functions."""
    seen: list[str] = []
    over = threading.Event()
    monitor: Any = bench.client.monitor()  # type: ignore[no-untyped-call]
    with monitor:

        def listen() -> None:
            while not over.is_set():
                told: Any = monitor.next_command()
                if told["client_type"] != "lua":
                    seen.append(told["command"])

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield seen
        finally:
            over.set()
            bench.client.ping()
            listener.join(10)


def waiters(directory: Path, brief: bool) -> Finding:
    """Requests that one front end holds, where `ops.bench.waiters` is there to measure them."""
    if importlib.util.find_spec("ops.bench.waiters") is None:
        return Finding([Row("waiters of one front end", "≥ 2000", "not measured")], {})
    number = 100 if brief else 2000
    told = subprocess.run(
        [sys.executable, "-m", "ops.bench.waiters", f"--requests={number}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=300,
    ).stdout
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "waiters.md").write_text(told)
    head, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in told.splitlines()
    ]
    rows, found = [], []
    for line in lines:
        cells = dict(zip(head, line, strict=True))
        found.append(cells)
        late, each = float(cells["p99 ms"]), float(cells["kB each"])
        ours = not cells["tasks end"].startswith("none")  # else it is the floor
        rows.append(
            Row(
                f"waiters of one front end, tasks end {cells['tasks end']}",
                "≥ 2000, ≤ 40 kB each, told within 100 ms" if ours else "",
                f"{cells['requests']}, {each:.0f} kB each, p99 {late:.0f} ms",
                met=late <= 100 and each <= 40 if ours and not brief else None,
            )
        )
    return Finding(rows, {"waiters": found})
