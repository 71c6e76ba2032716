"""A worker whose only slot is taken, and a queue before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stack import running

TASKS = 10


@pytest.mark.parametrize(("pool", "most"), [("threads", 0.6), ("gevent", 2.0)])
def test_a_slot_that_is_free_is_soon_taken_again(tmp_path: Path, pool: str, most: float) -> None:
    """Left alone, Celery takes a second on threads, and four under gevent."""
    with running(tmp_path, WORKER_POOL=pool, WORKER_CONCURRENCY="1", SANDBOX_SPEED="1000") as stack:
        stack.fault(picture="plain")
        tasks = [stack.submit(f"one by one {n}", "dall-e-2") for n in range(TASKS)]
        ends = [stack.finished(task) for task in tasks]

    assert {end["status"] for end in ends} == {"completed"}
    claimed = [next(e["at"] for e in end["timeline"] if e["event"] == "claimed") for end in ends]
    assert (max(claimed) - min(claimed)) / (TASKS - 1) < most
