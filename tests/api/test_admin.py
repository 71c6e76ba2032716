"""`/v1/admin`: whom it lets in, what it shows, and what operators can do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from common.catalog import Catalog
from common.limits import Limits
from common.oversight import Oversight
from common.store import Grant, Offer
from common.task import Call, CallState, Failure
from tests.api.conftest import Stack, picture
from tests.api.test_openapi import check, schema_of

ROUTE = "bfl/flux-pro-1.1"
FAILED = Failure("upstream_error", "apple pie, said the provider", retryable=True)


@pytest.fixture(scope="module")
def admin_key(stack: Stack) -> str:
    return stack.keys.create("operator", admin=True)[1]


@pytest.fixture
def spec(stack: Stack) -> dict[str, Any]:
    return dict(stack.get("/openapi.json").json())


class Admin:
    """An operator at work; every answer is held to the document."""

    def __init__(self, stack: Stack, key: str, spec: dict[str, Any]) -> None:
        self._stack = stack
        self._headers = {"Authorization": f"Bearer {key}"}
        self._spec = spec

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        answer = self._stack.call(method, f"/v1/admin/{path}", headers=self._headers, **options)
        template = f"/v1/admin/{path.partition('?')[0]}"
        if template not in self._spec["paths"]:
            parts = template.split("/")
            parts[4] = "{task_id}"
            template = "/".join(parts)
        schema = schema_of(self._spec, method.lower(), template, answer.status_code)
        check(self._spec, schema, answer.json())
        assert "apple" not in answer.text  # which is in every prompt here
        return answer

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        answer = self.ask("POST", path, json=body)
        found = answer.json()
        return answer.status_code, found.get("error", found)


@pytest.fixture
def admin(stack: Stack, admin_key: str, spec: dict[str, Any]) -> Iterator[Admin]:
    yield Admin(stack, admin_key, spec)
    stack.redis.delete("darkroom:routes", "darkroom:routes:paused")


def failed(stack: Stack, failure: Failure = FAILED, **fields: Any) -> str:
    task_id = stack.submit(**fields)
    stack.fail(task_id, failure)
    return task_id


# -- keys


def test_an_ordinary_key_is_refused_everywhere_and_told_why(
    stack: Stack, spec: dict[str, Any]
) -> None:
    paths = [path for path in spec["paths"] if path.startswith("/v1/admin/")]
    assert len(paths) >= 10
    for path in [*paths, "/v1/admin", "/v1/admin/none"]:
        for method in ("GET", "POST", "DELETE"):
            answer = stack.call(method, path.replace("{task_id}", stack.submit()))
            assert answer.status_code == 403
            assert answer.json()["error"]["code"] == "key_not_allowed"
            assert "--admin" in answer.json()["error"]["hint"]


def test_an_operators_key_is_for_nothing_else(stack: Stack, admin_key: str) -> None:
    task_id = stack.submit()
    headers = {"Authorization": f"Bearer {admin_key}"}
    for method, path in [
        ("POST", "/v1/images/generations"),
        ("GET", f"/v1/tasks/{task_id}"),
        ("GET", "/v1/tasks"),
        ("GET", "/v1/usage"),
        ("GET", "/v1/administration"),
    ]:
        answer = stack.call(method, path, headers=headers, json={"prompt": "x"})
        assert answer.status_code == 403, path
        assert answer.json()["error"]["code"] == "key_not_allowed"


def test_a_revoked_operators_key_is_no_key(stack: Stack) -> None:
    entry, key = stack.keys.create("former operator", admin=True)
    stack.keys.revoke(entry.id)

    answer = stack.get("/v1/admin/overview", headers={"Authorization": f"Bearer {key}"})

    assert answer.status_code == 401


# -- what is shown


def test_the_overview_tells_of_queues_workers_and_routes(stack: Stack, admin: Admin) -> None:
    before = admin.get("overview")["tasks"]
    stack.submit()
    held = stack.submit()
    stack.store.renew("host:1:abc", {held: 1})
    assert stack.store.claim(held, "host:1:abc")
    stack.store.judge(ROUTE, "rate_limited", 50)

    seen = admin.get("overview")

    assert seen["tasks"]["waiting"] == before["waiting"] + 1
    assert seen["tasks"]["taken"] == before["taken"] + 1
    assert seen["tasks"]["open"] == before["open"] + 2
    (worker,) = [one for one in seen["processes"] if one["name"] == "host:1:abc"]
    assert worker["alive"]
    assert [(one["model"], one["tasks"]) for one in worker["holds"]] == [("flux-pro", 1)]
    (route,) = [one for one in seen["routes"] if one["route"] == ROUTE]
    assert (route["state"], route["reason"]) == ("shut", "rate_limited")
    assert route["opens_in_seconds"] > 40
    assert route["models"] == ["flux-pro"]
    (bfl,) = [one for one in seen["accounts"] if one["provider"] == "bfl"]
    assert bfl["configured"] and bfl["state"] == "open"


def test_what_is_asked_of_redis_does_not_grow_with_the_tasks(stack: Stack, admin: Admin) -> None:
    for path in ("overview", "history", "tasks", "tasks?show=failed", "keys"):
        admin.get(path)  # the key is known now for seconds
        before = stack.commands()
        admin.get(path)
        after = stack.commands()
        sent = {name: times - before.get(name, 0) for name, times in after.items()}
        assert sent["fcall"] <= 2, path
        assert not sent.get("scan") and not sent.get("keys")


def test_tasks_are_listed_by_age_and_of_whoever_owns_them(stack: Stack, admin: Admin) -> None:
    entry, _ = stack.keys.create("somebody")
    ids = [stack.submit() for _ in range(3)]
    stack.claim(ids[1])

    rows = admin.get("tasks?limit=200")["data"]

    assert [row["id"] for row in rows if row["id"] in ids] == ids
    assert [row["submitted"] for row in rows] == sorted(row["submitted"] for row in rows)
    of_key = admin.get(f"tasks?key={rows[0]['owner']}&limit=2")["data"]
    assert [row["id"] for row in of_key] == [ids[2], ids[1]]
    assert admin.get(f"tasks?key={entry.id}")["data"] == []
    assert len(admin.get("tasks?limit=1")["data"]) == 1
    assert admin.ask("GET", "tasks?limit=201").status_code == 400
    assert admin.ask("GET", "tasks?show=all").status_code == 400


def test_what_failed_last_comes_first_and_cancelled_tasks_are_none_of_it(
    stack: Stack, admin: Admin
) -> None:
    ids = [failed(stack), failed(stack)]
    cancelled = stack.submit()
    stack.call("DELETE", f"/v1/tasks/{cancelled}")

    rows = admin.get("tasks?show=failed")["data"]

    assert [row["id"] for row in rows[:2]] == [ids[1], ids[0]]
    assert (rows[0]["error"], rows[0]["billed"]) == ("upstream_error", "no")
    assert cancelled not in [row["id"] for row in rows]


def test_a_task_is_told_with_its_journal_and_without_its_prompt(stack: Stack, admin: Admin) -> None:
    task_id = stack.submit(metadata={"of": "apple"}, user="apple")
    claim = stack.claim(task_id)
    call = Call(0, 1, "bfl", "flux-pro-1.1", CallState.ACCEPTED, job={"id": "j"})
    stack.store.journal(claim, call)
    stack.store.fail(task_id, claim.task.generation, FAILED)

    task = admin.get(f"tasks/{task_id}")

    assert [entry["event"] for entry in task["timeline"]] == [
        *("accepted", "claimed", "job_accepted", "failed")
    ]
    assert task["calls"][0]["job"] == "j"
    assert task["failure"] == {"code": "upstream_error", "retryable": True, "billed": "no"}
    assert admin.ask("GET", "tasks/imgtask_" + "0" * 32).status_code == 404


def test_keys_are_listed_with_what_they_spent_and_without_secrets(
    stack: Stack, admin: Admin, admin_key: str
) -> None:
    stack.complete(stack.submit(n=2), picture(), picture(), usage={"cost_usd": 0.5})

    found = admin.get("keys")

    (mine,) = [key for key in found["data"] if key["name"] == "bootstrap"]
    assert found["data"][0] == mine  # the others have spent nothing
    assert mine["month"]["spend_usd"] >= 0.5
    (operator,) = [key for key in found["data"] if key["name"] == "operator"]
    assert operator["admin"] and not mine["admin"]
    assert stack.key not in json.dumps(found) and admin_key not in json.dumps(found)


def test_the_last_hour_is_told_from_samples(stack: Stack, admin: Admin) -> None:
    stack.redis.delete("darkroom:history")
    oversight = Oversight(stack.redis, Catalog.load())
    assert oversight.sample()
    assert not oversight.sample()  # so soon
    newest = json.loads(stack.redis.lpop("darkroom:history"))  # type: ignore[arg-type]
    stack.redis.lpush("darkroom:history", json.dumps(newest | {"at": newest["at"] - 30_000}))
    stack.complete(stack.submit())
    failed(stack)
    stack.submit()
    assert oversight.sample()

    (point,) = admin.get("history")["data"]

    assert point["completed_per_minute"] == pytest.approx(2, rel=0.2)
    assert point["failed_per_minute"] == pytest.approx(2, rel=0.2)
    assert 0 < point["p50_seconds"] <= point["p95_seconds"] <= 1
    assert point["waiting"] == admin.get("overview")["tasks"]["waiting"]


# -- what is done


def test_a_task_of_anybody_is_cancelled(stack: Stack, admin: Admin) -> None:
    task_id = stack.submit()

    status, body = admin.post(f"tasks/{task_id}/cancel")

    assert (status, body["status"], body["cancellation"]) == (200, "failed", "cancelled")
    assert stack.get(f"/v1/tasks/{task_id}").json()["cancelled"] is True
    done = failed(stack)
    status, body = admin.post(f"tasks/{done}/cancel")
    assert (status, body["code"]) == (409, "task_not_cancellable")


def test_a_webhook_is_delivered_again(stack: Stack, admin: Admin) -> None:
    task_id = failed(stack, webhook_url="https://shop.example.com/hook?apple")

    assert admin.post(f"tasks/{task_id}/redeliver")[0] == 202
    status, body = admin.post(f"tasks/{failed(stack)}/redeliver")
    assert (status, body["code"]) == (409, "webhook_not_deliverable")


def test_a_failed_task_is_retried_as_a_new_one_and_once(stack: Stack, admin: Admin) -> None:
    asked = {"n": 2, "metadata": {"order": "4711"}, "webhook_url": "https://shop.example.com/hook"}
    task_id = failed(stack, **asked)
    before = stack.get(f"/v1/tasks/{task_id}").json()

    status, new = admin.post(f"tasks/{task_id}/retry")

    assert (status, new["status"], new["pictures"]) == (202, "pending", 2)
    assert new["timeline"][1] == {"at": new["timeline"][1]["at"], "event": "retry", "of": task_id}
    told = stack.get(f"/v1/tasks/{new['id']}").json()
    assert told["data"][0]["revised_prompt"] == "a red apple"
    assert told["metadata"] == asked["metadata"]
    assert told["webhook"]["url"] == asked["webhook_url"]
    assert stack.get(f"/v1/tasks/{task_id}").json() == before  # final is final
    status, refused = admin.post(f"tasks/{task_id}/retry", {"billed": "yes"})
    assert (status, refused["reason"]) == (409, "retried")
    assert new["id"] in refused["hint"]
    assert admin.get(f"tasks/{task_id}")["retried_as"] == new["id"]
    stack.fail(new["id"], FAILED)
    assert admin.post(f"tasks/{new['id']}/retry")[0] == 202


@pytest.mark.parametrize("billed", ["unknown", "yes"])
def test_what_may_have_been_charged_is_retried_only_when_that_is_said(
    stack: Stack, admin: Admin, billed: Any
) -> None:
    task_id = failed(stack, Failure("outcome_unknown", "apple", billed=billed))

    for body in (None, {}, {"billed": "no"}, *([{"billed": "unknown"}] if billed == "yes" else [])):
        status, refused = admin.post(f"tasks/{task_id}/retry", body)
        assert (status, refused["reason"]) == (409, "billed")
        assert billed in refused["hint"]

    assert admin.post(f"tasks/{task_id}/retry", {"billed": billed})[0] == 202


def test_what_has_not_failed_is_not_retried(stack: Stack, admin: Admin) -> None:
    open_, done, cancelled = stack.submit(), stack.submit(), stack.submit()
    stack.complete(done)
    stack.call("DELETE", f"/v1/tasks/{cancelled}")

    for task_id, reason in ((open_, "open"), (done, "completed"), (cancelled, "cancelled")):
        status, body = admin.post(f"tasks/{task_id}/retry", {"billed": "yes"})
        assert (status, body["reason"]) == (409, reason)
    assert admin.post(f"tasks/{open_}/retry", {"paid": 1})[0] == 400
    assert admin.post(f"tasks/{open_}/retry", {"billed": "maybe"})[0] == 400


def test_a_retry_is_within_the_limits_of_its_key(stack: Stack, admin: Admin) -> None:
    entry, key = stack.keys.create("limited", limits=Limits(images_per_day=1))
    answer = stack.post(
        {"model": "flux-pro", "prompt": "apple"}, headers={"Authorization": f"Bearer {key}"}
    )
    task_id = answer.json()["id"]
    stack.fail(task_id, Failure("outcome_unknown", "apple", billed="unknown"))

    status, body = admin.post(f"tasks/{task_id}/retry", {"billed": "unknown"})
    assert (status, body["code"]) == (402, "quota_exceeded")

    stack.keys.revoke(entry.id)
    status, body = admin.post(f"tasks/{task_id}/retry", {"billed": "unknown"})
    assert (status, body["reason"]) == (409, "key_invalid")


def test_an_edit_is_retried_with_its_images(stack: Stack, admin: Admin) -> None:
    answer = stack.http.post(
        f"{stack.base}/v1/images/edits",
        data={"prompt": "an apple", "model": "gpt-image-2"},
        files={"image": ("x.png", picture())},
        timeout=30,
    )
    task_id = answer.json()["id"]
    stack.fail(task_id, FAILED)

    _, new = admin.post(f"tasks/{task_id}/retry")

    stored = [stack.storage.get(f"{one}/input-0.png") for one in (task_id, new["id"])]
    assert stored == [picture()] * 2
    again = admin.post(f"tasks/{task_id}/retry")  # leaves nothing behind
    assert again[0] == 409
    folders = list((stack.data_dir / "images").glob("*/input-0.png"))
    assert {path.parent.name for path in folders} >= {task_id, new["id"]}
    assert sum(path.read_bytes() == picture() for path in folders) == 2


@pytest.mark.parametrize("body", [{"route": ROUTE}, {"provider": "bfl"}, {"model": "flux-pro"}])
def test_what_is_paused_buys_nothing_and_says_so_until_it_is_resumed(
    stack: Stack, admin: Admin, body: dict[str, str]
) -> None:
    task_id = stack.submit()

    status, paused = admin.post("pause", body)

    assert (status, paused["paused"]) == (200, True)
    claim = stack.claim(task_id)
    offer = Offer(ROUTE, 0, (Call(0, 1, "bfl", "flux-pro-1.1", CallState.SUBMITTING),))
    reply = stack.store.begin(claim, [offer])
    assert isinstance(reply, tuple) and reply[0].why == "paused"
    stack.store.defer(claim, 300, blocked="paused")
    assert stack.get(f"/v1/tasks/{task_id}").json()["blocked_reason"] == "paused"
    seen = admin.get("overview")
    [(kind, name)] = body.items()
    lists = {"route": "routes", "provider": "accounts", "model": "models"}
    (it,) = [one for one in seen[lists[kind]] if one[kind] == name]
    assert it["paused_seconds"] >= 0
    assert "darkroom_paused_seconds{name=" in stack.get("/metrics").text

    assert admin.post("resume", body)[1]["paused"] is False

    stack.store.sweep("tests")
    assert isinstance(stack.store.begin(stack.claim(task_id), [offer]), Grant)


def test_a_name_that_nobody_knows_is_not_paused(stack: Stack, admin: Admin) -> None:
    for body in (
        {},
        {"route": "bfl/flux-pro"},
        {"provider": 5},
        {"model": "flux-pro", "provider": "bfl"},
        {"queue": "images.bfl"},
    ):
        assert admin.post("pause", body)[0] == 400, body
    assert admin.post("pause", {"route": "bfl/flux-pro-1"})[1]["did_you_mean"] == ROUTE
    assert stack.redis.hgetall("darkroom:routes") == {}


def test_the_page_is_there_for_everybody_and_says_nothing(stack: Stack) -> None:
    answer = requests.get(f"{stack.base}/admin", timeout=10)

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
