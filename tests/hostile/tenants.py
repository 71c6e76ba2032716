"""Tenants of one gateway, each with a task in every state, and what the gateway offers to them.

The operations are read from `/openapi.json`, and from its form follows what each of them must keep
apart: a new operation is tested from the day on which it is described.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import requests

from common.task import Call, CallState, Failure
from tests.api.conftest import Stack, picture

TASK_ID = re.compile(r"imgtask_[0-9a-f]{32}")
STATES = ("pending", "processing", "completed", "completed in Base64", "failed")

_NOT_THE_TENANTS = {"Date", "X-Request-ID"}  # headers that differ between any two answers


@dataclass(frozen=True)
class Operation:
    """One method of one path, and the kind that says whose data it may show."""

    method: str
    path: str
    kind: str  # public, fleet, admin, image, task, own or submit
    description: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def of(self, task_id: str) -> str:
        return self.path.replace("{task_id}", task_id)

    @property
    def queries(self) -> list[str]:
        return [p["name"] for p in self.description.get("parameters", ()) if p["in"] == "query"]


def operations(stack: Stack, *kinds: str) -> list[Operation]:
    """The operations of these kinds, or all. One of no known kind fails the test."""
    spec = stack.get("/openapi.json").json()
    found = [
        Operation(method.upper(), path, _kind(spec, method, path, description), description)
        for path, item in spec["paths"].items()
        for method, description in item.items()
        if method in ("get", "put", "post", "patch", "delete")
    ]
    return [operation for operation in found if not kinds or operation.kind in kinds]


def _kind(spec: dict[str, Any], method: str, path: str, description: dict[str, Any]) -> str:
    parameters = re.findall(r"{(\w+)}", path)
    if path.startswith("/files/{task_id}/"):
        return "image"  # opened by a signature in place of a key
    if path.startswith("/v1/admin/"):
        return "admin"  # for operators' keys, which no tenant has
    if path == "/metrics":
        return "fleet"  # sums over everybody, for those who run it
    if not description.get("security", spec.get("security")):
        return "public"  # the same for everybody
    if parameters == ["task_id"]:
        return "task"  # a stranger's is an unknown one
    if not parameters and method == "get":
        return "own"  # what the caller has, and nothing else
    if not parameters and method == "post" and "202" in description["responses"]:
        return "submit"  # makes a task, which is the caller's
    raise AssertionError(
        f"Nobody has said whose data {method.upper()} {path} shows, so nothing holds it to that. "
        "Let tests.hostile.tenants._kind tell by its form what it is, and where that is a new "
        "kind, add to tests/hostile/test_tenants.py what a stranger must not get from it."
    )


@dataclass
class Tenant:
    """Somebody with a key, and with tasks that hold marks which nobody else may see."""

    stack: Stack
    name: str
    id: str  # of the key
    key: str
    mark: str
    tasks: dict[str, str] = field(default_factory=dict)  # task ids by state

    @classmethod
    def new(cls, stack: Stack, name: str) -> Tenant:
        entry, key = stack.keys.create(name)
        return cls(stack, name, entry.id, key, f"mark{secrets.token_hex(8)}")

    @property
    def secrets(self) -> list[str]:
        return [self.id, self.key, self.mark, *self.tasks.values()]

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        return ask(self.stack, method, path, headers=headers, **options)

    def submit(self, **fields: Any) -> str:
        body = {"model": "flux-pro", "prompt": f"an apple {self.mark}", "user": self.mark} | fields
        answer = self.ask("POST", "/v1/images/generations", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def fill(self) -> None:
        """Have a task in every state that there is."""
        self.tasks = {state: self.submit() for state in STATES if "Base64" not in state}
        self.tasks["completed in Base64"] = self.submit(response_format="b64_json")
        claim = self.stack.claim(self.tasks["processing"])
        call = Call(0, 1, "bfl", "flux-pro-1.1", CallState.ACCEPTED, job={"id": self.mark})
        self.stack.store.journal(claim, call, progress=40)
        for state in ("completed", "completed in Base64"):
            self.stack.complete(self.tasks[state], picture(colour=tuple(secrets.token_bytes(3))))  # type: ignore[arg-type]
        self.stack.fail(self.tasks["failed"], Failure("upstream_error", f"{self.mark} failed"))
        if any(str(one) == "DELETE /v1/tasks/{task_id}" for one in operations(self.stack)):
            self.tasks["cancelled"] = self.submit()
            answer = self.ask("DELETE", f"/v1/tasks/{self.tasks['cancelled']}")
            assert answer.status_code == 200, answer.text

    def links(self) -> list[str]:
        """Path and query of the images of the completed tasks."""
        listed = self.ask("GET", "/v1/tasks?status=completed").json()["data"]
        return [
            image["url"].removeprefix(self.stack.base) for task in listed for image in task["data"]
        ]

    def records(self) -> dict[str, dict[str, str]]:
        """All that is kept of the tenant's tasks."""
        names = {state: f"darkroom:task:{task_id}" for state, task_id in self.tasks.items()}
        return {state: self.stack.redis.hgetall(name) for state, name in names.items()}  # type: ignore[misc]


def ask(stack: Stack, method: str, path: str, **options: Any) -> requests.Response:
    """One request without a key. The stack's own session would add one."""
    return _SESSION.request(method, stack.base + path, timeout=20, **options)


_SESSION = requests.Session()
_SESSION.trust_env = False


def told(answer: requests.Response, *asked: str) -> tuple[int, list[tuple[str, str]], bytes]:
    """All that an answer tells, but for the time and its own name; what was asked for, if it is
    repeated, counts as the same."""
    headers = [(n, v) for n, v in answer.headers.items() if n not in _NOT_THE_TENANTS]
    content = answer.content
    for text in asked:
        content = content.replace(text.encode(), b"ASKED")
    return answer.status_code, headers, content


def leaks(answer: requests.Response, *tenants: Tenant) -> list[str]:
    """What of these tenants an answer shows, beside what its request has said itself."""
    request = answer.request
    said = f"{request.url} {request.headers} {request.body!r}"
    shown = f"{answer.headers} {answer.text}"
    return [text for t in tenants for text in t.secrets if text in shown and text not in said]


def pairs(tenants: list[Tenant]) -> Iterator[tuple[Tenant, Tenant]]:
    """Everybody with everybody else."""
    return ((one, other) for one in tenants for other in tenants if one is not other)
