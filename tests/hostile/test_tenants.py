"""Three tenants, every operation of the document, tasks in every state: nothing is seen, changed or
learnt across."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from common.task import new_task_id
from tests.api.conftest import Stack
from tests.common.tasks import create
from tests.hostile.tenants import TASK_ID, Operation, Tenant, ask, leaks, operations, pairs, told

ABSENT = "async_task_not_found"


@pytest.fixture(scope="module")
def tenants(stack: Stack) -> list[Tenant]:
    tenants = [Tenant.new(stack, name) for name in ("anna", "bert", "cleo")]
    for tenant in tenants:
        tenant.fill()
    return tenants


def ways(operation: Operation, owner: Tenant, task_id: str) -> Iterator[dict[str, Any]]:
    """Ways to ask for somebody's task, among them such as only its owner could know."""
    yield {}
    yield {"params": {"wait": "5"}}
    yield {"headers": {"Prefer": "wait=5", "Last-Event-ID": "0"}}
    if operation.method == "GET":
        etag = owner.ask("GET", f"/v1/tasks/{task_id}").headers["ETag"]
        yield {"headers": {"If-None-Match": etag}}
        yield {"headers": {"If-None-Match": "*"}}
        yield {"headers": {"Range": "bytes=0-9"}}
    else:
        yield {"json": {}, "headers": {"Idempotency-Key": owner.mark}}


def test_other_peoples_tasks_are_unknown_to_the_byte(stack: Stack, tenants: list[Tenant]) -> None:
    before = [tenant.records() for tenant in tenants]
    for operation in operations(stack, "task"):
        methods = ["GET", "HEAD"] if operation.method == "GET" else [operation.method]
        for owner, stranger in pairs(tenants):
            for state, task_id in owner.tasks.items():
                for way in ways(operation, owner, task_id):
                    for method in methods:
                        nobodys = new_task_id()
                        unknown = stranger.ask(method, operation.of(nobodys), **way)
                        foreign = stranger.ask(method, operation.of(task_id), **way)

                        about = f"{operation} of a {state} task, asked for with {way}"
                        assert foreign.status_code == 404, about
                        assert told(foreign, task_id) == told(unknown, nobodys), about
                        assert leaks(foreign, owner) == [], about

    assert [tenant.records() for tenant in tenants] == before


def test_methods_that_are_not_there_tell_nothing(stack: Stack, tenants: list[Tenant]) -> None:
    before = [tenant.records() for tenant in tenants]
    (owner, stranger), nobodys = (tenants[0], tenants[1]), new_task_id()
    paths = {operation.path for operation in operations(stack, "task")}
    there = {(one.method, one.path) for one in operations(stack, "task")}
    for path in paths:
        for method in ("PUT", "PATCH", "POST", "DELETE", "OPTIONS", "BREW"):
            if (method, path) in there:
                continue
            for task_id in owner.tasks.values():
                answers = [
                    stranger.ask(method, path.replace("{task_id}", asked))
                    for asked in (task_id, nobodys)
                ]
                assert told(answers[0], task_id) == told(answers[1], nobodys), (method, path)

    assert [tenant.records() for tenant in tenants] == before


def test_the_owner_is_told_of_every_task(stack: Stack, tenants: list[Tenant]) -> None:
    """Without this, the strangers' answers would prove nothing."""
    tenant = tenants[0]
    for operation in operations(stack, "task"):
        for state, task_id in tenant.tasks.items():
            # What may change a task is done to one that nothing else is said of.
            of = task_id if operation.method == "GET" else tenant.submit()
            with tenant.ask(operation.method, operation.of(of), stream=True) as answer:
                if operation.method == "GET":
                    assert answer.status_code == 200, f"{operation} of a {state} task"
                else:
                    assert answer.status_code < 500
                    if answer.status_code == 404:
                        assert answer.json()["error"]["code"] != ABSENT, str(operation)


def test_a_caller_is_shown_only_what_is_its_own(stack: Stack, tenants: list[Tenant]) -> None:
    for operation in operations(stack, "own"):
        for tenant in tenants:
            others = [other for other in tenants if other is not tenant]
            answer = tenant.ask(operation.method, operation.path)

            assert answer.status_code == 200
            assert leaks(answer, *others) == []
            own = set(stack.redis.zrange(f"darkroom:owner:{tenant.id}", 0, -1))
            assert {found for found in TASK_ID.findall(answer.text) if found not in own} == set()


def test_a_strangers_task_named_in_a_query_is_an_unknown_one(
    stack: Stack, tenants: list[Tenant]
) -> None:
    for operation in operations(stack, "own", "public"):
        for name in operation.queries:
            for owner, stranger in pairs(tenants):
                nobodys = new_task_id()
                unknown = stranger.ask("GET", operation.path, params={name: nobodys})
                for task_id in (*owner.tasks.values(), owner.mark, owner.id):
                    foreign = stranger.ask("GET", operation.path, params={name: task_id})

                    assert foreign.status_code == unknown.status_code, (operation, name)
                    assert leaks(foreign, owner) == []
                    if TASK_ID.fullmatch(task_id):
                        assert told(foreign, task_id) == told(unknown, nobodys)


def test_the_list_is_all_of_ones_own_tasks(tenants: list[Tenant]) -> None:
    for tenant in tenants:
        tenant.tasks |= {"the last": tenant.submit()}
        listed = tenant.ask("GET", "/v1/tasks?limit=100").json()["data"]

        assert {*tenant.tasks.values()} <= {task["id"] for task in listed}
        assert all(tenant.mark in str(task["data"]) for task in listed if task["data"])


def test_what_is_told_of_the_fleet_names_nobody(stack: Stack, tenants: list[Tenant]) -> None:
    (operation,) = operations(stack, "fleet")
    answer = ask(stack, operation.method, operation.path)

    assert answer.status_code == 200
    assert leaks(answer, *tenants) == []


def test_what_is_an_operators_is_closed_to_every_tenant(
    stack: Stack, tenants: list[Tenant]
) -> None:
    """Whether the task is somebody's, their own or nobody's: all are told the same."""
    before = [tenant.records() for tenant in tenants]
    for operation in operations(stack, "admin"):
        for tenant in tenants:
            query, asked = {"key": tenants[0].id}, [new_task_id()]
            asked += [task_id for owner in tenants for task_id in owner.tasks.values()]
            answers = [
                tenant.ask(operation.method, operation.of(task_id), params=query, json={})
                for task_id in asked
            ]
            assert {answer.status_code for answer in answers} == {403}, str(operation)
            assert len({str(told(answer)) for answer in answers}) == 1, str(operation)
            assert all(leaks(answer, *tenants) == [] for answer in answers)
    assert [tenant.records() for tenant in tenants] == before
    assert stack.redis.hgetall("darkroom:routes") == {}


def test_operators_are_not_shown_what_tenants_wrote(stack: Stack, tenants: list[Tenant]) -> None:
    _, key = stack.keys.create("operator", admin=True)
    headers = {"Authorization": f"Bearer {key}"}
    for operation in operations(stack, "admin"):
        if operation.method != "GET":
            continue
        for tenant in tenants:
            for task_id in tenant.tasks.values():
                answer = ask(stack, "GET", operation.of(task_id), headers=headers)
                assert answer.status_code == 200
                told_words = [w for w in (tenant.key, f"apple {tenant.mark}") if w in answer.text]
                assert told_words == [], str(operation)


def test_use_is_counted_for_ones_own_key(stack: Stack) -> None:
    tenants = [Tenant.new(stack, name) for name in ("one", "two", "three")]
    for images, tenant in enumerate(tenants, 1):
        tenant.submit(n=images)

    used = [tenant.ask("GET", "/v1/usage").json() for tenant in tenants]
    assert [body["month"]["images"] for body in used] == [1, 2, 3]
    assert [body["open_tasks"] for body in used] == [1, 1, 1]


def test_the_same_name_for_a_submit_is_another_one_for_each_key(
    stack: Stack, tenants: list[Tenant]
) -> None:
    name = {"Idempotency-Key": "order-1"}
    bodies: list[dict[str, Any]] = [
        {"model": "flux-pro", "prompt": "the same"},
        {"model": "flux-pro", "prompt": "the same"},
        {"model": "flux-pro", "prompt": "another"},
    ]

    def submit(tenant: Tenant, body: dict[str, Any]) -> requests.Response:
        return tenant.ask("POST", "/v1/images/generations", json=body, headers=name)

    first = [submit(*pair) for pair in zip(tenants, bodies, strict=True)]
    again = [submit(*pair) for pair in zip(tenants, bodies, strict=True)]

    ids = [answer.json()["id"] for answer in first]
    assert len({*ids}) == 3
    assert [answer.json()["id"] for answer in again] == ids
    assert ["Idempotency-Replayed" in answer.headers for answer in first + again] == [
        *[False] * 3,
        *[True] * 3,
    ]
    for tenant, task_id in zip(tenants, ids, strict=True):
        tenant.tasks |= {"named": task_id}


def test_what_everybody_may_see_is_of_nobody(stack: Stack, tenants: list[Tenant]) -> None:
    pages = ["/", "/docs", "/openapi.json"]
    paths = [one.path.replace("{model_id}", "flux-pro") for one in operations(stack, "public")]
    for path in paths + pages:
        for tenant in tenants:
            for answer in (ask(stack, "GET", path), tenant.ask("GET", path)):
                assert leaks(answer, *tenants) == [], path
                assert not TASK_ID.search(answer.text) or path == "/openapi.json"


def test_a_link_opens_one_image_and_no_other(stack: Stack, tenants: list[Tenant]) -> None:
    links = [(tenant, link) for tenant in tenants for link in tenant.links()]
    pictures = {link: ask(stack, "GET", link) for _, link in links}
    assert len({answer.content for answer in pictures.values()}) == len(links) >= 6
    assert {answer.status_code for answer in pictures.values()} == {200}

    for _, link in links:
        for tenant, other in links:
            if other == link:
                continue
            crossed = f"{urlsplit(link).path}?{urlsplit(other).query}"
            for answer in (ask(stack, "GET", crossed), tenant.ask("GET", crossed)):
                assert (answer.status_code, answer.json()["error"]["code"]) == (
                    403,
                    "invalid_signature",
                )


@pytest.mark.parametrize("fault", ["no key", "unknown", "expired", "revoked"])
def test_a_key_that_is_not_valid_learns_nothing(
    stack: Stack, tenants: list[Tenant], fault: str
) -> None:
    """Not even of the tasks that were its own while it was valid."""
    former = Tenant.new(stack, "former")
    former.tasks = {"own": create(stack.store, owner=former.id)}
    headers = {"Authorization": f"Bearer {former.key}"}
    match fault:
        case "no key":
            headers = {}
        case "unknown":
            headers = {"Authorization": "Bearer sk-unknown"}
        case "expired":
            stack.keys.change(former.id, lambda key: replace(key, expires=int(time.time()) - 1))
        case "revoked":
            stack.keys.revoke(former.id)
    asked = [former.tasks["own"], *tenants[0].tasks.values(), new_task_id()]

    for operation in operations(stack, "task", "own", "submit", "admin"):
        answers = [
            ask(stack, operation.method, operation.of(task_id), headers=headers)
            for task_id in asked
        ]
        assert {answer.status_code for answer in answers} == {401}, str(operation)
        assert len({str(told(answer)) for answer in answers}) == 1, str(operation)
        for answer in answers:
            assert leaks(answer, former, *tenants) == []
