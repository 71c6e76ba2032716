"""What is published of the runs names all of them, and what was counted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.chaos.removals import REMOVALS
from tests.chaos.report import as_markdown
from tests.chaos.runs import RUNS
from tests.docs.documents import read

PAGE = "ops/RELIABILITY.md"


def test_every_run_is_described() -> None:
    assert re.findall(r"^\| ([A-Z]) \|", read(PAGE), re.MULTILINE) == list(RUNS)


def test_every_mechanism_is_described_with_its_run() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (\w):", read(PAGE), re.MULTILINE)

    assert {name: (what, run) for name, what, run in rows} == {
        name: (_begun_small(removal.what), removal.run) for name, removal in REMOVALS.items()
    }


def test_a_report_becomes_a_row(tmp_path: Path) -> None:
    _write(tmp_path / "A.json", _report("A", _figures(), passed=False))

    head, _, row, _, machine = as_markdown(tmp_path).splitlines()

    assert head.startswith("| run | seed | accepted | completed | failed | lost | bought twice |")
    assert row == (
        "| A, full | 3 | 2,000 | 1,998 | outcome_unknown 2 | 0 | 1 | 1.50 s | kills: 50; "
        "outcome unknown: 2 | **failed** |"
    )
    assert machine == "Linux x86_64, 2 cores, Python 3.11.7, WORKER_POOL=gevent."


def test_the_parts_of_a_run_have_their_own_rows(tmp_path: Path) -> None:
    _write(tmp_path / "H.json", _report("H", {"beat": _figures(), "disk": _figures()}))

    rows = as_markdown(tmp_path).splitlines()[2:4]

    assert [row[:15] for row in rows] == ["| H beat, full ", "| H disk, full "]


def test_a_run_that_waited_in_vain_has_a_row(tmp_path: Path) -> None:
    _write(tmp_path / "F.json", _report("F", {}, passed=False))

    head, _, row, *_ = as_markdown(tmp_path).splitlines()

    assert row.startswith("| F, full | 3 | - |")
    assert row.endswith("| **waited in vain** |")
    assert row.count("|") == head.count("|")


def _begun_small(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:].removesuffix(".")


def _figures() -> dict[str, Any]:
    return {
        "accepted": 2000,
        "completed": 1998,
        "failed": {"outcome_unknown": 2},
        "outcome_unknown": 2,
        "lost": [],
        "bought_twice": ["t00001r0"],
        "slowest_answer": 1.5,
        "kills": 50,
    }


def _report(run: str, figures: dict[str, Any], *, passed: bool = True) -> dict[str, Any]:
    return {
        "run": run,
        "size": "full",
        "seed": 3,
        "settings": {"WORKER_POOL": "gevent"},
        "passed": passed,
        "machine": {"cores": 2, "system": "Linux x86_64", "python": "3.11.7"},
        "figures": figures,
    }


def _write(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(report))
