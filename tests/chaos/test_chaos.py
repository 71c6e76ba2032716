"""The short runs of the chaos suite. The full ones: `python -m tests.chaos --full`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.bench import Bench
from tests.chaos.runs import RUNS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("run", list("ABCDEF"))  # G and H take longer: by command
def test_nothing_is_lost_and_nothing_bought_twice(run: str, tmp_path: Path) -> None:
    report = Bench(run, seed=1, full=False, directory=tmp_path / run).carry_out(RUNS[run])

    assert [check for check in report["checks"] if not check["ok"]] == []
    assert report["passed"]
