"""Large pictures: whether they hold the event loop, and what they take of memory."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from common.file_signer import FileSigner
from ops.bench.load import Load, get, run
from ops.bench.report import Finding, Row
from ops.bench.rig import Rig, rig
from ops.bench.stub import picture
from ops.bench.watched import LONG
from ops.bench.worker import feed, hearing, keep

__all__ = ["pictures"]


def pictures(directory: Path, brief: bool) -> Finding:
    """A PNG of 1,024 pixels square through fetch, check, store and serve, 200 in flight."""
    number = 10 if brief else 200
    size = len(picture(1024))
    files = {name: directory / f"{name}.holds" for name in ("worker", "web")}
    with rig(directory) as bench:
        bench.provider(side=1024, gate=number)
        web = bench.web(config="ops/bench/watched_gunicorn.conf.py", BENCH_HOLDS=str(files["web"]))
        bench.lines["worker"] = [sys.executable, "-m", "ops.bench.watched", "worker"]
        worker = bench.worker("gevent", number + 50, BENCH_HOLDS=str(files["worker"]))
        bench.start("beat", bench.lines["beat"])
        idle, peak = worker.memory(), _Peak(worker.memory)
        began = time.monotonic()
        with hearing(bench.redis_url) as ends:
            ids = list(feed(keep(bench.store, number), number, 0))
            ends.wait(ids, 300)
        took = time.monotonic() - began
        most = peak.end() - idle
        idle, peak = web.memory(), _Peak(web.memory)
        served = run(Load(web.port, _addresses(bench, ids), 1 if brief else 6, connections=number))
        web_most = peak.end() - idle
        time.sleep(0.5)  # the last holds are written down
    holds = {name: json.loads(file.read_text()) for name, file in files.items()}
    rows = [
        Row(
            f"longest hold of the {name}'s event loop, {number} × {size / 1e6:.1f} MB",
            "≤ 20 ms of its own",
            f"{1000 * held['loop']['worst'][0]:.0f} ms, {held['loop']['over']} of more than 20 ms; "
            f"with what others had of the processor "
            f"{1000 * held['all']['worst'][0]:.0f} ms, {held['all']['over']}",
            met=None if brief else held["loop"]["worst"][0] <= LONG,
        )
        for name, held in holds.items()
    ]
    rows += [
        Row(
            "memory of the worker, above idle",
            "≤ 4 × the bytes in flight",
            f"{most / 1e6:.0f} MB for {number * size / 1e6:.0f} MB",
            ratio=f"{most / number / size:.1f}",
            met=None if brief else most <= 4 * number * size,
        ),
        Row(
            "memory of the front end, above idle, as they are loaded",
            "",
            f"{web_most / 1e6:.0f} MB; {served.rate:.0f} pictures/s, "
            f"p99 {1000 * served.p99:.0f} ms",
        ),
        Row("pictures checked and stored", "", f"{number / took:.0f} a second"),
    ]
    numbers = {
        "bytes": size,
        "holds": holds,
        "worker_bytes": most,
        "web_bytes": web_most,
        "seconds": took,
        "served_rate": served.rate,
    }
    return Finding(rows, numbers)


def _addresses(bench: Rig, ids: list[str]) -> list[str]:
    """A request for the picture of each task."""
    signer, requests = FileSigner(bench.client), []
    for task_id in ids:
        task = bench.store.read(task_id)
        assert task is not None
        assert task.result is not None, task.failure
        name = task.result.images[0].name
        requests.append(get(signer.path(name, int(time.time()) + 3600)))
    return requests


class _Peak:
    """The most that something comes to, looked at a few times a second."""

    def __init__(self, look: Callable[[], int]) -> None:
        self._look = look
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self._most = max(self._most, self._look())

    def end(self) -> int:
        self._over.set()
        self._thread.join()
        return max(self._most, self._look())
