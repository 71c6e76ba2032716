"""Runs that kill, freeze and replace the processes of the system."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from tests.chaos.bench import Bench
from tests.chaos.load import Client, Order, orders
from tests.chaos.system import LEASE, START, Record, System, in_doubt
from tests.processes import until

PATIENCE = 60.0  # seconds in which some task must end, until all have
REHINT = 2.0  # REHINT_SECONDS of the system
AWAY = 0.03  # seconds from the workers to Redis and back, in run D
GRACE = 8.0  # seconds that a supervisor gives a process to end


def workers_are_killed(bench: Bench) -> None:
    """A: kill -9 of one worker after another, while tasks come in and wait for their providers.

    Most die while a provider is being asked, when it is not known whether a picture was bought.
    """
    tasks, kills, rate, speed = bench.size(full=(2000, 50, 12.0, 10), short=(60, 6, 6.0, 4))
    wanted = islice(orders(bench.rng, rate), tasks)
    # Spread over the load: a kill is due when so many tasks have been submitted.
    due = sorted(bench.rng.sample(range(tasks // 20, tasks * 19 // 20), kills))
    open_calls, done = 0, 0
    cut_off: set[str] = set()
    with bench.system(workers=3, SANDBOX_SPEED=str(speed)) as system:
        with bench.load(system, wanted) as client:
            bench.watch(client, lambda: f"{done} of {kills} kills")
            for submitted in due:
                victim = bench.rng.choice(system.workers)
                _wait_for_load(client, submitted)
                _wait_for_worker(system, victim)
                if bench.rng.random() < 0.7:
                    _wait_for_call(system, victim, 5)
                now_open = system.open_calls()
                system.kill(victim)
                doubtful = _in_doubt(system.held_by(victim))
                bench.note("killed", who=victim, open_calls=now_open, in_doubt=sorted(doubtful))
                open_calls += now_open
                cut_off |= doubtful
                system.begin(victim)
                done += 1
            _wait_for_load(client, tasks)
            bench.settle(client, system, PATIENCE)
        counted = bench.judge(
            system,
            kills=kills,
            open_calls_at_the_kills=open_calls,
            in_doubt_at_the_kills=len(cut_off),
        )
        bench.require(
            "outcome_unknown",
            counted["outcome_unknown"],
            counted["outcome_unknown"] <= open_calls,
            f"at most {open_calls}, the calls that were open at the kills",
        )
        _require_reasons(bench, system, cut_off)


def messages_vanish_with_their_worker(bench: Bench) -> None:
    """C: a worker that waits for messages is frozen, three tasks are submitted, it is killed.

    Redis hands the first message to the frozen worker, and nobody ever sees it again.
    """
    rounds = bench.size(full=100, short=3)
    models = ("flux-schnell", "flux-pro")
    wanted = [Order(index, 0.0, bench.rng.choice(models)) for index in range(3 * rounds)]
    done = 0
    with bench.system(workers=3) as system:
        with bench.load(system, []) as client:
            bench.watch(client, lambda: f"{done} of {rounds} rounds")
            for number in range(rounds):
                victim = bench.rng.choice(system.workers)
                _wait_for_worker(system, victim)
                _wait_until_idle(system, victim)
                system.kill(victim, signal.SIGSTOP)
                client.start(wanted[3 * number : 3 * number + 3])
                _wait_for_accepted(client, 3 * number + 3)
                system.kill(victim)
                bench.note("killed", who=victim)
                system.begin(victim)
                done += 1
            bench.settle(client, system, PATIENCE)
        records = system.records()
        late = [r for r in records if _seconds(r, "started") > REHINT * 0.9]
        slowest = max(_seconds(record, "ended") for record in records)
        counted = bench.judge(system, rounds=rounds, messages_lost=len(late), slowest_task=slowest)
        complete = counted["completed"]
        bench.require("completed", complete, complete == len(wanted), f"all {len(wanted)}")
        bench.require("messages_lost", len(late), bool(late), "some, or nothing was tried")
        limit = LEASE + REHINT + 5
        bench.require("slowest_task", slowest, slowest <= limit, f"at most {limit:.0f} s")


def workers_are_frozen_and_thawed(bench: Bench) -> None:
    """D: workers stand still for longer than their leases last, and then go on with what they did.

    Most are frozen between their claim and the first word in the journal, where they are about to
    buy: what they do when they thaw is what the generation number is there for. Redis is some way
    off, so that there is such a moment, and work takes long enough for another worker still to be
    at it then.
    """
    freezes = bench.size(full=50, short=4)
    frozen = _Freezes(bench, freezes)
    with bench.system(workers=3, behind_proxy=True) as system:
        system.proxy.slow_down(AWAY)
        system.fault(delay=4.0)
        with bench.load(system, orders(bench.rng, 5.0)) as client:
            bench.watch(client, lambda: f"{frozen.done} of {freezes} freezes")
            with ThreadPoolExecutor(3) as pool:
                seeds = [bench.rng.random() for _ in system.workers]
                list(pool.map(lambda w, s: frozen.go_on(system, w, s), system.workers, seeds))
            bench.settle(client, system, PATIENCE)
        ends = {record["id"]: record["status"] for record in system.records()}
        counted = bench.judge(
            system,
            freezes=freezes,
            frozen_before_the_journal=len(frozen.before_journal),
            in_doubt_when_frozen=len(frozen.in_doubt),
            completed_of_these=sum(ends.get(task_id) == "completed" for task_id in frozen.in_doubt),
            late_answers=system.count_in_logs("handed in a late answer"),
            late_answers_adopted=system.count_in_logs("handed in a late answer", "adopted=True"),
        )
        bench.require(
            "frozen_before_the_journal",
            len(frozen.before_journal),
            bool(frozen.before_journal),
            "some, or the moment was missed",
        )
        bench.require(
            "outcome_unknown",
            counted["outcome_unknown"],
            counted["outcome_unknown"] <= len(frozen.in_doubt),
            f"at most {len(frozen.in_doubt)}, the tasks with a call in doubt when frozen",
        )
        _require_reasons(bench, system, frozen.in_doubt)


def front_ends_and_workers_are_replaced(bench: Bench) -> None:
    """E: every worker and every front end is told to stop and started anew, over and over.

    Jobs at Midjourney take longer than two restarts lie apart: they have to be handed over.
    """
    rounds, rate = bench.size(full=(20, 6.0), short=(2, 5.0))
    stopped, forced, done = 0, [], 0
    with bench.system(workers=2, webs=2) as system:
        system.fault(delay=12.0, provider="midjourney")
        with bench.load(system, orders(bench.rng, rate), hold=5) as client:
            bench.watch(client, lambda: f"{done} of {rounds} rounds")
            for _ in range(rounds):
                for pair in zip(system.workers, system.webs, strict=True):
                    with ThreadPoolExecutor(2) as pool:
                        gentle = list(pool.map(lambda name: system.stop_gently(name, GRACE), pair))
                    stopped += 2
                    forced += [name for name, well in zip(pair, gentle, strict=True) if not well]
                    bench.note("replaced", who=pair, gentle=gentle)
                    system.begin(*pair)
                    _wait_for_worker(system, pair[0])
                    _wait_for_web(system, pair[1])
                done += 1
            bench.settle(client, system, PATIENCE)
        counted = bench.judge(system, stopped=stopped, given_up=client.given_up)
        unknown, losses = counted["outcome_unknown"], counted["losses"]
        bench.require("did_not_end_by_themselves", forced, not forced, "none")
        bench.require("given_up", client.given_up, not client.given_up, "none")
        bench.require("outcome_unknown", unknown, not unknown, "none")
        bench.require("losses", losses, not losses, "none: what waits is handed over")


def _seconds(record: Record, until_when: str) -> float:
    """From the submit to a time in the record, which may not have come yet."""
    return (float(record.get(until_when, "inf")) - int(record["created"])) / 1000


class _Freezes:
    """Freezes workers, and writes down what they were about to do."""

    def __init__(self, bench: Bench, count: int) -> None:
        self._bench = bench
        self._left = count
        self._lock = threading.Lock()
        self._not_all = threading.Semaphore(2)  # of three workers: somebody has to take over
        self.done = 0
        self.in_doubt: set[str] = set()
        self.before_journal: set[str] = set()

    def go_on(self, system: System, worker: str, seed: float) -> None:
        """Freeze and thaw one worker until there have been enough freezes of all of them."""
        rng = random.Random(seed)
        while self._take():
            time.sleep(rng.uniform(0.5, 2.0))  # it gets to work in between
            with self._not_all:
                if rng.random() < 0.7:
                    _wait_for_claim(system, worker, 5)
                system.kill(worker, signal.SIGSTOP)
                self._look(system.held_by(worker), worker)
                time.sleep(LEASE + rng.uniform(1.0, 3.0))
                system.kill(worker, signal.SIGCONT)
            with self._lock:
                self.done += 1

    def _take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _look(self, held: list[Record], worker: str) -> None:
        doubtful = _in_doubt(held)
        unwritten = {record["id"] for record in held if _is_unwritten(record)}
        self._bench.note(
            "frozen", who=worker, in_doubt=sorted(doubtful), before_journal=sorted(unwritten)
        )
        with self._lock:
            self.in_doubt |= doubtful
            self.before_journal |= unwritten


def _wait_for_load(client: Client, submitted: int) -> None:
    until(lambda: client.submitted >= submitted, f"{submitted} submitted", 900)


def _wait_for_accepted(client: Client, count: int) -> None:
    until(lambda: client.accepted >= count, f"{count} accepted", START)


def _wait_for_web(system: System, web: str) -> None:
    until(lambda: system.web_is_ready(web), f"{web} ready", START)


def _wait_until_idle(system: System, worker: str) -> None:
    until(lambda: not system.held_by(worker), f"{worker} idle", START)


def _wait_for_worker(system: System, worker: str) -> None:
    until(lambda: system.is_ready(worker), f"{worker} ready", START)


def _wait_for_call(system: System, worker: str, seconds: float) -> None:
    """Wait until a worker holds a task and a provider is being asked, if it ever happens."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if system.held_by(worker) and system.open_calls():
            return


def _wait_for_claim(system: System, worker: str, seconds: float) -> None:
    """Wait until a worker holds a task of which the journal says nothing yet, if it ever does."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if any(_is_unwritten(record) for record in system.held_by(worker)):
            return


def _is_unwritten(record: Record) -> bool:
    return not any(name.startswith("call:") for name in record)


def _in_doubt(records: Sequence[Record]) -> set[str]:
    return {record["id"] for record in records if in_doubt(record)}


def _require_reasons(bench: Bench, system: System, cut_off: set[str]) -> None:
    """An unknown outcome is for tasks of which a call was cut off, and for no others."""
    unknown = {record["id"] for record in system.records() if _is_unknown(record)}
    bench.require("unknown_without_a_reason", sorted(unknown - cut_off), unknown <= cut_off, "none")


def _is_unknown(record: Record) -> bool:
    failures: list[dict[str, Any]] = json.loads(record.get("result", "{}")).get("missing", [])
    failures += [json.loads(record["failure"])] if "failure" in record else []
    return any(failure["code"] == "outcome_unknown" for failure in failures)
