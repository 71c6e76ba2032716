"""What a collection of garbage looks through in a process that serves."""

from __future__ import annotations

import subprocess
import sys

_ASK = """
import gc
import celery, flask  # something to start
from common.garbage import settle

before = len(gc.get_objects())
settle()
new = [[] for _ in range(500)]
print(before, len(gc.get_objects()), gc.get_threshold()[0])
"""


def test_looks_through_nothing_that_was_made_for_the_start() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _ASK], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    before, after, young = map(int, told.split())

    assert before > 10_000
    assert 500 <= after < 1_000
    assert young > 700
