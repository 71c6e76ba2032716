"""Callers and a worker in any order over HTTP, against a model of what each caller must be told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import requests
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
)

from common.task import Call, CallState, Claim, Failure
from tests.api.conftest import Stack
from tests.hostile.tenants import Tenant
from tests.hostile.worker import end
from tests.machines import try_orders
from tests.valkey import open_store

PATHS = ("/v1/images/generations/{}", "/v1/tasks/{}", "/v1/images/{}")
FIXED = ("id", "task_id", "object", "created", "model", "poll_url")
BODIES: list[dict[str, Any]] = [
    {"model": "flux-pro", "prompt": "a red apple"},
    {"model": "flux-pro", "prompt": "a red apple", "response_format": "b64_json"},
    {"model": "dall-e-2", "prompt": "a blue apple", "n": 2},
]
FAILURES = [
    Failure("content_policy_violation", "The prompt was refused."),
    Failure("upstream_error", "The provider broke.", retryable=True, billed="unknown"),
]
WORK = ("claim", "tell progress", "fail", "complete")
ACTIONS = [
    *["submit", "claim", "tell progress"] * 4,
    *["poll", "ask_for_what_is_new", "list_by_pages", "fail", "complete"] * 2,
    *["ask_for_somebody_elses", "ask_what_was_used", "cancel"],
]
QUERIES: list[dict[str, str]] = [
    *({}, {"status": "pending"}, {"status": "completed"}, {"status": "failed"}),
    *({"model": "dall-e-2"}, {"status": "processing", "model": "flux-pro"}),
]
CALL = Call(0, 1, "bfl", "flux-pro-1.1", CallState.ACCEPTED)


@dataclass
class Expected:
    """A task as its caller must see it."""

    body: dict[str, Any]  # what was asked for
    first: dict[str, Any]  # the answer to its submit
    status: str = "pending"
    progress: int = 0
    sent: bool = False  # a provider has it
    failure: Failure | None = None
    final: dict[str, Any] | None = None  # the whole answer, from its end on
    claims: list[Claim] = field(default_factory=list)
    seen: tuple[str, Any] | None = None  # the last ETag, and what it stood for

    @property
    def over(self) -> bool:
        return self.status in ("completed", "failed")


@dataclass
class Caller:
    tenant: Tenant
    tasks: dict[str, Expected] = field(default_factory=dict)  # by id, the oldest first
    names: dict[str, str] = field(default_factory=dict)  # Idempotency-Key -> task id


class CallersMachine(RuleBasedStateMachine):
    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack
        self.callers = [Caller(Tenant.new(stack, name)) for name in ("one", "two")]

    def pick(self, data: st.DataObject) -> tuple[Caller, str, Expected]:
        offered = [(c, i) for c in self.callers for i in c.tasks]
        # The newest are likelier to have something before them.
        at = data.draw(st.integers(0, min(7, len(offered) - 1)))
        caller, task_id = offered[-1 - at]
        return caller, task_id, caller.tasks[task_id]

    @staticmethod
    def ask(caller: Caller, path: str, query: dict[str, Any] | None = None) -> requests.Response:
        return caller.tenant.ask("GET", path, params=query)

    @rule(data=st.data(), action=st.sampled_from(ACTIONS))
    def act(self, data: st.DataObject, action: str) -> None:
        if action == "submit" or not any(caller.tasks for caller in self.callers):
            self.submit(data)
        elif action in WORK:
            self.work(data, action)
        else:
            getattr(self, action)(data)

    # -- what callers do

    def submit(self, data: st.DataObject) -> None:
        caller, body = data.draw(st.sampled_from(self.callers)), data.draw(st.sampled_from(BODIES))
        name = data.draw(st.sampled_from((None, None, "a", "b", "c")))
        answer = caller.tenant.ask(
            "POST",
            "/v1/images/generations",
            json=body,
            headers={} if name is None else {"Idempotency-Key": name},
        )
        known = None if name is None else caller.names.get(name)

        if known is not None and caller.tasks[known].body != body:
            assert (answer.status_code, code(answer)) == (422, "idempotency_key_reused")
            return
        assert answer.status_code == 202, answer.text
        assert answer.headers["Location"] == answer.json()["poll_url"]
        assert ("Idempotency-Replayed" in answer.headers) == (known is not None)
        told = answer.json()
        if known is not None:
            assert told == caller.tasks[known].first
            return
        assert told["status"] == "pending"
        assert not any(told["id"] in other.tasks for other in self.callers)
        caller.tasks[told["id"]] = Expected(body, told)
        if name is not None:
            caller.names[name] = told["id"]

    def poll(self, data: st.DataObject) -> None:
        caller, task_id, expected = self.pick(data)
        query = "?wait=5" if expected.over else "?wait=0"
        self.agrees(caller, task_id, data.draw(st.sampled_from(PATHS)), query)

    def ask_for_somebody_elses(self, data: st.DataObject) -> None:
        caller, task_id, _ = self.pick(data)
        (stranger,) = (other for other in self.callers if other is not caller)
        answer = self.ask(stranger, f"/v1/tasks/{task_id}")

        assert (answer.status_code, code(answer)) == (404, "async_task_not_found")

    def ask_for_what_is_new(self, data: st.DataObject) -> None:
        caller, task_id, _ = self.pick(data)
        etag = self.ask(caller, f"/v1/tasks/{task_id}").headers["ETag"]
        again = caller.tenant.ask("GET", f"/v1/tasks/{task_id}", headers={"If-None-Match": etag})

        assert (again.status_code, again.content) == (304, b"")

    def cancel(self, data: st.DataObject) -> None:
        caller, task_id, expected = self.pick(data)
        called_off = expected.failure is not None and expected.failure.code == "cancelled"
        path = data.draw(st.sampled_from(PATHS[:2]))
        answer = caller.tenant.ask("DELETE", path.format(task_id))

        if called_off or not (expected.over or expected.sent):
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert (told["status"], told["cancelled"]) == ("failed", True)
            expected.status = "failed"
            expected.failure = Failure("cancelled", told["error"])
        else:  # it is over, or the provider is at it, and cannot be stopped
            assert (answer.status_code, code(answer)) == (409, "task_not_cancellable")

    def list_by_pages(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from(self.callers))
        limit, query = data.draw(st.integers(1, 5)), data.draw(st.sampled_from(QUERIES))
        listed: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = self.ask(caller, "/v1/tasks", {"limit": limit, **query, **after}).json()
            assert len(page["data"]) <= limit
            listed += [task["id"] for task in page["data"]]
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}

        wanted = [
            task_id
            for task_id, task in caller.tasks.items()
            if query.get("status") in (None, task.status)
            and query.get("model") in (None, task.body["model"])
        ]
        assert listed == wanted[::-1]

    def ask_what_was_used(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from(self.callers))
        usage = self.ask(caller, "/v1/usage").json()
        tasks = caller.tasks.values()
        counted = [task for task in tasks if task.failure is None or task.failure.billed != "no"]

        assert usage["open_tasks"] == sum(not task.over for task in tasks)
        assert usage["month"]["images"] == sum(task.body.get("n", 1) for task in counted)

    # -- what a worker does

    def work(self, data: st.DataObject, action: str) -> None:
        """One step of a worker, on a task that is in the state for it where there is one."""
        right = "pending" if action == "claim" else "processing"
        task_id, expected = self.pick_for_work(data, right)
        if action == "claim":
            claim = self.stack.store.claim(task_id, "tests")
            assert (claim is not None) == (expected.status == "pending")
            if claim is not None:
                expected.claims.append(claim)
                expected.status = "processing"
        elif not expected.claims:
            return
        elif action == "tell progress":
            if not expected.over:
                expected.sent = True
                expected.progress = data.draw(st.sampled_from((0, 15, 40, 85, 100)))
                self.stack.store.journal(expected.claims[-1], CALL, progress=expected.progress)
        elif action == "fail":
            failure = data.draw(st.sampled_from(FAILURES))
            end(self.stack, expected.claims[-1], failure)
            if not expected.over:  # what comes after the end changes nothing
                expected.status, expected.failure = "failed", failure
        else:
            with ThreadPoolExecutor(1) as pool:
                (caller,) = (one for one in self.callers if task_id in one.tasks)
                waiting = pool.submit(self.ask, caller, f"/v1/tasks/{task_id}?wait=20")
                end(self.stack, expected.claims[-1])
            if not expected.over:
                expected.status = "completed"
            assert waiting.result().json()["status"] == expected.status

    def pick_for_work(self, data: st.DataObject, right: str) -> tuple[str, Expected]:
        tasks = [pair for caller in self.callers for pair in caller.tasks.items()]
        fitting = [pair for pair in tasks if pair[1].status == right]
        rarely = data.draw(st.integers(0, 5)) == 5
        return data.draw(st.sampled_from(tasks if rarely or not fitting else fitting))

    # -- what must be true whatever they did

    @invariant()
    def everybody_is_told_the_truth_of_the_newest(self) -> None:
        for caller in self.callers:
            for task_id in list(caller.tasks)[-2:]:
                self.agrees(caller, task_id, PATHS[1])

    def agrees(self, caller: Caller, task_id: str, path: str, query: str = "") -> None:
        """What the caller is told of a task is what the model says."""
        expected = caller.tasks[task_id]
        answer = self.ask(caller, path.format(task_id) + query)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        seen = (answer.headers["ETag"], (expected.status, expected.progress))
        expected.seen, before = seen, expected.seen

        assert told["status"] == expected.status
        assert before is None or before[1] == seen[1] or before[0] != seen[0]
        assert {name: told[name] for name in FIXED} == {n: expected.first[n] for n in FIXED}
        assert told["status"] == "pending" or "queue_position" not in told
        assert ("Retry-After" in answer.headers) == (not expected.over)
        if expected.status == "completed":
            kind = expected.body.get("response_format", "url")
            assert all(image[kind] for image in told["data"])
            assert len(told["data"]) == expected.body.get("n", 1)
        if expected.failure is not None:
            assert (told["data"], told["error"]) == ([], expected.failure.message)
            assert told["error_detail"]["code"] == expected.failure.code
        if expected.over:
            expected.final = expected.final or told
            assert told == expected.final
        else:
            assert told["progress"] == expected.progress
            assert all(image["url"] == "" for image in told["data"])


def code(answer: requests.Response) -> str:
    return str(answer.json()["error"]["code"])


def test_no_order_of_events_lets_a_caller_be_told_what_is_not_so(
    stack: Stack, thorough: int
) -> None:
    with open_store(stack.valkey.url, lease=3600) as store:
        try_orders(lambda: CallersMachine(replace(stack, store=store)), examples=30 * thorough)
