"""Webhooks of the whole system, with a receiver of its own, and kill -9 of whoever brings them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
from standardwebhooks import Webhook as Verifier

from common.outbox import WebhookSecrets
from tests.processes import free_port, until
from tests.stack import ROOT, Stack, running

WAITS = (1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0)
TIMEOUT = 1.5  # and a try is its maker's for twice as long


class Receiver:
    """A process that gets webhooks, and what it has seen."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.e2e.receiver", str(self.port), str(self.directory)]
        self._process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        until(lambda: requests.get(self.url, timeout=1).status_code == 501, "the receiver")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def answer(self, what: str) -> None:
        (self.directory / "answer").write_text(what)

    def seen(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        """The requests about a task, in order."""
        path = self.directory / "seen.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in map(json.loads, lines) if task["id"] in line["body"]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Tests may kill its workers, if they start them again."""
    with running(
        tmp_path_factory.mktemp("webhooks"),
        WEBHOOK_PRIVATE_TARGETS="true",
        WEBHOOK_WAITS=",".join(map(str, WAITS)),
        WEBHOOK_TIMEOUT_SECONDS=str(TIMEOUT),
        LOG_LEVEL="DEBUG",
    ) as whole:
        yield whole


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path)
    receiver.start()
    yield receiver
    receiver.stop()


def settled(stack: Stack, task: dict[str, Any], state: str = "delivered") -> dict[str, Any]:
    """The state of a delivery once it is that."""
    shown: dict[str, Any] = until(
        lambda: hook if (hook := stack.poll(task)["webhook"])["status"] == state else None,
        f"{task['id']} {state}",
        40,
    )
    return shown


def secret(stack: Stack, task: dict[str, Any]) -> str:
    owner = stack.redis.hget(f"darkroom:task:{task['id']}", "owner")
    return WebhookSecrets(stack.redis).of(str(owner))[0]


def verify(stack: Stack, task: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = Verifier(secret(stack, task)).verify(seen["body"], seen["headers"])
    return body


@pytest.mark.parametrize(
    ("prompt", "status"), [("a fox", "completed"), ("a fox sim:moderated", "failed")]
)
def test_an_end_is_delivered_once_with_the_body_of_polling(
    stack: Stack, receiver: Receiver, prompt: str, status: str
) -> None:
    task = stack.submit(prompt, webhook_url=receiver.url, metadata={"order": "4711"})

    shown = settled(stack, task)

    (seen,) = receiver.seen(task)
    assert seen["headers"]["webhook-id"] == shown["id"] == f"{task['id']}_{status}"
    polled = stack.poll(task)
    del polled["webhook"]  # what it cannot say of itself: how it was delivered
    polled["timeline"] = [e for e in polled["timeline"] if e["event"] != "notified"]
    assert verify(stack, task, seen) == polled
    assert polled["status"] == status
    assert polled["metadata"] == {"order": "4711"}
    if status == "completed":
        assert requests.get(polled["data"][0]["url"], timeout=10).status_code == 200


def test_who_is_away_for_a_while_gets_it_when_back_and_the_waits_are_kept(
    stack: Stack, receiver: Receiver
) -> None:
    receiver.stop()
    task = stack.submit("away", webhook_url=receiver.url)
    stack.finished(task)
    until(lambda: stack.poll(task)["webhook"]["attempts"], "a try in vain")
    receiver.answer("500")
    receiver.start()
    until(lambda: len(receiver.seen(task)) == 2, "two failures")
    receiver.answer("200")

    attempts = settled(stack, task)["attempts"]

    assert attempts[0]["error"] == "no connection could be made"
    assert [attempt["status"] for attempt in attempts[-3:]] == [500, 500, 200]
    arrived = [seen["at"] for seen in receiver.seen(task)]
    numbers = range(len(attempts) - 3, len(attempts) - 1)
    for number, (before, after) in zip(numbers, pairwise(arrived), strict=True):
        assert WAITS[number] <= after - before <= 1.1 * WAITS[number] + 10
    assert len({seen["headers"]["webhook-id"] for seen in receiver.seen(task)}) == 1
    stamps = [int(seen["headers"]["webhook-timestamp"]) for seen in receiver.seen(task)]
    assert stamps == sorted(stamps) and stamps[0] < stamps[-1]


def test_a_worker_that_dies_between_the_end_and_the_delivery_loses_nothing(
    stack: Stack, receiver: Receiver
) -> None:
    stack.kill("worker", signal.SIGTERM)
    command = [sys.executable, "-m", "tests.e2e.silenced_worker", str(receiver.port)]
    stack.commands["silenced"] = command
    stack.start("silenced")
    task = stack.submit("dies before", webhook_url=receiver.url)
    until(lambda: "silenced" not in stack.alive(), "killed", 60)
    stack.kill("silenced")
    assert stack.poll(task)["status"] == "completed"
    assert receiver.seen(task) == []

    stack.start("worker")

    attempts = settled(stack, task)["attempts"]
    assert [(a["status"], a["error"]) for a in attempts] == [
        (None, "the worker was lost"),
        (204, None),
    ]
    verify(stack, task, receiver.seen(task)[0])


def test_a_worker_that_dies_while_it_delivers_has_it_delivered_again(
    stack: Stack, receiver: Receiver
) -> None:
    stack.wait_until_ready()
    receiver.answer("hold")
    task = stack.submit("dies during", webhook_url=receiver.url)
    until(lambda: receiver.seen(task), "arrived")

    stack.kill("worker")
    receiver.answer("204")
    stack.start("worker")

    settled(stack, task)
    first, *_, last = receiver.seen(task)
    assert first["headers"]["webhook-id"] == last["headers"]["webhook-id"]
    verify(stack, task, last)


def test_what_the_sweep_ends_is_delivered_as_well(stack: Stack, receiver: Receiver) -> None:
    stack.kill("worker", signal.SIGTERM)
    task = stack.submit("never made", webhook_url=receiver.url, webhook_events=["failed"])
    stack.redis.hset(f"darkroom:task:{task['id']}", "deadline", 1)
    stack.redis.zadd("darkroom:due", {task["id"]: 1})
    assert stack.finished(task)["error_detail"]["code"] == "timeout"
    assert stack.poll(task)["webhook"]["status"] == "pending"

    stack.start("worker")

    settled(stack, task)
    (seen,) = receiver.seen(task)
    assert verify(stack, task, seen)["error_detail"]["code"] == "timeout"


def test_what_is_owed_survives_valkey(stack: Stack, receiver: Receiver) -> None:
    stack.wait_until_ready()
    receiver.stop()
    task = stack.submit("survives", webhook_url=receiver.url)
    stack.finished(task)
    until(lambda: stack.poll(task)["webhook"]["attempts"], "a try in vain")

    stack.kill("valkey")
    stack.start("valkey")
    receiver.start()

    settled(stack, task)
    assert receiver.seen(task)


def test_no_log_and_no_message_holds_a_prompt_a_secret_or_an_address(
    stack: Stack, receiver: Receiver
) -> None:
    stack.wait_until_ready()
    url = f"{receiver.url}/MARKEDPATH?MARKEDTOKEN=1"
    body = {"webhook_url": url, "metadata": {"k": "MARKEDDATA"}}
    receiver.answer("500")
    task = stack.submit("a fox MARKEDPROMPT", **body)
    until(lambda: len(receiver.seen(task)) == 2, "two tries")
    receiver.answer("204")
    settled(stack, task)

    logs = {log.name: log.read_text() for log in stack.directory.glob("*.log")}

    assert "webhook tried" in logs["worker.log"]
    marked = ["MARKEDPROMPT", "MARKEDPATH", "MARKEDTOKEN", "MARKEDDATA"]
    marked.append(secret(stack, task).removeprefix("whsec_"))
    assert [(name, word) for name, text in logs.items() for word in marked if word in text] == []
    keys = stack.redis.hgetall("darkroom:keys")
    assert "whsec_" not in str(keys)
