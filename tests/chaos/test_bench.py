"""A run is judged by its checks, and by whether it came to its end."""

from __future__ import annotations

import json
from pathlib import Path

from tests.chaos.bench import CAME_TO_ITS_END, Bench
from tests.processes import until


def bench(directory: Path) -> Bench:
    return Bench("A", seed=1, full=False, directory=directory / "A")


def test_a_run_passes_when_all_its_checks_do(tmp_path: Path) -> None:
    report = bench(tmp_path).carry_out(lambda b: b.require("lost", [], True, "none"))

    assert report["passed"]
    assert json.loads((tmp_path / "A.json").read_text()) == report


def test_a_run_fails_with_one_of_its_checks(tmp_path: Path) -> None:
    def two(b: Bench) -> None:
        b.require("lost", [], True, "none")
        b.require("bought_twice", ["t00001r0"], False, "none")

    assert not bench(tmp_path).carry_out(two)["passed"]


def test_a_run_without_a_check_has_not_passed(tmp_path: Path) -> None:
    assert not bench(tmp_path).carry_out(lambda _: None)["passed"]


def test_a_run_that_waits_in_vain_fails_and_says_for_what(tmp_path: Path) -> None:
    report = bench(tmp_path).carry_out(lambda _: until(lambda: False, "the worker", 0.1))

    assert not report["passed"]
    (check,) = report["checks"]
    assert check["what"] == CAME_TO_ITS_END
    assert "the worker" in check["found"]


def test_the_same_seed_makes_the_same_choices(tmp_path: Path) -> None:
    chosen: list[list[float]] = []

    for name in ("1", "2"):
        bench(tmp_path / name).carry_out(lambda b: chosen.append([b.rng.random(), b.rng.random()]))

    assert chosen[0] == chosen[1]
