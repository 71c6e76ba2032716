"""What holds for every request: JSON throughout, keys, request ids, odd bodies and methods."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.api.conftest import Stack


def send(stack: Stack, body: bytes, **headers: str) -> requests.Response:
    given = {"Content-Type": "application/json"} | headers
    return stack.http.post(
        f"{stack.base}/v1/images/generations", data=body, headers=given, timeout=10
    )


BAD_BODIES: list[tuple[bytes, str]] = [
    (b"", "invalid_json"),
    (b"{", "invalid_json"),
    (b"null", "invalid_json"),
    (b"[]", "invalid_json"),
    (b'"prompt"', "invalid_json"),
    (b"17", "invalid_json"),
    (b'{"prompt": "x", "n": NaN}', "invalid_json"),
    (b'{"prompt": "x", "n": -Infinity}', "invalid_json"),
    (b'{"prompt": "x", "prompt": "y"}', "invalid_json"),
    (b'{"prompt": "x", "a": {"b": 1, "b": 2}}', "invalid_json"),
    (b'{"prompt": "\xff\xfe"}', "invalid_json"),
    ('{"prompt": "x"}'.encode("utf-16"), "invalid_json"),
    (b'{"prompt": "x", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
    (b'{"prompt": "x", "a": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", "invalid_json"),
    (b'{"prompt": "x", "n": ' + b"9" * 10_000 + b"}", "invalid_json"),
    (b'{"prompt": "x", "n": 1e999}', "invalid_value"),
    (b'{"prompt": "x"} {"prompt": "y"}', "invalid_json"),
    (b"prompt=x", "invalid_json"),
]


@pytest.mark.parametrize(("body", "code"), BAD_BODIES, ids=lambda value: ascii(value)[:40])
def test_a_body_that_is_no_sound_json_object_is_refused(
    stack: Stack, body: bytes, code: str
) -> None:
    answer = send(stack, body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_a_body_of_another_type_is_refused_with_a_hint(stack: Stack) -> None:
    answer = send(stack, b"prompt=x", **{"Content-Type": "application/x-www-form-urlencoded"})

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (415, "unsupported_media_type")
    assert "application/json" in error["hint"]


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "application/vnd.api+json", "APPLICATION/JSON", ""]
)
def test_every_way_of_saying_json_is_understood(stack: Stack, kind: str) -> None:
    body = b'{"model": "flux-pro", "prompt": "x"}'

    assert send(stack, body, **{"Content-Type": kind}).status_code == 202


def test_a_body_of_more_than_a_megabyte_is_refused(stack: Stack) -> None:
    body = json.dumps({"prompt": "x" * 1_100_000}).encode()
    answer = send(stack, body)
    chunked = stack.http.post(
        f"{stack.base}/v1/images/generations",
        data=iter([body]),
        headers={"Content-Type": "application/json"},
        timeout=10,
    )

    assert (answer.status_code, chunked.status_code) == (413, 413)
    assert answer.json()["error"]["code"] == chunked.json()["error"]["code"] == "payload_too_large"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1", 404, "not_found"),
        ("GET", "/v1/", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1//models", 404, "not_found"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/images/generations", 405, "method_not_allowed"),
        ("PUT", "/v1/images/generations", 405, "method_not_allowed"),
        ("PATCH", "/v1/tasks/imgtask_0", 405, "method_not_allowed"),
        ("BREW", "/v1/tasks/imgtask_0", 405, "method_not_allowed"),
        ("GET", "/v1/images/edits/1/2", 404, "not_found"),
        ("GET", "/v1/tasks/%00", 404, "async_task_not_found"),
        ("GET", "/v1/tasks/%ff%fe", 404, "async_task_not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("DELETE", "/healthz", 405, "method_not_allowed"),
    ],
)
def test_wrong_addresses_and_methods_are_answered_in_json(
    stack: Stack, method: str, path: str, status: int, code: str
) -> None:
    answer = stack.http.request(method, stack.base + path, timeout=10)

    assert answer.headers["Content-Type"] == "application/json"
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    if status == 405:
        assert answer.headers["Allow"]


def test_a_slash_at_the_end_changes_nothing(stack: Stack) -> None:
    body = {"model": "flux-pro", "prompt": "x"}
    submit = stack.http.post(f"{stack.base}/v1/images/generations/", json=body, timeout=10)

    assert submit.status_code == 202
    assert stack.get(submit.json()["poll_url"] + "/").json()["status"] == "pending"
    assert stack.get("/v1/models/").json()["object"] == "list"


def test_head_is_get_without_a_body(stack: Stack) -> None:
    task_id = stack.submit()
    answer = stack.http.head(f"{stack.base}/v1/tasks/{task_id}", timeout=10)

    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 100


def test_options_names_the_methods_without_a_key(stack: Stack) -> None:
    answer = requests.options(f"{stack.base}/v1/images/generations", timeout=10)

    assert (answer.status_code, answer.content) == (204, b"")
    assert set(answer.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer sk-wrong",
        "Basic c2stdGVzdA==",
        "sk-test-0123456789abcdef",
        "Bearer sk-test-0123456789abcdef x",
        "Bearer sk-test-0123456789abcde",
        "Bearer " + "x" * 5000,
        "Bearer sk-\xe9",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/images/generations"),
        ("GET", "/v1/tasks/imgtask_00000000000000000000000000000000"),
        ("GET", "/v1/nothing"),
        ("PUT", "/v1/images/generations"),
    ],
)
def test_nothing_is_told_without_a_key(
    stack: Stack, method: str, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    answer = requests.request(method, stack.base + path, headers=headers, data=b"{", timeout=10)

    assert answer.status_code == 401
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_api_key", "invalid_api_key")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_key_in_the_query_is_no_key(stack: Stack) -> None:
    path = f"/v1/tasks/x?api_key={stack.key}&key={stack.key}"

    assert requests.get(stack.base + path, timeout=10).status_code == 401


def test_expired_and_revoked_keys_are_refused(stack: Stack) -> None:
    _, expired = stack.keys.create("expired", expires=int(time.time()) - 1)
    key, revoked = stack.keys.create("revoked")
    stack.keys.revoke(key.id)

    def code(plain: str) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {plain}"}
        answer = requests.get(f"{stack.base}/v1/tasks/x", headers=headers, timeout=10)
        return answer.status_code, answer.json()["error"]["code"]

    assert code(expired) == (401, "expired_api_key")
    assert code(revoked) == (401, "invalid_api_key")


def test_models_are_listed_without_a_key_and_with_a_wrong_one(stack: Stack) -> None:
    for headers in ({}, {"Authorization": "Bearer sk-wrong"}):
        for path in ("/v1/models", "/v1/models/flux-pro"):
            assert requests.get(stack.base + path, headers=headers, timeout=10).ok


def test_the_callers_request_id_comes_back_if_it_is_sane(stack: Stack) -> None:
    def answered(given: str) -> str:
        return stack.get("/healthz", headers={"X-Request-ID": given}).headers["X-Request-ID"]

    assert answered("abc-123") == "abc-123"
    assert answered("x" * 128) == "x" * 128
    assert answered("x" * 129).startswith("req_")
    assert answered("a b").startswith("req_")
    assert answered("").startswith("req_")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/nothing", "/nothing", "/v1/tasks/x", "/docs"])
def test_every_answer_has_a_request_id(stack: Stack, path: str) -> None:
    for session in (stack.http, requests):
        assert session.get(stack.base + path, timeout=10).headers["X-Request-ID"]


def test_the_log_has_one_event_per_request_and_no_secrets(stack: Stack) -> None:
    secret = "a very private prompt"
    answer = stack.post(
        {"model": "flux-pro", "prompt": secret, "n": 99}, headers={"X-Request-ID": "log-test-1"}
    )
    assert answer.status_code == 400
    task_id = stack.submit(prompt=secret)
    stack.complete(task_id)
    url = stack.get(f"/v1/tasks/{task_id}").json()["data"][0]["url"]
    assert requests.get(url, headers={"X-Request-ID": "log-test-2"}, timeout=10).ok

    log = stack.log.read_text()
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    (refused,) = [event for event in events if event.get("request_id") == "log-test-1"]
    (loaded,) = [event for event in events if event.get("request_id") == "log-test-2"]
    wanted: dict[str, Any] = {
        "event": "request",
        "method": "POST",
        "path": "/v1/images/generations",
        "status": 400,
    }
    assert wanted.items() <= refused.items()
    assert refused["key"].startswith("key_") and refused["ms"] > 0
    assert loaded["path"] == "/files/<task_id>/<file>"
    assert any(event.get("task_id") == task_id for event in events)
    signature = url.partition("signature=")[2]
    for hidden in (secret, stack.key, "Bearer", signature):
        assert hidden not in log


def test_connections_are_kept_alive(stack: Stack) -> None:
    host = urlsplit(stack.base)
    connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=10)
    for _ in range(3):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.close()
