"""The reckoning of `ops.capacity`: its arithmetic, and what any queue must obey. No seconds."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ops.capacity.__main__ import DOCUMENT, main, tables
from ops.capacity.costs import Costs, costs_from, read_costs, write_costs
from ops.capacity.plan import Demand, plan, redis_limit
from ops.capacity.simulator import Outcome, Stack, simulate

COSTS = Costs(
    submit_web=0.001,
    poll_web=0.0005,
    picture_web=0.001,
    task_worker=0.004,
    job_worker=0.008,
    look_worker=0.001,
    picture_worker=0.016,
    task_redis=0.0005,
    job_redis=0.0006,
    poll_redis=0.00005,
    renewal_redis=0.00001,
    idle_redis=0.001,
    record_bytes=4000,
    log_bytes=5000,
    redis_in_bytes=5000,
    redis_out_bytes=2000,
    picture_bytes=1_500_000,
    slot_bytes=60_000,
    web_bytes=80e6,
    worker_bytes=70e6,
    measured="nowhere",
)
# Next to nothing, for what is not looked at.
FREE = replace(COSTS, submit_web=1e-9, task_redis=1e-9)


def outcome(costs: Costs = COSTS, **differently: float) -> Outcome:
    load = {"rate": 50.0, "provider": 1.0, "seconds": 20.0} | differently
    slots, cores = int(load.pop("slots", 1000)), load.pop("cores", None)
    stack = Stack(slots=slots, cores=None if cores is None else int(cores))
    return simulate(costs, stack, **load)  # type: ignore[arg-type]


# -- the simulator


@pytest.mark.parametrize("slots", [1000, 60, 20])
def test_littles_law_holds(slots: int) -> None:
    seen = outcome(slots=slots)

    assert seen.in_flight == pytest.approx(seen.throughput * seen.in_slot, rel=0.01)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_a_single_queue_waits_as_theory_says(share: float) -> None:
    # One front end and nothing else: Poisson's arrivals, constant service, one server. Pollaczek
    # and Khinchine: the mean wait is share / (1 - share) / 2 services.
    costs = replace(COSTS, submit_web=0.01, task_worker=1e-9, task_redis=1e-9)
    seen = outcome(costs, rate=share / 0.01, seconds=100 / share, provider=0.0)

    mean = sum(seen.added) / len(seen.added)
    assert mean == pytest.approx(0.01 * (1 + share / (1 - share) / 2), rel=0.1)


def test_without_others_a_generation_adds_what_it_costs() -> None:
    seen = outcome(rate=0.5, seconds=200)

    assert seen.quantile(0.5) == pytest.approx(0.001 + 0.004 + 0.0005)


def test_cores_in_use_are_the_rate_times_the_costs() -> None:
    seen = outcome()

    used = (seen.web_cores, seen.worker_cores, seen.redis_cores)
    assert used == pytest.approx([seen.throughput * cost for cost in (0.001, 0.004, 0.0005)])


def test_more_load_never_adds_less() -> None:
    added = [outcome(rate=rate).quantile(0.99) for rate in (10, 100, 200, 240, 300)]

    assert added == sorted(added)
    assert added[-1] > 10 * added[0]


@pytest.mark.parametrize(
    ("costs", "differently", "most"),
    [
        (FREE, {}, 250),  # a worker's processor
        (FREE, {"slots": 50, "provider": 0.996}, 50),  # its slots
        (COSTS, {"cores": 1}, 1 / 0.0055),  # a machine of one core
        (replace(FREE, task_redis=0.01), {}, 100),  # Redis
        (replace(FREE, submit_web=0.02), {}, 50),  # the front end
    ],
)
def test_beyond_the_most_it_does_the_most(
    costs: Costs, differently: dict[str, float], most: float
) -> None:
    seen = outcome(costs, rate=2 * most, seconds=30, **differently)

    assert seen.throughput == pytest.approx(most, rel=0.05)


def test_who_comes_first_is_served_first() -> None:
    # A line before the slots that grows steadily: the middle one waits half as long as the last.
    seen = outcome(FREE, rate=100, slots=50, provider=0.996)

    assert seen.quantile(0.5) == pytest.approx(seen.added[-1] / 2, rel=0.1)


def test_two_workers_do_twice_as_much() -> None:
    one, two = (
        simulate(FREE, Stack(workers=workers), rate=1000, provider=0.1, seconds=5).throughput
        for workers in (1, 2)
    )

    assert two == pytest.approx(2 * one, rel=0.03)


def test_the_same_seed_is_the_same_run() -> None:
    assert outcome() == outcome()


# -- the plan


def test_a_plan_is_costs_times_rate() -> None:
    needed = plan(COSTS, Demand(60_000, provider=5, polls=4), busy=0.5, slots=500)

    # 1,000 a second; a worker spends 20 ms on each, with its picture.
    assert needed.in_flight == pytest.approx(1000 * 5.02)
    assert needed.web_cores == pytest.approx(1000 * (0.001 + 4 * 0.0005 + 0.001))
    assert needed.worker_cores == pytest.approx(20)
    assert (needed.web_processes, needed.worker_processes) == (8, 40)
    assert needed.redis_cores == pytest.approx(1000 * (0.0005 + 4 * 0.00005 + 0.000005) + 0.04)
    assert needed.redis_bytes == pytest.approx(1000 * 86_400 * 4000)
    assert needed.picture_rate == pytest.approx(1.5e9)
    assert needed.stacks == 8  # for 346 GB of records in Redis with 48 GB each


def test_slots_or_processor_decide_on_workers_whichever_needs_more() -> None:
    demand = Demand(600, provider=300)

    assert plan(COSTS, demand, slots=500).worker_processes == 9  # 3,000 in flight
    assert plan(COSTS, demand, slots=100_000).worker_processes == 1


def test_a_job_costs_its_looks() -> None:
    few, many = (plan(COSTS, Demand(6000, provider=30, looks=looks)) for looks in (4, 64))

    assert many.worker_cores - few.worker_cores == pytest.approx(100 * 60 * 0.001)


def test_at_its_limit_a_redis_is_as_busy_as_was_asked() -> None:
    most = redis_limit(COSTS, Demand(100_000, provider=5), busy=0.6)

    assert plan(COSTS, Demand(most, provider=5)).redis_cores == pytest.approx(0.6, rel=0.02)


def test_every_demand_has_a_plan_that_grows_with_it() -> None:
    plans = [plan(COSTS, Demand(number, provider=30, looks=60)) for number in (1, 100, 10_000)]

    for less, more in itertools.pairwise(plans):
        assert all(asdict(less)[name] <= needed for name, needed in asdict(more).items())
    assert plans[0].web_processes == plans[0].worker_processes == plans[0].stacks == 1


# -- costs and the document


def test_costs_come_from_a_run_of_the_bench(tmp_path: Path) -> None:
    figures(tmp_path)

    costs = costs_from(tmp_path)

    assert costs.submit_web == pytest.approx(0.0006)  # the least of all rounds
    assert costs.picture_worker == pytest.approx(0.016)
    assert costs.look_worker == pytest.approx(0.001)
    write_costs(costs, tmp_path / "costs.json")
    assert read_costs(tmp_path / "costs.json") == costs


def test_a_brief_run_tells_no_costs(tmp_path: Path) -> None:
    figures(tmp_path, size="brief")

    with pytest.raises(ValueError, match="brief"):
        costs_from(tmp_path)


def test_what_costs_nothing_was_not_measured(tmp_path: Path) -> None:
    figures(tmp_path, look=-3.0)

    with pytest.raises(ValueError, match="look_worker"):
        costs_from(tmp_path)


def test_the_document_has_the_figures_that_follow_from_the_costs() -> None:
    assert tables(read_costs()) in DOCUMENT.read_text()


def test_any_demand_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--per-minute", "500", "--provider", "12"])

    assert code == 0
    assert "| 500 | 12 s |" in capsys.readouterr().out


def figures(directory: Path, *, size: str = "full", look: float = 1000.0) -> None:
    """What a run of the bench writes, as far as costs are taken from it."""
    least = {"web_us": 600, "redis_us": 500}
    least |= {"redis_kept": 4000, "redis_log": 5000, "redis_in": 5000, "redis_out": 2000}
    kinds = {"inline": 4000, "large": 20_000, "job": 8000, "job, long": 8000 + 12 * look}
    numbers = {
        "generation": {
            "least": {name: least | {"worker_us": cost} for name, cost in kinds.items()}
            | {"poll": {"web_us": 500, "redis_us": 50}},
            "looks": 12,
            "served_us": 1000,
            "renewed_us": 10,
            "slot_bytes": 60_000,
            "picture_bytes": 1_500_000,
            "idle": {"redis_us": 1000},
        },
        "submits": {"rounds": {"submit": [{"cpu_us": 700}, {"cpu_us": 600}]}},
        "idle": {"megabytes": {"web": 80, "worker": 70}},
    }
    about = {"date": "2026-11-25", "commit": "abc", "cores": 2, "processor": "P"}
    about["load_average"] = [1.0]
    for case, told in numbers.items():
        written = {"size": size, "machine": about, "numbers": told}
        (directory / f"{case}.json").write_text(json.dumps(written))
