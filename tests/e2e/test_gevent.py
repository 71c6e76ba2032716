"""The other pool: the same worker on gevent, patched before anything else is imported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes import until
from tests.stack import Stack, running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("gevent"), WORKER_POOL="gevent") as whole:
        yield whole


@pytest.mark.parametrize("model", ["dall-e-2", "flux-pro"])
def test_a_generation_completes(stack: Stack, model: str) -> None:
    tasks = [stack.submit(f"on greenlets {model}", model, n=2) for _ in range(5)]

    ends = [stack.finished(task) for task in tasks]

    assert {end["status"] for end in ends} == {"completed"}
    assert len(stack.purchases(f"on greenlets {model}")) == 10
    assert "MonkeyPatchWarning" not in (stack.directory / "worker.log").read_text()


def test_a_job_outlives_its_worker(stack: Stack) -> None:
    prompt = "greenlets die sim:never_ready@poll*3"
    task = stack.submit(prompt)
    record = f"darkroom:task:{task['id']}"
    until(lambda: "accepted" in str(stack.redis.hgetall(record)), "job id")

    stack.kill("worker")
    stack.start("worker")

    assert stack.finished(task)["status"] == "completed"
    assert len(stack.purchases(prompt)) == 1
