"""Whether gevent's loop goes on turning. Told by the processor time of its thread, which no other
process on the machine can lengthen."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from common.hub import give_way
from tests.processes import free_port, until
from tests.stack import ROOT


@pytest.fixture
def provider() -> Iterator[tuple[int, int]]:
    port, number = free_port(), 60
    stub = [sys.executable, "-m", "ops.bench.stub", str(port), "0", "1024", str(number)]
    process = subprocess.Popen(stub, cwd=ROOT)
    yield port, number
    process.kill()
    process.wait()


def test_many_large_answers_at_once_do_not_hold_the_loop(provider: tuple[int, int]) -> None:
    port, number = provider

    def told() -> list[float]:
        command = [sys.executable, "-m", "gevent.monkey", "--module", "tests.common.readers"]
        done = subprocess.run(
            [*command, str(port), str(number)], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        return [float(word) for word in done.stdout.split()]

    longest, smallest = until(told, "all were answered")

    assert smallest > 2_000_000
    assert longest < 0.05  # 0.13 and more where nobody gives way


def test_elsewhere_nobody_is_kept_waiting() -> None:
    before = threading.active_count()

    give_way()

    assert threading.active_count() == before
