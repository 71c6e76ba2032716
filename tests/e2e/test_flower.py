"""What Flower shows of a generation, and what it must not show."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image, PngImagePlugin

from tests.processes import until
from tests.stack import KEY, Stack


@pytest.fixture(scope="module")
def flower(whole_stack: Stack) -> Iterator[str]:
    whole_stack.start("flower")
    # It answers before it listens to events; once it knows the worker, it listens.
    until(lambda: workers(whole_stack.flower_url), "Flower sees the worker")
    yield whole_stack.flower_url
    whole_stack.kill("flower")


def workers(flower: str) -> list[dict[str, Any]]:
    with contextlib.suppress(requests.RequestException):
        answer = requests.get(f"{flower}/workers?json=1", timeout=10)
        found: list[dict[str, Any]] = answer.json()["data"]
        return found
    return []


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
    assert not [
        log.name for log in stack.directory.glob("*.log") if "MARKEDPROMPT" in log.read_text()
    ]


def test_flower_sees_the_worker(flower: str) -> None:
    (worker,) = workers(flower)

    assert worker["status"] is True


def test_nothing_of_an_upload_is_seen(stack: Stack, flower: str) -> None:
    data = io.BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "MARKEDCONTENT")
    Image.new("RGB", (64, 64)).save(data, "PNG", pnginfo=text)
    answer = requests.post(
        f"{stack.url}/v1/images/edits",
        data={"prompt": "a fox MARKEDPROMPT"},
        files={"image": ("MARKEDNAME.png", data.getvalue())},
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=30,
    )
    task = stack.finished(answer.json())
    assert task["status"] == "completed", task

    until(lambda: [r for r in rows(flower, task["id"]) if r["state"] == "SUCCESS"], "in Flower")

    (row,) = rows(flower, task["id"])
    detail = requests.get(f"{flower}/task/{task['id']}", timeout=10).text
    logs = "".join(log.read_text() for log in stack.directory.glob("*.log"))
    assert "MARKED" not in str(row) + detail + logs
