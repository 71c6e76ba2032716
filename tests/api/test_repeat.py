"""Submits that are repeated under their Idempotency-Key: one task, one answer."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.api.conftest import Stack

BODY = {"model": "flux-pro", "prompt": "a red apple", "n": 2}


def post(stack: Stack, key: str, body: dict[str, Any] = BODY, **headers: str) -> requests.Response:
    return stack.post(body, headers={"Idempotency-Key": key} | headers)


@pytest.fixture
def name() -> str:
    return secrets.token_hex(8)


def test_a_repeated_submit_gets_the_same_answer(stack: Stack, name: str) -> None:
    first, again = post(stack, name), post(stack, name)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]


def test_a_repeat_is_the_pending_answer_though_the_task_is_over(stack: Stack, name: str) -> None:
    first = post(stack, name)
    stack.complete(first.json()["task_id"])

    assert post(stack, name).content == first.content


def test_a_repeat_that_waits_gets_the_images(stack: Stack, name: str) -> None:
    first = post(stack, name)
    stack.complete(first.json()["task_id"])
    again = post(stack, name, Prefer="wait=30")

    assert again.status_code == 200
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(again.json()["data"]) == 1


def test_the_same_request_said_otherwise_is_the_same(stack: Stack, name: str) -> None:
    other = {"n": 2, "prompt": "a red apple", "model": "flux-pro", "style": None, "async": True}

    assert post(stack, name, other).content == post(stack, name).content


@pytest.mark.parametrize("change", [{"prompt": "a green apple"}, {"n": 1}, {"model": "dall-e-2"}])
def test_another_request_under_the_same_name_is_refused(
    stack: Stack, name: str, change: dict[str, Any]
) -> None:
    post(stack, name)
    answer = post(stack, name, BODY | change)

    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("idempotency_key_reused", "Idempotency-Key")


def test_a_hundred_at_once_are_one_task(stack: Stack, name: str) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: post(stack, name), range(100)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["task_id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1


def test_names_of_different_keys_have_nothing_to_do_with_one_another(
    stack: Stack, name: str
) -> None:
    _, other = stack.keys.create("other")
    mine = post(stack, name)
    theirs = requests.post(
        f"{stack.base}/v1/images/generations",
        json=BODY | {"prompt": "something else"},
        headers={"Authorization": f"Bearer {other}", "Idempotency-Key": name},
        timeout=30,
    )

    assert theirs.status_code == 202
    assert theirs.json()["task_id"] != mine.json()["task_id"]


@pytest.mark.parametrize("name", ["", "x" * 256, "ключ".encode().decode("latin-1"), "a\tb"])
def test_a_name_that_is_none_is_refused(stack: Stack, name: str) -> None:
    answer = post(stack, name)

    assert answer.status_code == 400
    assert answer.json()["validation_errors"][0]["field"] == "Idempotency-Key"


def test_a_name_is_not_logged_and_not_kept(stack: Stack) -> None:
    marked = "marked-name-0815"
    post(stack, marked)

    assert marked not in stack.log.read_text()
    assert not [key for key in stack.redis.scan_iter() if marked in key]
