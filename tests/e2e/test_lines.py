"""Whoever has a task's id, or a request's, finds every line that was written about it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.processes import until
from tests.stack import KEY, Stack, running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("lines"), LOG_FORMAT="json") as stack:
        yield stack


def lines(stack: Stack, name: str) -> list[dict[str, Any]]:
    """What a process has logged; Celery says on the console that it stops, and the like."""
    text = (stack.directory / f"{name}.log").read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_every_line_of_a_worker_about_a_task_has_its_id(stack: Stack, pool: str) -> None:
    if pool == "gevent":
        stack.kill("worker")
        stack.start("worker", WORKER_POOL="gevent")
        until(lambda: "ready." in (stack.directory / "worker.log").read_text()[-3000:], "ready")
    before = len(lines(stack, "worker"))
    prompts = {"flux-schnell": "several", "dall-e-2": "sim:moderated", "flux-pro": "one"}
    tasks = {
        model: stack.submit(prompt, model, n=2 if prompt == "several" else 1)
        for model, prompt in prompts.items()
    }
    for task in tasks.values():
        stack.finished(task)
    ids = {task["id"] for task in tasks.values()}

    def seen() -> list[dict[str, Any]]:
        return lines(stack, "worker")[before:]

    def ends() -> set[str]:
        return {line["task_id"] for line in seen() if line["event"] in ("completed", "failed")}

    until(lambda: ends() >= ids, "every end is told")
    for task_id in ids:
        about = [line for line in seen() if task_id in json.dumps(line)]
        assert {line.get("task_id") for line in about} == {task_id}
        assert "claimed" in {line["event"] for line in about}
        loggers = {line["logger"] for line in about}
        assert {"workers.tasks", "workers.courier", "common.backend"} <= loggers
    strangers = [line for line in seen() if line.get("task_id") not in {*ids, None}]
    assert strangers == []


def test_a_task_is_followed_by_one_id_through_the_front_end(stack: Stack) -> None:
    answer = stack.post(
        {"model": "flux-pro", "prompt": "a fox", "size": "512x512"}, **{"X-Request-ID": "mine-1"}
    )
    task = answer.json()
    stack.finished(task)

    (submit,) = [line for line in lines(stack, "web") if line.get("request_id") == "mine-1"]
    assert submit["task_id"] == task["id"]
    assert submit["status"] == 202
    polls = [line for line in lines(stack, "web") if line.get("task_id") == task["id"]]
    assert len({line["request_id"] for line in polls}) == len(polls) > 1


def test_a_request_says_nothing_of_the_one_before_it(stack: Stack) -> None:
    """Both come over one connection, and so in one greenlet."""
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {KEY}"
        task = stack.submit("a fox")
        session.get(stack.url + task["poll_url"], timeout=10)
        session.get(f"{stack.url}/healthz", headers={"X-Request-ID": "mine-2"}, timeout=10)

    (line,) = [line for line in lines(stack, "web") if line.get("request_id") == "mine-2"]
    assert "task_id" not in line
    stack.finished(task)


def test_what_goes_wrong_within_a_request_has_its_id(stack: Stack) -> None:
    stack.kill("valkey", signal.SIGSTOP)
    try:
        answer = stack.get("/v1/tasks/imgtask_" + 32 * "0")
    finally:
        stack.kill("valkey", signal.SIGCONT)

    assert answer.status_code == 503
    request_id = answer.headers["X-Request-ID"]
    about = [line for line in lines(stack, "web") if line.get("request_id") == request_id]
    assert {line["event"] for line in about} >= {"store unavailable", "request"}
    assert {line["task_id"] for line in about} == {"imgtask_" + 32 * "0"}
