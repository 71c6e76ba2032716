"""A marked prompt and marked keys go through all that can happen to them: where are they found?"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from common.connection import connect
from common.keys import KeyStore
from tests.contracts.scripted import Reply, Scripted
from tests.e2e.conftest import flower_workers
from tests.processes import until
from tests.stack import Stack, running

PROMPT = f"a fox MARKED{secrets.token_hex(8)}"
MARK = PROMPT.split()[-1]
WRONG_KEY = f"sk-MARKED-{secrets.token_hex(8)}"

# A provider that tells everybody what it was asked, and with which key.
TELLTALES = [
    Reply({"error": {"message": f"Refused: {PROMPT}", "code": "moderation_blocked"}}, 400),
    Reply({"error": {"message": f"Invalid 'prompt': {PROMPT}", "code": "invalid_value"}}, 400),
    Reply({"error": {"message": f"Broken by {PROMPT}"}}, 500),
    Reply({"error": f"No answer to {PROMPT}", "data": [{"b64_json": PROMPT}]}, 200),
    Reply(f"<html>{PROMPT}</html>".encode(), 502, {"X-Prompt": PROMPT}),
    Reply({"error": {"message": f"Wrong key for {PROMPT}", "code": "invalid_api_key"}}, 401),
]


@dataclass
class Traces:
    """A stack through which marks have gone, and what callers of it hold."""

    stack: Stack
    key: str
    tasks: list[str] = field(default_factory=list)
    refusals: list[requests.Response] = field(default_factory=list)

    def ask(self, method: str, path: str, key: str | None = None, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return requests.request(
            method, self.stack.url + path, headers=headers, timeout=60, **options
        )

    def end_of(self, prompt: str = PROMPT, **fields: Any) -> dict[str, Any]:
        """Submit and wait; the final body."""
        body = {"model": "dall-e-2", "prompt": prompt, "user": MARK, **fields}
        answer = self.ask("POST", "/v1/images/generations", json=body)
        assert answer.status_code == 202, answer.text
        self.tasks.append(answer.json()["id"])
        final = ("completed", "failed")
        end: dict[str, Any] = until(
            lambda: told if (told := self.poll())["status"] in final else None, "final", 60
        )
        return end

    def poll(self) -> dict[str, Any]:
        told: dict[str, Any] = self.ask("GET", f"/v1/tasks/{self.tasks[-1]}?wait=20").json()
        return told


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    with running(tmp_path_factory.mktemp("secrets"), LOG_LEVEL="DEBUG") as stack:
        stack.start("flower")
        until(lambda: flower_workers(stack.flower_url), "Flower sees the worker")
        client = connect(stack.redis_url)
        traces = Traces(stack, KeyStore(client).create("marked")[1])
        client.close()
        _leave(traces)
        yield traces


def _leave(traces: Traces) -> None:
    """Let everything happen to the marks that can."""
    done = traces.end_of()
    assert done["status"] == "completed"
    assert requests.get(done["data"][0]["url"], timeout=20).ok
    assert traces.end_of(response_format="b64_json")["status"] == "completed"
    assert traces.end_of(f"{PROMPT} sim:moderated")["status"] == "failed"
    provider = Scripted()
    wait_for_flower(traces)
    traces.stack.kill("worker")
    traces.stack.start("worker", SANDBOX_URL=f"http://127.0.0.1:{provider.port}")
    try:
        for reply in TELLTALES:
            provider.reset(reply)
            assert traces.end_of()["status"] == "failed"
            assert any(MARK.encode() in seen.body for seen in provider.seen)
            traces.stack.redis.delete("darkroom:routes")  # the next one is asked again
    finally:
        provider.close()
    wrong: list[dict[str, Any]] = [
        {"json": {"prompt": PROMPT, "n": 99}},
        {"json": {"prompt": PROMPT, "model": PROMPT, PROMPT: PROMPT, "size": PROMPT}},
        {"json": {"prompt": PROMPT * 10_000, "user": PROMPT * 100}},
        {"json": [PROMPT]},
        {"data": f'{{"prompt": "{PROMPT}'},
        {"data": PROMPT, "params": {"prompt": PROMPT}},
    ]
    traces.refusals += [traces.ask("POST", "/v1/images/generations", **body) for body in wrong]
    for method, path in (("POST", "/v1/images/generations"), ("GET", f"/v1/tasks/{WRONG_KEY}")):
        for key in (WRONG_KEY, f"{WRONG_KEY} x", f"{WRONG_KEY}\xe9".encode().decode("latin-1")):
            body = {"prompt": PROMPT, "api_key": WRONG_KEY}
            answer = traces.ask(method, path, key, json=body, params={"key": WRONG_KEY})
            assert answer.status_code == 401
            traces.refusals.append(answer)


def wait_for_flower(traces: Traces) -> None:
    """Workers tell of their tasks a moment later, and a killed one of its last ones never."""
    pages = [f"{traces.stack.flower_url}/task/{task_id}" for task_id in traces.tasks]
    until(lambda: all(requests.get(page, timeout=20).ok for page in pages), "Flower knows all")


def marks(traces: Traces) -> list[str]:
    return [MARK, WRONG_KEY, traces.key]


def test_no_log_has_them(traces: Traces) -> None:
    logs = {path.name: path.read_text() for path in Path(traces.stack.directory).glob("*.log")}

    assert {"web.log", "worker.log", "beat.log", "flower.log", "valkey.log"} <= logs.keys()
    assert all(task_id in logs["worker.log"] for task_id in traces.tasks)  # it did log
    for name, text in logs.items():
        lines = [line for line in text.splitlines() if any(mark in line for mark in marks(traces))]
        assert lines == [], name


def test_flower_has_none_of_them(traces: Traces) -> None:
    flower = traces.stack.flower_url
    table = "/tasks/datatable?draw=1&start=0&length=1000&search[value]=&order[0][dir]=asc"
    paths = ["/", "/workers", "/workers?json=1", "/tasks", "/broker", "/metrics", "/api/tasks"]
    paths += [f"/worker/{worker['hostname']}" for worker in flower_workers(flower)]
    paths += [f"{table}&order[0][column]=0&columns[0][data]=name"]
    paths += ["/api/workers", *(f"/task/{task_id}" for task_id in traces.tasks)]
    paths += [f"/api/task/{what}/{traces.tasks[0]}" for what in ("info", "result")]
    wait_for_flower(traces)
    pages = {path: requests.get(flower + path, timeout=20) for path in paths}

    assert all(task_id in pages[f"/task/{task_id}"].text for task_id in traces.tasks)
    for path, page in pages.items():
        assert page.status_code in (200, 401), path  # its API is shut
        assert not any(mark in page.text for mark in marks(traces)), path


def test_redis_has_the_prompt_in_its_records_and_the_keys_nowhere(traces: Traces) -> None:
    kept = {name: _content(traces.stack.redis, name) for name in traces.stack.redis.scan_iter()}
    records = {f"darkroom:task:{task_id}" for task_id in traces.tasks}

    assert {name for name, text in kept.items() if MARK in name + text} == records
    for key in (traces.key, WRONG_KEY):
        assert [name for name, text in kept.items() if key in name + text] == []


def _content(redis: Any, name: str) -> str:
    match redis.type(name):
        case "hash":
            return str(redis.hgetall(name))
        case "list":
            return str(redis.lrange(name, 0, -1))
        case "set":
            return str(redis.smembers(name))
        case "zset":
            return str(redis.zrange(name, 0, -1))
        case "string":
            return str(redis.get(name))
        case kind:
            raise AssertionError(f"{name} is a {kind}: read it here")


def test_refusals_do_not_repeat_keys(traces: Traces) -> None:
    for answer in traces.refusals:
        assert 400 <= answer.status_code < 500
        assert not any(key in f"{answer.headers}{answer.text}" for key in (WRONG_KEY, traces.key))


def test_others_are_told_nothing_of_them(traces: Traces) -> None:
    client = connect(traces.stack.redis_url)
    other = KeyStore(client).create("other")[1]
    client.close()
    paths = [f"/v1/{kind}/{i}" for kind in ("tasks", "images") for i in traces.tasks]
    for path in ["/v1/tasks", "/v1/usage", "/v1/models", "/readyz", "/healthz", *paths]:
        answer = traces.ask("GET", path, other)
        assert not any(mark in f"{answer.headers}{answer.text}" for mark in marks(traces)), path
