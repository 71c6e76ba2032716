"""That every case of `python -m ops.bench` runs: in its briefest form, which judges no figure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ops.bench.__main__ import CASES
from ops.bench.load import Load, get, run
from ops.bench.report import Series, drawing, ratio_row
from ops.bench.rig import rig, until
from ops.launcher.ports import is_free, pick_free_port

ROOT = Path(__file__).parents[2]


# Held requests have a command of their own, which takes half a minute in its briefest form.
@pytest.mark.parametrize("case", [name for name in CASES if name != "waiters"])
def test_a_case_runs_alone_and_briefly(case: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ops.bench", "--case", case, "--brief", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / f"{case}.json").read_text())
    assert report["rows"]
    assert all(row["what"] in done.stdout for row in report["rows"])
    for svg in tmp_path.glob("*.svg"):
        ElementTree.parse(svg)


def test_a_process_that_does_not_start_is_not_waited_for_and_says_why(tmp_path: Path) -> None:
    with (
        rig(tmp_path) as bench,
        pytest.raises(RuntimeError, match=r"web ended with 2:\nRETENTION_HOURS"),
    ):
        bench.web(RETENTION_HOURS="never")


def test_a_ratio_is_that_of_rounds_that_took_turns() -> None:
    row = ratio_row("submits/s", [100, 30, 120], [200, 60, 400], 0.5, "constant view")

    assert (row.ratio, row.spread, row.met) == ("0.50", "0.30\N{EN DASH}0.50", True)


def test_a_drawing_names_its_lines() -> None:
    svg = drawing("Cost", "tasks", "µs", [Series("a < b", [(100, 1.0), (1_000_000, 2.0)])])

    texts = [text.text for text in ElementTree.fromstring(svg).iter() if text.text]
    assert {"Cost", "tasks", "µs", "a < b", "1,000,000"} <= set(texts)


@pytest.fixture
def stub() -> Iterator[int]:
    port = pick_free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "ops.bench.stub", str(port), "0", "8"], cwd=ROOT
    )
    try:
        until(lambda: not is_free("127.0.0.1", port), "the stub listens")
        yield port
    finally:
        process.kill()
        process.wait()


def test_an_open_load_comes_at_its_own_times(stub: int) -> None:
    outcome = run(Load(stub, [get("/")], 1.0, 20, rate=200))

    assert outcome.statuses == {"200": outcome.count}
    assert 140 < outcome.count < 260  # drawn, and the same for every run of one seed
    assert outcome.count == run(Load(stub, [get("/")], 1.0, 20, rate=200)).count


def test_a_closed_load_keeps_its_connections_busy(stub: int) -> None:
    outcome = run(Load(stub, [get("/")], 0.3, 7))

    assert outcome.statuses == {"200": outcome.count}
    assert outcome.count > 7
    assert 0 < outcome.p50 <= outcome.p90 <= outcome.p99 <= outcome.worst
