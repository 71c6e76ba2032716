"""Each mechanism can still be taken out, so that its run can be seen to fail without it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.chaos.removals import REMOVALS, remove
from tests.chaos.runs import RUNS
from tests.stack import ROOT


@pytest.mark.parametrize("name", list(REMOVALS))
def test_what_is_removed_is_there_exactly_once(name: str, tmp_path: Path) -> None:
    removal = REMOVALS[name]
    for file, _, _ in removal.edits:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)

    remove(removal, tmp_path)

    for file, old, new in removal.edits:
        assert old not in (tmp_path / file).read_text()
        assert new in (tmp_path / file).read_text()


def test_what_is_not_found_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "common" / "lua").mkdir(parents=True)
    (tmp_path / "common" / "lua" / "tasks.lua").write_text("return nil\n")

    with pytest.raises(ValueError, match="0 times, not once"):
        remove(REMOVALS["fence"], tmp_path)


def test_every_removal_has_a_run() -> None:
    assert {removal.run for removal in REMOVALS.values()} <= set(RUNS)
