"""What one generation costs each process from submit to end: processor, memory, bytes.

These are what `ops.capacity` reckons with. What the same processes use when they have nothing to do
is taken off. The least of all rounds counts: others on the machine can only add to it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from common.file_signer import FileSigner
from ops.bench.front_end import SUBMIT, kept
from ops.bench.load import Load, get, post, run
from ops.bench.report import Finding, Row
from ops.bench.rig import KEY, Rig, Running, rig, until
from ops.bench.stub import picture
from ops.bench.worker import Ends, feed, hearing, keep
from ops.launcher.ports import is_free, pick_free_port
from workers.providers.replicate import Replicate

__all__ = ["generation"]

_JOB = {"model": "flux-schnell", "prompt": "a red apple on a wooden table"}
_SHORT, _LONG = 2.0, 8.0  # seconds that a provider works on a job


def generation(directory: Path, brief: bool) -> Finding:
    """What a whole generation costs each process, inline, with a large picture and as a job."""
    rate, seconds = (20.0, 1.0) if brief else (60.0, 6.0)
    rounds = 1 if brief else 3
    found: dict[str, list[dict[str, float]]] = {}
    numbers: dict[str, Any] = {"rounds": found, "picture_bytes": len(picture(1024))}
    for name, side, share in (("inline", 64, 1.0), ("large", 1024, 1 / 6))[: 1 if brief else 2]:
        with rig(directory / name) as bench:
            bench.provider(0.5, side)
            stack = _Stack(bench, 0.3 if brief else 5)
            found[name] = [stack.measure(SUBMIT, share * rate, seconds) for _ in range(rounds)]
            numbers["served_us"] = min(stack.serve(seconds / 2) for _ in range(rounds))
            numbers["idle"] = stack.idle
    with rig(directory / "kept") as bench:  # nobody works on what is kept there
        web = bench.web()
        found["poll"] = [_polls(bench, web, seconds / 2) for _ in range(rounds)]
        numbers["renewed_us"] = _renewals(bench, 50 if brief else 1000)
    if not brief:
        with rig(directory / "slots") as bench:
            numbers["slot_bytes"] = _slot(bench, 400)
    for name, delay in (("job", _SHORT), ("job, long", _LONG))[: 1 if brief else 2]:
        port = pick_free_port()
        with rig(directory / f"{delay:.0f}", SANDBOX="on", SANDBOX_PORT=str(port)) as bench:
            _start_sandbox(bench, port, delay)
            stack = _Stack(bench, 0.3 if brief else 5)
            request = post("/v1/images/generations", _JOB, Authorization=f"Bearer {KEY}")
            found[name] = [stack.measure(request, rate / 3, seconds) for _ in range(rounds)]
    # By how many more looks a long job has.
    numbers["looks"] = (_LONG - _SHORT) / Replicate.poll_every
    least = numbers["least"] = {kind: _least(entries) for kind, entries in found.items()}
    rows = [
        Row(
            f"a generation, {kind}: processor time",
            "",
            f"front end {costs['web_us']:.0f} µs, worker {costs['worker_us'] / 1000:.2f} ms, "
            f"Redis {costs['redis_us']:.0f} µs",
        )
        for kind, costs in least.items()
        if kind != "poll"
    ]
    rows.append(
        Row(
            "a generation, inline: bytes",
            "",
            f"Redis takes {least['inline']['redis_in']:.0f} and sends "
            f"{least['inline']['redis_out']:.0f}, writes {least['inline']['redis_log']:.0f} into "
            f"its log and keeps {least['inline']['redis_kept']:.0f}",
        )
    )
    return Finding(rows, numbers)


class _Stack:
    """A front end, a worker and a sweep, started on a rig whose provider is there."""

    def __init__(self, bench: Rig, idle: float) -> None:
        self._bench = bench
        self.web, self.worker = bench.web(), bench.worker()
        bench.start("beat", bench.lines["beat"])
        self._ids: list[str] = []
        with hearing(bench.redis_url) as ends:
            self._run(ends, Load(self.web.port, [SUBMIT], 0.5, rate=20, trace=True))
        before = self._counts()
        time.sleep(idle)
        self.idle = {name: count / idle for name, count in self._since(before).items()}

    def measure(self, request: str, rate: float, seconds: float) -> dict[str, float]:
        """Costs of a generation: µs by process, and bytes of Redis."""
        with hearing(self._bench.redis_url) as ends:
            before, began = self._counts(), time.monotonic()
            load = Load(self.web.port, [request], seconds, rate=rate, trace=True)
            number = self._run(ends, load)
            used, took = self._since(before), time.monotonic() - began
        return {name: (count - self.idle[name] * took) / number for name, count in used.items()}

    def serve(self, seconds: float) -> float:
        """µs of the front end for one picture."""
        signer = FileSigner(self._bench.client)
        requests = []
        for task_id in self._ids:
            task = self._bench.store.read(task_id)
            assert task is not None
            assert task.result is not None, task.failure
            name = task.result.images[0].name
            requests.append(get(signer.path(name, int(time.time()) + 3600)))
        before = self.web.cpu()
        outcome = run(Load(self.web.port, requests, seconds, connections=4))
        return (self.web.cpu() - before) / outcome.count * 1e6

    def _run(self, ends: Ends, load: Load) -> int:
        answers = run(load).answers
        bodies = [json.loads(answer.partition("\r\n\r\n")[2]) for _, answer in answers]
        self._ids = [body["id"] for body in bodies if "id" in body]
        # Where Redis gets no processor for seconds some are refused; another round is less then.
        if len(self._ids) < len(bodies) / 2:
            raise RuntimeError(f"refused: {next(body for body in bodies if 'id' not in body)}")
        ends.wait(self._ids, 60)
        time.sleep(0.3)  # the last events of Celery are sent after the end
        return len(self._ids)

    def _counts(self) -> dict[str, float]:
        """What was used so far: µs of processor time, bytes of Redis."""
        info: Any = self._bench.client.info()
        return {
            "web_us": self.web.cpu() * 1e6,
            "worker_us": self.worker.cpu() * 1e6,
            "redis_us": self._bench.redis_cpu() * 1e6,
            "redis_in": info["total_net_input_bytes"],
            "redis_out": info["total_net_output_bytes"],
            "redis_log": info["aof_current_size"],
            "redis_kept": info["used_memory"],
        }

    def _since(self, before: dict[str, float]) -> dict[str, float]:
        return {name: count - before[name] for name, count in self._counts().items()}


def _polls(bench: Rig, web: Running, seconds: float) -> dict[str, float]:
    bearer = {"Authorization": f"Bearer {KEY}"}
    paths = [get(f"/v1/tasks/{kept(bench.store, bench.owner)}", **bearer) for _ in range(50)]
    web_before, redis_before = web.cpu(), bench.redis_cpu()
    outcome = run(Load(web.port, paths, seconds))
    return {
        "web_us": (web.cpu() - web_before) / outcome.count * 1e6,
        "redis_us": (bench.redis_cpu() - redis_before) / outcome.count * 1e6,
    }


def _slot(bench: Rig, number: int) -> float:
    """Bytes that a worker needs more for a generation in flight, when so many are at once."""
    bench.provider(gate=number)
    worker = bench.worker(concurrency=number + 50)
    time.sleep(0.5)
    idle = worker.memory()
    with hearing(bench.redis_url) as ends:
        ends.wait(list(feed(keep(bench.store, number), number, 0)), 120)
    return (worker.memory() - idle) / number


def _renewals(bench: Rig, number: int) -> float:
    """µs of Redis for the renewal of one lease, of many in one call."""
    held = {}
    send = keep(bench.store, number)
    for count in range(number):
        task_id = send(count)
        claim = bench.store.claim(task_id, "bench")
        assert claim is not None
        held[task_id] = claim.task.generation
    before = bench.redis_cpu()
    for _ in range(3):
        assert not bench.store.renew("bench", held).lost
    return (bench.redis_cpu() - before) / 3 / number * 1e6


def _least(entries: list[dict[str, float]]) -> dict[str, float]:
    return {name: min(entry[name] for entry in entries) for name in entries[0]}


def _start_sandbox(bench: Rig, port: int, delay: float) -> None:
    """The sandbox, whose pictures are of one colour and take so many seconds."""
    bench.start("sandbox", [sys.executable, "-m", "ops.sandbox"], port=port)
    until(lambda: not is_free("127.0.0.1", port), "the sandbox listens")
    orders = [{"picture": "plain"}, {"delay": delay}]
    run(Load(port, [post("/_sandbox/faults", orders)], 0, 1))
