"""Runs that break Redis."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.chaos.bench import Bench
from tests.chaos.checker import lines
from tests.chaos.load import Order, orders
from tests.chaos.system import START, System
from tests.processes import until

PATIENCE = 60.0  # seconds in which some task must end, until all have
AGAIN = 10.0  # seconds after which work must go on once Redis answers
LONGEST_ANSWER = 2.5  # seconds
# Seconds by which each answer of Redis is late. The first is less than the front end waits for one
# answer of Redis, which must not let it wait for several of them one after the other.
SLOW = (1.5, 2.0)

# How Redis breaks, and for how many seconds.
_LENGTHS = {
    "away 0.2 s": 0.2,
    "away 3 s": 3.0,
    "away 15 s": 15.0,
    "frozen 10 s": 10.0,
    "connections killed": 0.0,
}
_SHORT = ["away 0.2 s", "away 3 s", "frozen 10 s", "connections killed", "connections killed"]


def redis_breaks_under_load(bench: Bench) -> None:
    """B: Redis is killed and started again, frozen, and cut off from everybody, under load."""
    each, kinds = bench.size(full=(20, list(_LENGTHS)), short=(1, _SHORT))
    faults = kinds * each
    bench.rng.shuffle(faults)
    waits: dict[str, list[float]] = {kind: [] for kind in faults}
    with bench.system(workers=2) as system:
        with bench.load(system, orders(bench.rng, 5.0), patience=120) as client:
            done = 0
            bench.watch(client, lambda: f"{done} of {len(faults)} faults")
            for fault in faults:
                time.sleep(bench.rng.uniform(2.0, 4.0))
                bench.note("fault", kind=fault, in_flight=len(system.open_records()))
                _break_redis(system, fault)
                wait = _until_work_goes_on(system)
                bench.note("work goes on", kind=fault, seconds=wait)
                waits[fault].append(wait)
                done += 1
            bench.settle(client, system, PATIENCE)
        longest = {kind: round(max(found), 2) for kind, found in waits.items()}
        counted = bench.judge(
            system,
            faults={kind: len(found) for kind, found in waits.items()},
            longest_until_work_goes_on=longest,
            given_up=client.given_up,
        )
        slow = {kind: seconds for kind, seconds in longest.items() if seconds > AGAIN}
        bench.require("longest_until_work_goes_on", longest, not slow, f"at most {AGAIN:.0f} s")
        bench.require("given_up", client.given_up, not client.given_up, "none")
        unknown = counted["outcome_unknown"]
        bench.require("outcome_unknown", unknown, not unknown, "none: no worker was lost")


def redis_does_not_answer(bench: Bench) -> None:
    """F: many clients ask while Redis is away, hung, or seconds slow."""
    requests, clients = bench.size(full=(1000, 50), short=(60, 15))
    with bench.system(workers=2) as system:
        slow_url = system.add_web(REDIS_URL=system.proxy_url)
        troubles = [
            _Trouble(
                "away",
                system.url,
                lambda: system.kill("valkey"),
                lambda: system.begin("valkey"),
            ),
            _Trouble(
                "hung",
                system.url,
                lambda: system.kill("valkey", signal.SIGSTOP),
                lambda: system.kill("valkey", signal.SIGCONT),
            ),
            *(
                _Trouble(
                    f"{seconds} s slow",
                    slow_url,
                    partial(system.proxy.slow_down, seconds),
                    partial(system.proxy.slow_down, 0.0),
                )
                for seconds in SLOW
            ),
        ]
        bench.rng.shuffle(troubles)
        answers = {
            trouble.name: _ask_in_trouble(bench, system, trouble, requests, clients, number)
            for number, trouble in enumerate(troubles)
        }
        bench.judge(system, answers=answers)
        for name, found in answers.items():
            slowest, statuses = found["slowest"], found["by_status"]
            enough = sum(statuses.values()) >= requests
            bench.require(f"{name}: requests", statuses, enough, f"at least {requests}")
            beside = [s for s in statuses if s != "503" and not s.startswith("2")]
            bench.require(f"{name}: answers", statuses, not beside, "2xx and 503 alone")
            limit = f"at most {LONGEST_ANSWER} s"
            bench.require(f"{name}: slowest", slowest, slowest <= LONGEST_ANSWER, limit)


@dataclass(frozen=True)
class _Trouble:
    """A way in which Redis does not answer the front end at `url`; how it begins and ends."""

    name: str
    url: str
    begin: Callable[[], Any]
    end: Callable[[], Any]


def _ask_in_trouble(
    bench: Bench, system: System, trouble: _Trouble, requests: int, clients: int, number: int
) -> dict[str, Any]:
    """How a front end answered: half of the requests submit, half ask for tasks of before."""
    known = 20
    wanted = [
        Order(10_000 * number + index, 0.0, "flux-schnell")
        for index in range(known + requests // 2)
    ]
    with bench.load(system, [], urls=[trouble.url], threads=clients, patience=0) as client:
        bench.watch(client, lambda: f"Redis is {trouble.name}")
        client.start(wanted[:known])
        until(lambda: client.ended == known, "the tasks of before", START)
        bench.note("begins", kind=trouble.name)
        began = time.time()
        trouble.begin()
        client.start(wanted[known:])
        client.look_again(requests // 2)
        until(lambda: client.answered >= len(wanted) + requests // 2, "answered", 600)
        ended = time.time()
        trouble.end()
        bench.note("ends", kind=trouble.name)
        until(system.answers, "Redis answers", 30)
        bench.settle(client, system, PATIENCE)
    answered = [
        entry
        for entry in lines(bench.directory / "client.jsonl")
        if "seconds" in entry and began <= entry["at"] - entry["seconds"] and entry["at"] <= ended
    ]
    return {
        "by_status": dict(Counter(str(entry["status"]) for entry in answered)),
        "slowest": max(entry["seconds"] for entry in answered),
    }


def _break_redis(system: System, fault: str) -> None:
    """Do it, and return as soon as Redis answers again."""
    match fault:
        case "connections killed":
            for kind in ("normal", "pubsub"):
                system.redis.client_kill_filter(_type=kind, skipme=True)
        case "frozen 10 s":
            system.kill("valkey", signal.SIGSTOP)
            time.sleep(_LENGTHS[fault])
            system.kill("valkey", signal.SIGCONT)
        case _:
            system.kill("valkey")
            time.sleep(_LENGTHS[fault])
            system.begin("valkey")
    until(system.answers, "Redis answers", 30)


def _until_work_goes_on(system: System) -> float:
    """Seconds until a task that waits is claimed for the first time, by the clock of Redis."""
    now = system.now()

    def first() -> int:
        begun = [int(r["started"]) for r in system.open_records() if "started" in r]
        return min((at for at in begun if at >= now), default=0)

    began: int = until(first, "work goes on", 60)
    return (began - now) / 1000
