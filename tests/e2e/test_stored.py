"""What is completed is stored: the file is whole, and its hash is the record's."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.processes import until
from tests.stack import Stack, running


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with running(tmp_path) as whole:
        yield whole


def stored(stack: Stack, task: dict[str, Any]) -> list[bytes]:
    """The files of a completed task, after they were compared with its record."""
    record = json.loads(stack.redis.hget(f"darkroom:task:{task['id']}", "result") or "")
    files = []
    for image in record["images"]:
        data = (stack.directory / "images" / image["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == image["sha256"]
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            assert picture.size == (image["width"], image["height"])
        files.append(data)
    return files


@pytest.mark.parametrize("model", ["dall-e-2", "flux-pro"])
def test_a_worker_killed_before_its_picture_has_its_name_leaves_no_half_picture(
    stack: Stack, model: str
) -> None:
    stack.kill("worker")
    stack.commands["worker"] = [sys.executable, "-m", "tests.e2e.dying_worker"]
    stack.start("worker")
    task = stack.submit("half a picture", model)
    until(lambda: not stack.alive().get("worker"), "killed")
    (litter,) = (stack.directory / "images" / task["id"]).iterdir()
    assert litter.name.endswith(".part")

    stack.commands["worker"] = [sys.executable, "-m", "workers", "worker"]
    stack.start("worker")
    end = stack.finished(task)

    assert len(stack.purchases("half a picture")) == 1
    if model == "flux-pro":  # a job, whose picture can be had again
        assert end["status"] == "completed"
        assert len(stored(stack, task)) == 1
    else:
        assert end["error_detail"]["code"] == "upstream_error"
        assert end["error_detail"]["billed"] == "yes"
        assert not list((stack.directory / "images").rglob("*.png"))


def test_what_is_completed_is_whole_and_as_recorded(stack: Stack) -> None:
    task = stack.submit("as recorded", n=2)

    assert stack.finished(task)["status"] == "completed"
    assert len(stored(stack, task)) == 2
