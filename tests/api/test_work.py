"""How much work a request is: counted in calls of functions, in commands within Redis and in memory
that is kept, so that a regression is seen on any machine, however busy. Time is measured by
`python -m ops.bench`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from common.store import TaskStore
from tests.api.conftest import environment
from tests.common.tasks import claim, create
from tests.valkey import Valkey


@pytest.fixture(scope="module")
def counts(server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    settings = environment(
        REDIS_URL=server.url,
        DATA_DIR=tmp_path_factory.mktemp("work"),
        BOOTSTRAP_API_KEY="sk-test-0123456789abcdef",
        OPENAI_API_KEY="none",
        LOG_FORMAT="json",
        QUEUE_LIMIT=0,
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.api.count_work"],
        env=settings,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, dict[str, int]] = json.loads(done.stdout)
    return told


# As counted, and a tenth more: versions of Python and of the libraries differ a little. What Flask
# and its test client do for any request is taken off. Whoever has a good reason writes it beside a
# new number.
@pytest.mark.parametrize(
    ("request_", "most"),
    [("submit", 655), ("poll", 355), ("poll, completed", 395), ("poll, unchanged", 290)],
)
def test_a_request_calls_few_functions(
    counts: dict[str, dict[str, int]], request_: str, most: int
) -> None:
    assert counts[request_]["calls"] - counts["nothing"]["calls"] <= most


def test_requests_leave_nothing_behind(counts: dict[str, dict[str, int]]) -> None:
    """Of hundreds, not a block of memory for each."""
    assert {name: count["blocks"] for name, count in counts.items() if count["blocks"] > 250} == {}


def _within(valkey: Valkey, action: Callable[[], object]) -> int:
    """Commands that Redis runs for an action: one call of a function, and those within it."""
    valkey.redis.config_resetstat()
    action()
    return sum(valkey.commands().values()) - 1  # it counts the look at the counts as well


@pytest.mark.parametrize("waiting", [0, 200])
def test_operations_need_few_commands_however_many_tasks_wait(
    valkey: Valkey, store: TaskStore, waiting: int
) -> None:
    task_id = create(store)
    for _ in range(waiting):
        create(store)

    assert _within(valkey, lambda: create(store)) <= 26
    assert _within(valkey, lambda: store.read(task_id)) <= 7
    assert _within(valkey, lambda: claim(store, task_id)) <= 18


@pytest.mark.parametrize("due", [4, 200])
def test_a_sweep_needs_two_commands_for_a_task_that_waits(
    valkey: Valkey, store: TaskStore, due: int
) -> None:
    waiting = dict.fromkeys((create(store) for _ in range(due)), 1)
    valkey.redis.zadd("darkroom:due", waiting)

    assert _within(valkey, lambda: store.sweep("a")) <= 10 + 2 * due


def test_a_task_in_line_is_not_looked_at_before_its_deadline(
    valkey: Valkey, store: TaskStore
) -> None:
    ids = [create(store, deadline=3600) for _ in range(10)]
    in_line = valkey.redis.zrange("darkroom:line:images.bfl:key_a", 0, -1)

    later = valkey.redis.time()[0] * 1000 + 3500_000
    assert in_line == ids[4:]
    assert set(valkey.redis.zrange("darkroom:due", later, "+inf", byscore=True)) == set(in_line)


def test_a_pending_task_takes_little_memory(valkey: Valkey, store: TaskStore) -> None:
    create(store)
    before: Any = valkey.redis.info("memory")
    for _ in range(500):
        create(store)
    after: Any = valkey.redis.info("memory")

    assert (after["used_memory"] - before["used_memory"]) / 500 <= 2500
