"""`python -m ops.bench.peers`: the same job on what users know, measured in turns, in 5 minutes."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops.bench.load import Load, run
from ops.bench.peers.systems import LiteLLM, Peer, System, Told, systems
from ops.bench.report import machine
from ops.bench.rig import ROOT, Running, rig, until

__all__ = ["main"]

_REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
_DELAY = 0.2  # seconds that the provider takes
_CALL = 3.0  # seconds of the call that a worker is killed in
_OTHERS = 10.0  # seconds from one task to the next afterwards
_PATIENCE = 100.0  # seconds that the first one is watched
_ENDED = ("completed", "failed")


def main(arguments: list[str]) -> int:
    """Exit code 0 when all of it ran."""
    chosen = _parser().parse_args(arguments)
    out = (chosen.out or Path(tempfile.mkdtemp(prefix="peers-"))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    about = machine()
    compared = [s for s in systems(chosen.cache) if s.name in (chosen.only or [s.name])]
    _make_environments(chosen.cache, compared)
    found = {system.name: _Found() for system in compared}
    _measure_submits(out / "submits", compared, found, chosen.brief)
    _measure_tasks(out / "tasks", compared, found, chosen.brief)
    written = {"machine": about, "found": {name: vars(entry) for name, entry in found.items()}}
    (out / "peers.json").write_text(json.dumps(written, indent=1) + "\n")
    killed = _kill_all(out / "kills", compared)
    written["killed"] = {name: vars(fate) for name, fate in killed.items()}
    (out / "peers.json").write_text(json.dumps(written, indent=1) + "\n")
    text = _tables(compared, found, killed, about)
    (out / "peers.md").write_text(text)
    print(text)
    print(f"numbers and logs: {out}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ops.bench.peers",
        description="Compares Darkroom with queues and a gateway that users know. Linux only. "
        "The first run installs them from PyPI, 700 MB, into environments of their own.",
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkroom-peers"
    parser.add_argument("--cache", type=Path, default=cache, help="where these are (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where table, numbers and logs go")
    parser.add_argument("--only", action="append", metavar="NAME", help="this one; may be repeated")
    parser.add_argument(
        "--brief", action="store_true", help="shows that it runs, not what it costs"
    )
    return parser


def _make_environments(cache: Path, compared: Sequence[System]) -> None:
    """What `requirements/` says, each in an environment of its own below `cache`."""
    uv = str(ROOT / ".boot" / "bin" / "uv")
    if not Path(uv).exists():
        subprocess.run([sys.executable, "ops/environment.py", "uv"], cwd=ROOT, check=True)
    for system in compared:
        if isinstance(system, Peer):
            home = cache.resolve() / system.package
            python = home / "bin" / "python"
            if not python.exists():
                subprocess.run(
                    [uv, "venv", "--quiet", "--python", sys.executable, home], check=True
                )
            packages = _REQUIREMENTS / f"{system.package}.txt"
            sync = [uv, "pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes"]
            subprocess.run([*sync, "--python", python, packages], check=True)


# -- figures


@dataclass
class _Found:
    """One entry a round; CPU in µs of the front end, ms of the worker; `added` in seconds."""

    submits: list[float] = field(default_factory=list)
    submit_us: list[float] = field(default_factory=list)
    polls: list[float] = field(default_factory=list)
    poll_us: list[float] = field(default_factory=list)
    task_ms: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    megabytes: float = 0.0


def _measure_submits(
    directory: Path, compared: Sequence[System], found: Mapping[str, _Found], brief: bool
) -> None:
    """Submits of 50 clients, while no worker takes anything; of a gateway, whole pictures."""
    with rig(directory) as bench:
        bench.provider(_DELAY)
        webs = {system.name: system.start_web(bench) for system in compared}
        for turn in _turns(brief):
            for system in compared:
                web = webs[system.name]
                rate, cpu = _closed(web, [system.submit()], brief or turn < 0)
                if turn >= 0:
                    found[system.name].submits.append(rate)
                    found[system.name].submit_us.append(cpu)


def _measure_tasks(
    directory: Path, compared: Sequence[System], found: Mapping[str, _Found], brief: bool
) -> None:
    """Whole tasks at a steady rate, and polls of those that have ended."""
    with rig(directory) as bench:
        bench.provider(_DELAY)
        webs, workers, ended = {}, {}, {}
        for system in compared:
            webs[system.name] = system.start_web(bench)
            processes = [webs[system.name]]
            if not isinstance(system, LiteLLM):
                workers[system.name] = system.start_worker(bench)
                processes += [workers[system.name], *system.start_others(bench)]
            _steady(webs[system.name], system, 1.0)  # code and connections are there
            ended[system.name] = processes
        time.sleep(1 if brief else 5)
        for system in compared:
            processes = ended[system.name]
            found[system.name].megabytes = sum(process.share() for process in processes) / 1e6
        for _ in range(1 if brief else 3):
            for system in compared:
                entry, web = found[system.name], webs[system.name]
                worker = workers.get(system.name, web)
                before = _cpu(worker)
                tasks = _steady(web, system, 2.0 if brief else 6.0)
                entry.task_ms.append((_cpu(worker) - before) / len(tasks) * 1000)
                entry.added += [added for _, added in tasks]
                if system.name in workers:
                    requests = [system.poll(task_id) for task_id, _ in tasks]
                    rate, cpu = _closed(web, requests, brief)
                    entry.polls.append(rate)
                    entry.poll_us.append(cpu)


def _turns(brief: bool) -> Iterator[int]:
    """The first, which is not counted, has the number -1."""
    yield from range(-1, 1 if brief else 3)


def _closed(web: Running, requests: list[str], brief: bool) -> tuple[float, float]:
    """Answers a second to 50 busy clients, and µs of processor time for each."""
    before = _cpu(web)
    outcome = run(Load(web.port, requests, 0.5 if brief else 2.0))
    bad = {s: n for s, n in outcome.statuses.items() if s not in ("200", "202")}
    if bad:
        raise RuntimeError(f"{web.name}: answers {bad}")
    return outcome.rate, (_cpu(web) - before) / outcome.count * 1e6


def _cpu(running: Running) -> float:
    """Seconds, those of children that have ended included: rq makes one for each task."""
    fields = Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(")")[2].split()
    ended = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return running.cpu() + ended


def _steady(web: Running, system: System, seconds: float) -> list[tuple[str, float]]:
    """Tasks that come at their own times: each with the seconds that were not the provider's.

    It has ended when a poll says so. A task is polled as quickly as that goes, from the time on at
    which the provider can have answered.
    """
    if isinstance(system, LiteLLM):
        load = Load(web.port, [system.submit()], seconds, rate=system.rate, trace=True)
        return [("", took - _DELAY) for took in _took(load)]
    rng, due = random.Random(1), 0.0  # noqa: S311
    times: list[float] = []
    while (due := due + rng.expovariate(system.rate)) < seconds or not times:
        times.append(due)
    open_tasks: list[tuple[float, str]] = []
    began = time.monotonic()

    def send() -> None:
        for at in times:
            time.sleep(max(0.0, began + at - time.monotonic()))
            open_tasks.append((began + at, system.told(_exchange(web.port, system.submit())).id))

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        ended: list[tuple[str, float]] = []
        while len(ended) < len(times):
            if sending.done():
                sending.result()
            if time.monotonic() > began + seconds + 60:
                raise TimeoutError(f"{system.name}: {len(times) - len(ended)} tasks did not end")
            for at, task_id in list(open_tasks):
                if time.monotonic() < at + _DELAY:
                    continue
                told = system.told(_exchange(web.port, system.poll(task_id)))
                if told.status == "failed":
                    raise RuntimeError(f"{system.name}: {told}")
                if told.status == "completed":
                    ended.append((task_id, time.monotonic() - at - _DELAY))
                    open_tasks.remove((at, task_id))
            time.sleep(0.001)
    return ended


def _took(load: Load) -> list[float]:
    """Seconds of each request, as far as quantiles tell."""
    outcome = run(load)
    shares = ((0.5, outcome.p50), (0.9, outcome.p90), (0.99, outcome.p99), (1.0, outcome.worst))
    return [
        next(value for share, value in shares if (n + 1) / outcome.count <= share)
        for n in range(outcome.count)
    ]


def _exchange(port: int, request: str) -> str:
    """One request on a connection of its own. Raises ConnectionError where no answer came."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request.encode())
        data = b""
        while not _is_whole(data):
            piece = connection.recv(262144)
            if not piece:
                raise ConnectionError("closed without an answer")
            data += piece
    return data.decode()


def _is_whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(end) and (length is None or len(body) >= int(length[1]))


# -- kills


@dataclass
class _Killed:
    """What became of the task whose worker was killed. `seconds` since the kill."""

    told: str
    calls: int
    seconds: float | None


def _kill_all(directory: Path, compared: Sequence[System]) -> dict[str, _Killed]:
    with ThreadPoolExecutor(len(compared)) as pool:
        running = {s.name: pool.submit(_kill, directory / s.name, s) for s in compared}
        return {name: future.result() for name, future in running.items()}


def _kill(directory: Path, system: System) -> _Killed:
    """Kill -9 the worker, with all of its processes, while the provider works on its call."""
    with rig(directory) as bench:
        stub = bench.provider(_CALL)

        def calls(what: str) -> int:
            return int(bench.ask(stub.port)[what])

        web = system.start_web(bench)
        if isinstance(system, LiteLLM):
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(_exchange, web.port, system.submit())
                until(lambda: calls("open"), "the call is under way")
                _kill_nine(web)
                with contextlib.suppress(ConnectionError):
                    return _Killed(f"an answer: {asked.result()[:40]}", calls("open"), None)
            until(lambda: not calls("open"), "the call is over")
            return _Killed("the connection breaks; nothing is kept", calls("answered"), 0.0)
        worker = system.start_worker(bench, impatient=True)
        system.start_others(bench)
        task = system.told(_exchange(web.port, system.submit()))
        until(lambda: calls("open"), "the call is under way")
        _kill_nine(worker)
        began = time.monotonic()
        system.start_worker(bench, impatient=True)

        def ask(task_id: str) -> Told:
            return system.told(_exchange(web.port, system.poll(task_id)))

        # Others come as well: some look for what was lost only when there is something new.
        others: list[str] = []
        told = task
        while time.monotonic() < began + _PATIENCE and told.status not in _ENDED:
            if time.monotonic() > began + _OTHERS * len(others):
                others.append(system.told(_exchange(web.port, system.submit())).id)
            time.sleep(0.2)
            told = ask(task.id)
        seconds = time.monotonic() - began if told.status in _ENDED else None
        until(lambda: all(ask(other).status == "completed" for other in others), "others end", 90)
        until(lambda: not calls("open"), "no call is under way")
        said = f"{told.status}: {told.why}" if told.why else told.status
        return _Killed(said, calls("answered") - len(others), seconds)


def _kill_nine(running: Running) -> None:
    os.kill(running.process.pid, signal.SIGSTOP)  # so that it starts nobody anew
    for pid in reversed(running.pids()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.process.wait(10)


# -- what is told


def _version(system: System) -> str:
    if not isinstance(system, Peer):
        return system.name
    lines = (_REQUIREMENTS / f"{system.package}.in").read_text().splitlines()
    pinned = [re.sub(r"\[.*?\]", "", line).replace("==", " ") for line in lines]
    version = next(line.split()[1] for line in pinned if line.split()[0] == system.package)
    return f"{system.name} {version}"


def _tables(
    compared: Sequence[System],
    found: Mapping[str, _Found],
    killed: Mapping[str, _Killed],
    about: Mapping[str, Any],
) -> str:
    lines = [
        f"Of {about['date']}; {about['cores']} cores ({about['processor']}), load average at the "
        f"start {about['load_average'][0]}.",
        "",
        "| | at a time | CPU of a submit | of a poll | of a task in its worker | idle memory "
        "| submits/s | polls/s | added p50 | p99 |",
        "|---" * 10 + "|",
    ]
    for system in compared:
        entry = found[system.name]
        added = sorted(entry.added)
        cells = (
            _version(system),
            system.slots,
            f"{min(entry.submit_us):.0f} µs",
            f"{min(entry.poll_us):.0f} µs" if entry.poll_us else "–",
            f"{min(entry.task_ms):.1f} ms",
            f"{entry.megabytes:.0f} MB",
            f"{statistics.median(entry.submits):.0f}",
            f"{statistics.median(entry.polls):.0f}" if entry.polls else "–",
            f"{1000 * added[len(added) // 2]:.0f} ms",
            f"{1000 * added[min(len(added) - 1, len(added) * 99 // 100)]:.0f} ms",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| worker killed in a call | what its caller is told | after | calls paid |",
        "|---|---|---|---|",
    ]
    for system in compared:
        fate = killed[system.name]
        after = f"> {_PATIENCE:.0f} s" if fate.seconds is None else f"{fate.seconds:.0f} s"
        lines.append(f"| {_version(system)} | {fate.told} | {after} | {fate.calls} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
