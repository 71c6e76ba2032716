"""`GET /v1/tasks`: a caller's own tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from common.task import Failure
from tests.api.conftest import Stack

BODY = {"model": "flux-pro", "prompt": "x"}


class Caller:
    """Somebody with a key of its own, and so with a list of its own."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        _, key = stack.keys.create("lister")
        self._headers = {"Authorization": f"Bearer {key}"}

    def submit(self, **fields: Any) -> str:
        answer = requests.post(
            f"{self._stack.base}/v1/images/generations",
            json=BODY | fields,
            headers=self._headers,
            timeout=30,
        )
        task_id: str = answer.json()["task_id"]
        return task_id

    def list(self, **query: Any) -> requests.Response:
        return requests.get(
            f"{self._stack.base}/v1/tasks", params=query, headers=self._headers, timeout=30
        )


@pytest.fixture
def somebody(stack: Stack) -> Iterator[Caller]:
    return Caller(stack)


def ids(answer: requests.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [task["id"] for task in answer.json()["data"]]


def test_a_list_is_of_ones_own_tasks_the_newest_first(stack: Stack, somebody: Caller) -> None:
    mine = [somebody.submit() for _ in range(3)]
    stack.submit()
    answer = somebody.list()

    assert ids(answer) == mine[::-1]
    body = answer.json()
    assert (body["object"], body["has_more"]) == ("list", False)
    assert (body["first_id"], body["last_id"]) == (mine[-1], mine[0])


def test_nobody_has_nothing(somebody: Caller) -> None:
    assert somebody.list().json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_pages_follow_one_another_without_gap_or_double(somebody: Caller) -> None:
    mine = [somebody.submit() for _ in range(7)]
    seen, query = [], {"limit": 3}
    while True:
        answer = somebody.list(**query)
        seen += ids(answer)
        if not answer.json()["has_more"]:
            break
        query["after"] = answer.json()["last_id"]

    assert seen == mine[::-1]


def test_a_page_stays_where_it_was_when_newer_tasks_come(somebody: Caller) -> None:
    mine = [somebody.submit() for _ in range(4)]
    first = somebody.list(limit=2)
    somebody.submit()

    assert ids(somebody.list(limit=2, after=first.json()["last_id"])) == mine[1::-1]


def test_a_list_can_be_filtered(stack: Stack, somebody: Caller) -> None:
    failed, other, _ = somebody.submit(), somebody.submit(model="dall-e-2"), somebody.submit()
    stack.store.fail(failed, None, Failure("upstream_error", "It did not work."))

    assert ids(somebody.list(status="failed")) == [failed]
    assert ids(somebody.list(model="dall-e-2")) == [other]
    assert ids(somebody.list(status="failed", model="dall-e-2")) == []


def test_a_task_looks_as_when_polled_but_for_base64(stack: Stack, somebody: Caller) -> None:
    task_id = somebody.submit(response_format="b64_json")
    stack.complete(task_id)
    [listed] = somebody.list().json()["data"]

    assert listed["status"] == "completed"
    assert listed["data"][0]["url"].startswith("http")
    assert "b64_json" not in listed["data"][0]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"limit": "9" * 100}, "limit"),
        ({"limit": "\u0663"}, "limit"),
        ({"status": "done"}, "status"),
        ({"after": "imgtask_" + "0" * 32}, "after"),
        ({"after": "*"}, "after"),
    ],
)
def test_what_cannot_be_asked_for_is_said(
    somebody: Caller, query: dict[str, str], field: str
) -> None:
    answer = somebody.list(**query)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


def test_a_list_does_not_go_on_behind_somebody_elses_task(stack: Stack, somebody: Caller) -> None:
    foreign, unknown = stack.submit(), "imgtask_" + "0" * 32
    answers = [somebody.list(after=after) for after in (foreign, unknown)]

    assert answers[0].status_code == 400
    assert answers[0].content == answers[1].content


def test_a_list_is_one_round_trip(stack: Stack, somebody: Caller) -> None:
    for _ in range(3):
        somebody.submit()
    somebody.list()  # the key is known from now on, and how tasks ended lately
    before = stack.commands()
    somebody.list()

    assert stack.commands()["fcall"] - before["fcall"] == 1
