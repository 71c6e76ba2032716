"""Asking for a task: three paths, one body, and nothing about other people's tasks."""

from __future__ import annotations

import base64
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from common.task import Call, CallState, Failure
from tests.api.conftest import Stack, picture

PATHS = ("/v1/images/generations/{}", "/v1/tasks/{}", "/v1/images/{}")


def timeless(answer: requests.Response) -> dict[str, Any]:
    """The body without the one thing that changes by itself."""
    return {name: value for name, value in answer.json().items() if name != "eta_seconds"}


def all_paths(stack: Stack, task_id: str) -> requests.Response:
    """The answer on each path, which must be the same."""
    first, *others = (stack.get(path.format(task_id)) for path in PATHS)
    for other in others:
        assert (other.status_code, timeless(other)) == (first.status_code, timeless(first))
        assert other.headers.get("ETag") == first.headers.get("ETag")
    return first


def test_a_new_task_is_pending_on_all_paths(stack: Stack) -> None:
    """S31, S32, S37, S38, S40"""
    submitted = stack.post({"model": "flux-pro", "prompt": "x", "n": 2}).json()
    answer = all_paths(stack, submitted["task_id"])

    assert answer.status_code == 200
    assert submitted.items() <= answer.json().items()
    assert stack.get(submitted["poll_url"]).content == answer.content
    assert answer.headers["Retry-After"] == "2"


def test_a_claimed_task_is_processing(stack: Stack) -> None:
    task_id = stack.submit()
    claim = stack.claim(task_id)
    call = Call(0, 1, "bfl", "flux-pro-1.1", CallState.ACCEPTED)
    stack.store.journal(claim, call, progress=40)

    body = all_paths(stack, task_id).json()
    assert (body["status"], body["progress"]) == ("processing", 40)
    assert abs(body["started"] - time.time()) < 5
    assert body["data"] == [{"url": "", "revised_prompt": "a red apple"}]


def test_a_completed_task_delivers_its_images(stack: Stack) -> None:
    """S23-S25, S27, S41"""
    task_id = stack.submit(n=2, size="512x512")
    red, blue = picture(32, 16), picture(48, 48, "webp", (0, 0, 200))
    stack.complete(task_id, red, blue, usage={"images": 2})

    answer = all_paths(stack, task_id)
    body = answer.json()
    assert (body["status"], body["progress"]) == ("completed", 100)
    assert (body["provider"], body["provider_model"]) == ("bfl", "flux-pro-1.1")
    assert body["usage"].pop("images") == 2
    assert body["usage"] == {"provider": body["provider"], "model": body["provider_model"]}
    assert body["size"] == "512x512"
    assert abs(body["completed_at"] - time.time()) < 5
    assert 86_390 < body["expires_at"] - time.time() < 86_410
    assert "Retry-After" not in answer.headers and "missing" not in body
    first, second = body["data"]
    assert (first["width"], first["height"], second["width"]) == (32, 16, 48)
    assert first["revised_prompt"] == "a red apple"
    assert first["url"].startswith(f"{stack.base}/files/{task_id}/0.png?")
    assert requests.get(first["url"], timeout=10).content == red
    assert requests.get(second["url"], timeout=10).content == blue


def test_the_timeline_tells_what_happened_and_changes_the_etag(stack: Stack) -> None:
    task_id = stack.submit()
    new = all_paths(stack, task_id)
    claim = stack.claim(task_id)
    claimed = all_paths(stack, task_id)
    stack.store.journal(claim, Call(0, 1, "bfl", "flux-pro-1.1", CallState.ACCEPTED))
    accepted = all_paths(stack, task_id)

    assert [entry["event"] for entry in new.json()["timeline"]] == ["accepted"]
    assert [entry["event"] for entry in accepted.json()["timeline"]] == [
        "accepted",
        "claimed",
        "job_accepted",
    ]
    assert abs(accepted.json()["timeline"][0]["at"] - time.time()) < 10
    # Of the body of a claimed task only the timeline changes when the provider has accepted it.
    assert len({answer.headers["ETag"] for answer in (new, claimed, accepted)}) == 3


def test_images_come_as_base64_when_asked_for(stack: Stack) -> None:
    """S19, S26"""
    task_id = stack.submit(response_format="b64_json")
    data = picture()
    stack.complete(task_id, data)

    (image,) = all_paths(stack, task_id).json()["data"]
    assert base64.b64decode(image["b64_json"]) == data
    assert "url" not in image


def test_a_lost_image_is_said_to_be_lost(stack: Stack) -> None:
    task_id = stack.submit(response_format="b64_json")
    stack.complete(task_id)
    (stack.data_dir / "images" / task_id / "0.png").unlink()

    body = all_paths(stack, task_id).json()
    assert body["status"] == "completed"
    assert body["data"][0]["b64_json"] is None
    assert "not stored" in body["data"][0]["error"]


def test_images_that_could_not_be_had_are_named(stack: Stack) -> None:
    task_id = stack.submit(n=2)
    refused = Failure("content_policy_violation", "The second picture was refused.")
    stack.complete(task_id, picture(), missing=(refused,))

    body = all_paths(stack, task_id).json()
    assert len(body["data"]) == 1
    assert body["missing"] == [
        {
            "code": "content_policy_violation",
            "message": "The second picture was refused.",
            "retryable": False,
            "billed": "no",
        }
    ]


def test_a_failed_task_says_why_to_people_and_to_programs(stack: Stack) -> None:
    task_id = stack.submit()
    stack.fail(task_id, Failure("upstream_error", "The provider broke.", True, "unknown"))

    body = all_paths(stack, task_id).json()
    assert (body["status"], body["data"], body["error"]) == ("failed", [], "The provider broke.")
    assert body["error_detail"] == {
        "code": "upstream_error",
        "message": "The provider broke.",
        "retryable": True,
        "billed": "unknown",
    }
    assert "cancelled" not in body


def test_a_cancelled_task_has_failed_and_says_it_was_cancelled(stack: Stack) -> None:
    task_id = stack.submit()
    stack.fail(task_id, Failure("cancelled", "The task was cancelled."))
    stack.redis.hset(f"darkroom:task:{task_id}", "cancelled", "1")

    body = all_paths(stack, task_id).json()
    assert body["status"] == "failed"
    assert (body["cancelled"], body["cancellation_status"]) == (True, "cancelled")


@pytest.mark.parametrize(
    "task_id",
    [
        "imgtask_0f4c2d5e8a9b4c7d9e1f2a3b4c5d6e7f",
        "imgtask_0",
        "x",
        "imgtask_" + "g" * 32,
        "IMGTASK_" + "0" * 32,
        "imgtask_" + "0" * 32 + "%0a",
        "darkroom:keys",
        "x" * 2000,
    ],
)
def test_unknown_ids_are_all_the_same_404(stack: Stack, task_id: str) -> None:
    answer = all_paths(stack, task_id)

    assert answer.status_code == 404
    assert answer.json() == {
        "error": {
            "message": "Task not found or no longer available.",
            "type": "invalid_request_error",
            "code": "async_task_not_found",
            "param": None,
        }
    }


def test_an_expired_task_is_unknown(stack: Stack) -> None:
    task_id = stack.submit()
    stack.redis.delete(f"darkroom:task:{task_id}")

    assert all_paths(stack, task_id).status_code == 404


def test_nothing_is_sent_twice_to_those_who_know_it(stack: Stack) -> None:
    task_id = stack.submit()
    etag = stack.get(f"/v1/tasks/{task_id}").headers["ETag"]

    same = stack.get(f"/v1/images/{task_id}", headers={"If-None-Match": etag})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag)
    assert same.headers["Retry-After"]
    assert not {"Content-Type", "Content-Length"} & set(same.headers)
    stack.complete(task_id)
    new = stack.get(f"/v1/tasks/{task_id}", headers={"If-None-Match": etag})
    assert (new.status_code, new.json()["status"]) == (200, "completed")


def test_addresses_of_images_carry_the_host_that_was_asked(stack: Stack) -> None:
    task_id = stack.submit()
    stack.complete(task_id)

    body = stack.get(f"/v1/tasks/{task_id}", headers={"Host": "images.example:81"}).json()
    assert urlsplit(body["data"][0]["url"]).netloc == "images.example:81"


def test_a_status_read_again_and_again_never_goes_back(stack: Stack) -> None:
    task_id = stack.submit()
    seen = [stack.get(f"/v1/tasks/{task_id}").json()["status"]]
    claim = stack.claim(task_id)
    seen.append(stack.get(f"/v1/tasks/{task_id}").json()["status"])
    assert stack.store.fail(task_id, claim.task.generation, Failure("timeout", "Too late."))
    seen.append(stack.get(f"/v1/tasks/{task_id}").json()["status"])
    assert not stack.store.fail(task_id, claim.task.generation, Failure("x", "y"))
    seen.append(stack.get(f"/v1/tasks/{task_id}").json()["status"])

    assert seen == ["pending", "processing", "failed", "failed"]


@pytest.mark.parametrize("path", ["/v1/tasks/{}", "/v1/tasks/{}?wait=1", "/v1/tasks/{}/events"])
def test_what_cannot_be_an_id_is_not_looked_for(stack: Stack, path: str) -> None:
    stack.get("/v1/tasks/none")  # from now on the key is known
    before = stack.commands().get("fcall", 0)
    answer = stack.get(path.format("imgtask_none"))

    assert answer.status_code == 404
    assert stack.commands().get("fcall", 0) == before
