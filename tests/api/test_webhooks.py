"""Webhooks and metadata in the front end: what is taken, what is shown, and asking once more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from common.outbox import DueDelivery, Outbox
from common.task import Failure, new_task_id
from common.webhook import Try
from tests.api.conftest import Stack, running
from tests.common.test_webhook import HOSTILE

URL = "https://shop.example.com/hooks/images?token=MARKEDTOKEN"


@pytest.fixture
def outbox(stack: Stack) -> Outbox:
    """With nothing in it that others have left."""
    for name in stack.redis.scan_iter("darkroom:webhooks*"):
        stack.redis.delete(name)
    return Outbox(stack.redis, waits=(60, 60), lease=60)


def submit(stack: Stack, **fields: Any) -> str:
    return stack.submit(webhook_url=URL, **fields)


def take(outbox: Outbox, task_id: str) -> DueDelivery:
    (due,) = [due for due in outbox.take(1000) if due.task.id == task_id]
    return due


def webhook(stack: Stack, task_id: str) -> dict[str, Any]:
    state: dict[str, Any] = stack.get(f"/v1/tasks/{task_id}").json()["webhook"]
    return state


def redeliver(stack: Stack, task_id: str, **options: Any) -> requests.Response:
    return stack.call("POST", f"/v1/tasks/{task_id}/webhook/redeliver", **options)


# -- Submit


@pytest.mark.parametrize("url", HOSTILE)
def test_a_private_address_is_refused_and_the_field_named(stack: Stack, url: str) -> None:
    answer = stack.post({"prompt": "x", "webhook_url": url})

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "webhook_url")
    assert error["message"].startswith("webhook_url")
    assert answer.json()["validation_errors"][0]["field"] == "webhook_url"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"webhook_url": 1}, "webhook_url"),
        ({"webhook_url": URL, "webhook_events": []}, "webhook_events"),
        ({"webhook_url": URL, "webhook_events": ["started"]}, "webhook_events"),
        ({"webhook_url": URL, "webhook_events": "completed"}, "webhook_events"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": ["a"]}, "metadata"),
        ({"metadata": {"a": {"b": "c"}}}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {"k": "\x00"}}, "metadata"),
        ({"metadata": {"\ud800": "v"}}, "metadata"),
    ],
)
def test_what_is_wrong_is_named(stack: Stack, fields: dict[str, Any], param: str) -> None:
    answer = stack.post({"prompt": "x", **fields})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["message"].startswith(param)


def test_as_much_metadata_is_taken_as_was_promised(stack: Stack) -> None:
    metadata = {f"{i:k>64}": "v" * 512 for i in range(15)} | {"ünï": "cödé 🦊"}

    task_id = stack.submit(metadata=metadata)

    assert stack.get(f"/v1/tasks/{task_id}").json()["metadata"] == metadata
    assert "metadata" not in stack.get(f"/v1/tasks/{stack.submit()}").json()


def test_a_submit_with_a_webhook_says_no_warning(stack: Stack) -> None:
    fields = {"webhook_url": URL, "webhook_events": ["failed"], "metadata": {}}
    answer = stack.post({"model": "flux-pro", "prompt": "x", **fields})

    assert (answer.status_code, answer.json()["warnings"]) == (202, [])


def test_events_without_an_address_are_told(stack: Stack) -> None:
    answer = stack.post({"model": "flux-pro", "prompt": "x", "webhook_events": ["failed"]})

    assert "webhook_url" in answer.json()["warnings"][0]
    assert "webhook" not in stack.get(answer.json()["poll_url"]).json()


def test_a_submit_with_a_webhook_is_still_one_round_trip(stack: Stack) -> None:
    submit(stack, metadata={"a": "b"})
    before = stack.commands()

    submit(stack, metadata={"a": "b"})

    after = stack.commands()
    assert after["fcall"] - before["fcall"] == 1


@pytest.mark.parametrize(
    "other",
    [
        {"webhook_url": "https://other.example.com/"},
        {"webhook_url": URL, "webhook_events": ["failed"]},
        {"webhook_url": URL, "metadata": {"a": "b"}},
        {},
    ],
)
def test_a_repeat_with_another_webhook_is_another_request(
    stack: Stack, other: dict[str, Any]
) -> None:
    body, named = {"model": "flux-pro", "prompt": "x"}, {"Idempotency-Key": new_task_id()}
    first = stack.post(body | {"webhook_url": URL}, headers=named)

    again = stack.post(body | {"webhook_url": URL}, headers=named)
    changed = stack.post(body | other, headers=named)

    assert again.json()["task_id"] == first.json()["task_id"]
    assert changed.status_code == 422


@pytest.mark.parametrize("allowed", [True, False])
def test_private_addresses_are_for_who_wants_them(tmp_path: Path, allowed: bool) -> None:
    settings = {"BFL_API_KEY": "none", "WEBHOOK_PRIVATE_TARGETS": str(allowed)}
    with running(tmp_path, **settings) as stack:
        body = {"model": "flux-pro", "prompt": "x", "webhook_url": "http://127.0.0.1:9/hook"}
        assert stack.post(body).status_code == (202 if allowed else 400)


# -- Poll


def test_its_way_is_shown_to_the_owner_of_the_task(stack: Stack, outbox: Outbox) -> None:
    task_id = submit(stack, webhook_events=["completed"])
    shown = {"url": "https://shop.example.com/hooks/images?…", "events": ["completed"]}
    idle = {"id": None, "status": "pending", "attempts": [], "next_attempt_at": None}
    assert webhook(stack, task_id) == shown | idle

    stack.complete(task_id)
    owed = webhook(stack, task_id)
    assert (owed["id"], owed["status"]) == (f"{task_id}_completed", "pending")
    assert owed["next_attempt_at"] is not None

    first = take(outbox, task_id)
    outbox.told(first, Try(first.at, 500, ms=12))
    failing = webhook(stack, task_id)
    assert failing["attempts"] == [{"at": first.at // 1000, "status": 500, "error": None, "ms": 12}]
    assert 60 <= failing["next_attempt_at"] - first.at // 1000 <= 67
    assert "MARKEDTOKEN" not in stack.get(f"/v1/tasks/{task_id}").text


def test_an_end_that_was_not_asked_for_says_so(stack: Stack) -> None:
    task_id = submit(stack, webhook_events=["completed"])

    stack.fail(task_id, Failure("upstream_error", "It broke."))

    assert webhook(stack, task_id)["status"] == "not_asked"
    answer = redeliver(stack, task_id)
    assert answer.status_code == 409
    assert "webhook_events" in answer.json()["error"]["message"]


def test_the_tag_of_a_final_task_changes_with_its_webhook(stack: Stack, outbox: Outbox) -> None:
    task_id = submit(stack)
    stack.complete(task_id)
    path = f"/v1/tasks/{task_id}"
    tag = stack.get(path).headers["ETag"]
    assert stack.get(path, headers={"If-None-Match": tag}).status_code == 304

    due = take(outbox, task_id)
    outbox.told(due, Try(due.at, 200, ms=3))

    answer = stack.get(path, headers={"If-None-Match": tag})
    assert answer.status_code == 200
    assert answer.json()["webhook"]["status"] == "delivered"


def test_images_are_named_by_the_host_that_the_submit_came_to(stack: Stack, outbox: Outbox) -> None:
    body = {"model": "flux-pro", "prompt": "x", "webhook_url": URL}
    answer = stack.post(body, headers={"Host": "images.example.com"})
    stack.complete(answer.json()["task_id"])

    due = take(outbox, answer.json()["task_id"])

    assert due.webhook.base_url == "http://images.example.com"


# -- Once more


def test_a_delivery_can_be_had_again(stack: Stack, outbox: Outbox) -> None:
    task_id = submit(stack)
    stack.complete(task_id)
    due = take(outbox, task_id)
    outbox.told(due, Try(due.at, 200, ms=3))

    answer = redeliver(stack, task_id)

    assert answer.status_code == 202
    assert answer.json()["webhook"]["status"] == "pending"
    assert answer.json()["status"] == "completed"
    assert take(outbox, task_id).number == 2


def test_what_cannot_be_delivered_is_told(stack: Stack) -> None:
    open_, without = submit(stack), stack.submit()
    stack.complete(without)

    answers = [redeliver(stack, task_id) for task_id in (open_, without)]

    assert [answer.status_code for answer in answers] == [409, 409]
    assert {answer.json()["error"]["code"] for answer in answers} == {"webhook_not_deliverable"}
    assert "not ended" in answers[0].json()["error"]["message"]
    assert "webhook_url" in answers[1].json()["error"]["message"]


def test_other_peoples_tasks_are_unknown_here_too(stack: Stack) -> None:
    task_id = submit(stack)
    stack.complete(task_id)
    _, stranger = stack.keys.create("stranger")
    headers = {"Authorization": f"Bearer {stranger}"}

    foreign = redeliver(stack, task_id, headers=headers)
    unknown = redeliver(stack, new_task_id(), headers=headers)

    assert (foreign.status_code, foreign.content) == (unknown.status_code, unknown.content)
    assert foreign.status_code == 404
    assert redeliver(stack, "nonsense").status_code == 404
