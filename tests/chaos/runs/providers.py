"""The run in which providers fail, each in every way it can."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import requests

from common.settings import PROVIDER_NAMES
from tests.chaos.bench import Bench
from tests.chaos.checker import lines
from tests.chaos.expectations import CASES, Case, End
from tests.chaos.load import Client, Order, marker_of, orders
from tests.chaos.models import DEADLINE, ONLY
from tests.chaos.system import System
from tests.processes import until

PATIENCE = 120.0  # seconds in which some task must end, until all have
_ALONE = threading.Lock()  # what keeps a whole core busy is done by one provider at a time
_STORM = 50_000  # number of its first order

_Batch = list[tuple[Case, Order]]


def providers_fail(bench: Bench) -> None:
    """G: every fault at every provider, and a time in which nine of ten calls are refused."""
    times, storm = bench.size(full=(20, 120.0), short=(1, 8.0))
    batches = list(_batches(bench, times))
    # Routes are not shut for failing, or what one task is to meet would be kept from it.
    settings = {"BREAKER_FAILURES": "1000", "ROUTE_SHUT_SECONDS": "1", "SANDBOX_SPEED": "20"}
    done: Counter[str] = Counter()
    with bench.system(workers=2, WORKER_CONCURRENCY="250", **settings) as system:
        with bench.load(system, []) as client:
            bench.watch(client, lambda: f"{done.total()} of {len(batches)} batches")
            of_each = [
                [batch for batch in batches if batch[0][0].provider == provider]
                for provider in PROVIDER_NAMES
            ]
            with ThreadPoolExecutor(len(of_each)) as pool:
                list(pool.map(lambda mine: _carry_out(system, client, mine, done), of_each))
            refused = _storm(bench, system, client, storm)
            bench.settle(client, system, PATIENCE)
        counted = bench.judge(system)
        wrong, right = _compare(bench, batches)
        stormy = [r for r in system.records() if _is_of_storm(r)]
        incomplete = [r["id"] for r in stormy if r["status"] != "completed"]
        bench.figures |= {
            "cases": len({case for batch in batches for case, _ in batch}),
            "tasks_as_expected": right,
            "tasks_in_the_storm": len(stormy),
            "calls_refused_in_the_storm": refused,
            "most_calls_for_a_task_in_the_storm": max(int(r["sent"]) for r in stormy),
        }
        bench.require("not as expected", wrong, not wrong, "none")
        bench.require("not completed after the storm", incomplete, not incomplete, "none")
        shown = counted["addresses_shown"]
        bench.require("addresses of others shown", shown, not shown, "none")


def _batches(bench: Bench, times: int) -> Iterator[_Batch]:
    """What is submitted together: in the full run, each case so many times; in the short one, some
    cases that do not get in one another's way, and that end before a deadline ends them."""
    cases = list(CASES)
    if not bench.full:
        cases = bench.rng.sample([case for case in cases if not case.until_deadline], 100)
    # What shuts an account comes last.
    cases.sort(key=lambda case: (case.shuts_account, case.provider))
    index = 0
    for _, together in groupby(cases, lambda case: _group(case, bench.full)):
        batch: _Batch = []
        for case in together:
            for _ in range(times):
                order = Order(index, 0.0, ONLY[case.provider], case.n, case.words)
                batch.append((case, order))
                index += 1
        yield batch


def _group(case: Case, full: bool) -> tuple[str, str]:
    return case.provider, case.fault if full or case.shuts_account else ""


def _carry_out(
    system: System, client: Client, batches: Sequence[_Batch], done: Counter[str]
) -> None:
    """One provider's batches, one after the other; nobody waits for what only a deadline ends."""
    for batch in batches:
        case, wanted = batch[0][0], [order for _, order in batch]
        with _ALONE if case.fault == "drip" else contextlib.nullcontext():
            client.start(wanted)
            if not case.until_deadline:
                _wait_for_ends(client, wanted)
                system.forget_route(case.provider)
        done[case.provider] += 1


def _wait_for_ends(client: Client, wanted: Sequence[Order]) -> None:
    until(lambda: client.has_ended(wanted), "a batch has ended", DEADLINE + 60)


def _storm(bench: Bench, system: System, client: Client, seconds: float) -> int:
    """How many calls were refused while tasks for all models went on coming in."""
    bench.note("the storm begins")
    before = _submits(system)
    bought = len(system.all_purchases())
    system.fault(fault="rate_limited", share=0.9, retry_after=2)
    client.start(orders(bench.rng, 4.0, first=_STORM))
    time.sleep(seconds)
    client.enough()
    refused = _submits(system) - before - (len(system.all_purchases()) - bought)
    system.clear_faults()
    system.fault(picture="plain")
    bench.note("the storm is over", refused=refused)
    return refused


def _submits(system: System) -> int:
    calls = requests.get(f"{system.sandbox_url}/_sandbox/calls", timeout=5).json()["calls"]
    return sum(counts["submits"] for counts in calls.values())


def _is_of_storm(record: dict[str, str]) -> bool:
    return int(marker_of(json.loads(record["request"])["prompt"])[1:6]) >= _STORM


def _compare(bench: Bench, batches: Iterable[_Batch]) -> tuple[dict[str, Any], int]:
    """What ended in another way than it had to, by the case; and how many tasks ended as they had
    to."""
    ends = {
        entry["marker"]: entry["body"]
        for entry in lines(bench.directory / "client.jsonl")
        if entry["what"] == "end"
    }
    bought = Counter(marker_of(e["prompt"]) for e in lines(bench.directory / "ledger.jsonl"))
    orders_by_index = {order.index: case for batch in batches for case, order in batch}
    wrong: defaultdict[str, Counter[str]] = defaultdict(Counter)
    right = 0
    seen: set[int] = set()
    for marker, body in ends.items():
        case = orders_by_index.get(int(marker[1:6]))
        if case is None:
            continue
        seen.add(int(marker[1:6]))
        found = _end(body, bought[marker])
        if found == case.end:
            right += 1
        else:
            wrong[f"{case.fault} at {case.provider}: not {case.end}, but"][str(found)] += 1
    for index in orders_by_index.keys() - seen:
        case = orders_by_index[index]
        wrong[f"{case.fault} at {case.provider}: not {case.end}, but"]["no end"] += 1
    return {name: dict(found) for name, found in wrong.items()}, right


def _end(body: dict[str, Any], bought: int) -> End:
    if body["status"] == "completed":
        missing = ",".join(failure["code"] for failure in body.get("missing", []))
        return End("completed", "", bought, missing)
    detail = body["error_detail"]
    return End(detail["code"], detail["billed"], bought)
