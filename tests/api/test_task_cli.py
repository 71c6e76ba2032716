"""`flask --app api.wsgi tasks …`, beside the front end that it looks after."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from api.task_cli import make_task_commands
from common.store import Offer
from common.task import Call, CallState, Failure
from tests.api.conftest import ROOT, Stack, environment

SECRET = "a fox whispered"


def flask(stack: Stack, *arguments: str) -> Result:
    """What the command comes to, in this process: to start one for each takes seconds."""
    app = Flask("tests")
    app.cli.add_command(make_task_commands(stack.store))
    return app.test_cli_runner().invoke(args=["tasks", *arguments])


def said(stack: Stack, *arguments: str) -> str:
    done = flask(stack, *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def shown(stack: Stack, task_id: str, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(stack, "show", task_id, "--json", *options))
    return found


def submitted(stack: Stack) -> str:
    return stack.submit(
        prompt=SECRET,
        negative_prompt=SECRET,
        metadata={"note": SECRET},
        webhook_url=f"https://shop.example.com/hook?secret={SECRET.replace(' ', '-')}",
    )


def failing(stack: Stack) -> str:
    """A task one of whose calls was turned away, and the next one failed."""
    task_id = submitted(stack)
    claim = stack.claim(task_id)
    call = Call(0, 1, "bfl", "flux-pro-1.1", CallState.SUBMITTING, 1_700_000_000.5)
    stack.store.begin(claim, [Offer("bfl/flux-pro-1.1", 0, (call,))])
    failure = Failure("upstream_error", f"It said: {SECRET}", billed="unknown")
    stack.store.journal(
        claim, replace(call, state=CallState.FAILED, failure=failure, error="outcome_unknown")
    )
    assert stack.store.fail(task_id, claim.task.generation, failure)
    return task_id


def test_a_task_is_shown_from_its_record_to_its_calls(stack: Stack) -> None:
    task_id = failing(stack)

    about = shown(stack, task_id)

    assert about["status"] == "failed"
    assert about["model"] == "flux-pro"
    assert about["owner"].startswith("key_")
    assert (about["attempts"], about["sent"]) == (1, 1)
    (call,) = about["calls"]
    assert call["route"] == "bfl/flux-pro-1.1"
    assert (call["state"], call["error"]) == ("failed", "outcome_unknown")
    assert call["sent"] == "2023-11-14 22:13:20.500+00:00"
    assert about["failure"]["billed"] == "unknown"
    assert about["webhook"]["host"] == "shop.example.com"
    assert about["webhook"]["delivery"] == "pending"


def test_the_page_says_the_same_a_line_for_each_fact(stack: Stack) -> None:
    task_id = failing(stack)

    text = said(stack, "show", task_id)

    lines = dict(line.split(maxsplit=1) for line in text.splitlines() if line[0] != " ")
    assert lines["id"] == task_id
    assert lines["status"] == "failed"
    assert "error outcome_unknown" in lines["calls"]
    assert "billed unknown" in lines["failure"]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_people_wrote_is_shown_on_request_only(stack: Stack, options: tuple[str, ...]) -> None:
    for task_id in (failing(stack), submitted(stack)):
        text = said(stack, "show", task_id, *options)
        assert "whispered" not in text
        assert "whispered" not in said(stack, "list", "--open", *options)

        assert SECRET in said(stack, "show", task_id, "--prompt", *options)


def test_a_revised_prompt_is_a_prompt(stack: Stack) -> None:
    task_id = submitted(stack)
    stack.complete(task_id)
    key = f"darkroom:task:{task_id}"
    result = json.loads(stack.redis.hget(key, "result"))
    result["images"][0]["revised_prompt"] = SECRET
    stack.redis.hset(key, "result", json.dumps(result))

    assert "whispered" not in said(stack, "show", task_id)
    assert SECRET in said(stack, "show", task_id, "--prompt")


def test_the_timeline_is_shown_where_there_is_one(stack: Stack) -> None:
    task_id = submitted(stack)
    stack.redis.hset(
        f"darkroom:task:{task_id}", "timeline", '0 accepted\n1500 claimed {"worker":"ab12"}'
    )
    created = shown(stack, task_id)["submitted"]

    first, second = shown(stack, task_id)["timeline"]

    assert first == {"at": created, "event": "accepted"}
    assert second["worker"] == "ab12"
    assert "event claimed, worker ab12" in said(stack, "show", task_id)


def test_a_held_task_says_by_whom_and_until_when(stack: Stack) -> None:
    task_id = submitted(stack)
    stack.claim(task_id)

    about = shown(stack, task_id)

    assert about["status"] == "processing"
    assert about["held_by"] == "tests"
    assert about["held_until"] > about["started"]


@pytest.mark.parametrize("task_id", [f"imgtask_{32 * '0'}", "nonsense", "../keys"])
def test_a_task_that_is_not_there_is_a_sentence(stack: Stack, task_id: str) -> None:
    done = flask(stack, "show", task_id)

    assert done.exit_code == 1
    assert f"There is no task {task_id}" in done.stderr
    assert "Traceback" not in done.stderr


def test_open_tasks_are_listed_oldest_first_and_ended_ones_are_not(stack: Stack) -> None:
    first, ended, last = (submitted(stack) for _ in range(3))
    stack.complete(ended)

    rows = json.loads(said(stack, "list", "--open", "--limit", "1000", "--json"))

    ids = [row["id"] for row in rows]
    assert ids.index(first) < ids.index(last)
    assert ended not in ids
    assert {row["status"] for row in rows} <= {"pending", "processing"}
    one = flask(stack, "list", "--open", "--limit", "1")
    assert len(one.stdout.splitlines()) == 1
    assert "more than these 1" in one.stderr


def test_the_tasks_of_a_key_are_listed_newest_first(stack: Stack) -> None:
    first, last = submitted(stack), submitted(stack)
    owner = shown(stack, first)["owner"]

    rows = json.loads(said(stack, "list", "--key", owner, "--json"))

    assert [row["id"] for row in rows[:2]] == [last, first]
    assert {row["owner"] for row in rows} == {owner}
    assert "There are none" in said(stack, "list", "--key", "key_nobody")


@pytest.mark.parametrize("options", [(), ("--open", "--key", "key_a")])
def test_a_list_wants_to_know_of_what(stack: Stack, options: tuple[str, ...]) -> None:
    done = flask(stack, "list", *options)

    assert done.exit_code == 2
    assert "--open or --key" in done.stderr


@pytest.mark.parametrize("away", [False, True])
def test_the_command_itself(stack: Stack, away: bool) -> None:
    task_id = submitted(stack)
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "api.wsgi", "tasks", "show", task_id],
        cwd=ROOT,
        env=environment(REDIS_URL="redis://127.0.0.1:1/0" if away else stack.valkey.url),
        capture_output=True,
        text=True,
    )

    assert done.returncode == int(away)
    assert ("Is REDIS_URL right" in done.stderr) == away
    assert (task_id in done.stdout) == (not away)
    assert "Traceback" not in done.stderr
