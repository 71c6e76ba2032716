"""The other pool: the same worker on gevent, patched before anything else is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.contracts.scripted import Reply, Scripted
from tests.processes import until
from tests.stack import KEY, Stack, running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(
        tmp_path_factory.mktemp("gevent"), WORKER_POOL="gevent", WEBHOOK_PRIVATE_TARGETS="true"
    ) as whole:
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
    stack.accepted(task)

    stack.kill("worker")
    stack.start("worker")

    assert stack.finished(task)["status"] == "completed"
    assert len(stack.purchases(prompt)) == 1


def test_a_job_is_stopped(stack: Stack) -> None:
    task = stack.submit("greenlets stop sim:never_ready", "flux-schnell")
    stack.accepted(task)

    answer = requests.delete(
        stack.url + task["poll_url"], headers={"Authorization": f"Bearer {KEY}"}, timeout=30
    )

    assert answer.status_code == 200, answer.text
    assert answer.json()["cancelled"]


def test_webhooks_arrive(stack: Stack) -> None:
    receiver = Scripted(Reply(status=204))
    try:
        tasks = [stack.submit("greenlets tell", webhook_url=receiver.url) for _ in range(5)]
        until(
            lambda: all(stack.poll(task)["webhook"]["status"] == "delivered" for task in tasks),
            "all are told",
            40,
        )
    finally:
        receiver.close()

    assert len(receiver.seen) == 5


def test_a_task_that_celery_kills_by_its_limit_ends_in_its_record(
    tmp_path: Path,
) -> None:
    """Cut off in the middle of a paid call: said so, bought once, and the worker goes on."""
    stack = Stack(tmp_path)
    celery = "-m gevent.monkey --module celery -A workers.celery worker -P gevent -c 20"
    stack.commands["worker"] = [sys.executable, *celery.split(), "--time-limit", "2"]
    try:
        stack.start_all()
        end = stack.finished(stack.submit("too long sim:slow:60", "dall-e-2"))

        assert end["error_detail"]["code"] == "outcome_unknown"
        assert len(stack.purchases("too long")) == 1
        assert stack.finished(stack.submit("still at work"))["status"] == "completed"
    finally:
        stack.redis.close()
        stack.stop()
