"""The files that say from outside whether a process gets on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.liveness import Liveness
from tests.processes import until

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import pathlib, sys
from common.liveness import Liveness
liveness = Liveness(pathlib.Path(sys.argv[1]))
liveness.begin()
print("begun", flush=True)
for _ in sys.stdin:
    liveness.show()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that shows itself once, and again for each line that it is sent."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_process_is_as_old_as_its_last_sign(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    liveness = Liveness(tmp_path)
    until(lambda: liveness.ages()[other.pid] > 0.3)

    assert other.stdin is not None
    other.stdin.write("go on\n")
    other.stdin.flush()

    until(lambda: liveness.ages()[other.pid] < 0.3)


def test_what_the_dead_leave_is_removed(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    liveness = Liveness(tmp_path)
    assert other.pid in liveness.ages()

    other.kill()
    other.wait()

    assert liveness.ages() == {}
    assert not list(Path(tempfile.gettempdir()).glob(f"darkroom-*/{other.pid}"))


def test_installations_do_not_see_one_another(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    assert Liveness(tmp_path / "elsewhere").ages() == {}


def test_nobody_else_may_look(other: subprocess.Popen[str]) -> None:
    assert directory_of(other).stat().st_mode & 0o77 == 0


def test_a_process_without_a_place_for_its_file_goes_on(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    directory = directory_of(other)
    shutil.rmtree(directory)
    directory.touch()
    liveness = Liveness(tmp_path)

    liveness.begin()
    liveness.show()

    assert liveness.ages() == {}
    directory.unlink()


def directory_of(process: subprocess.Popen[str]) -> Path:
    # A process that was killed leaves its file behind, and its number may come again.
    files = Path(tempfile.gettempdir()).glob(f"darkroom-{os.getuid()}-*/{process.pid}")
    return max(files, key=lambda file: file.stat().st_mtime).parent
