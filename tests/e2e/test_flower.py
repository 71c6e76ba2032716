"""What Flower shows of a generation, and what it must not show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.e2e.conftest import flower_workers
from tests.processes import until
from tests.stack import Stack


@pytest.fixture(scope="module")
def flower(whole_stack: Stack) -> Iterator[str]:
    whole_stack.start("flower")
    # It answers before it listens to events; once it knows the worker, it listens.
    until(lambda: flower_workers(whole_stack.flower_url), "Flower sees the worker")
    yield whole_stack.flower_url
    whole_stack.kill("flower")


def rows(flower: str, task_id: str) -> list[dict[str, Any]]:
    """What the page's own table asks for."""
    query = {"draw": 1, "start": 0, "length": 100, "search[value]": "", "order[0][dir]": "asc"}
    query |= {"order[0][column]": 0, "columns[0][data]": "name"}
    answer = requests.get(f"{flower}/tasks/datatable", params=query, timeout=10)
    return [row for row in answer.json()["data"] if row["uuid"] == task_id]


@pytest.mark.parametrize(
    ("prompt", "state"),
    [("a fox MARKEDPROMPT", "SUCCESS"), ("a fox MARKEDPROMPT sim:moderated", "FAILURE")],
)
def test_a_generation_is_one_row_without_its_prompt(
    stack: Stack, flower: str, prompt: str, state: str
) -> None:
    task = stack.submit(prompt)
    stack.finished(task)

    until(lambda: [r for r in rows(flower, task["id"]) if r["state"] == state], "seen by Flower")

    (row,) = rows(flower, task["id"])
    assert row["args"] == "flux-pro n=1 512x512"
    if state == "SUCCESS":
        assert row["runtime"] > 0
    detail = requests.get(f"{flower}/task/{task['id']}", timeout=10).text
    assert "MARKEDPROMPT" not in str(row) + detail


def test_flower_sees_the_worker(flower: str) -> None:
    (worker,) = flower_workers(flower)

    assert worker["status"] is True
