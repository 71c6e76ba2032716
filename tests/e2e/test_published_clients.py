"""Client code as people publish it, unchanged, against the whole system."""

from __future__ import annotations

import base64
import io
import time

import openai
import pytest
import requests
from PIL import Image

from tests.stack import KEY, Stack


@pytest.mark.parametrize("path", ["as given", "/v1/images/generations/", "/v1/tasks/"])
def test_a_client_that_polls_with_requests_gets_its_picture(stack: Stack, path: str) -> None:
    """S30, S31, S37, S38, S41: the loop that integration guides print, on each of the paths."""
    base = stack.url
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"model": "flux-pro", "prompt": f"a red fox {path}", "size": "512x512"}

    d = requests.post(
        f"{base}/v1/images/generations", json=body, headers=headers, timeout=30
    ).json()
    assert d["status"] == "pending"
    url = base + (d["poll_url"] if path == "as given" else path + d["task_id"])
    ends = time.monotonic() + 40
    while d["status"] not in ("completed", "failed"):
        assert time.monotonic() < ends, d
        time.sleep(0.2)
        d = requests.get(url, headers=headers, timeout=30).json()

    assert d["status"] == "completed", d
    picture = requests.get(d["data"][0]["url"], timeout=30)  # without a key
    assert Image.open(io.BytesIO(picture.content)).size == (512, 512)


def test_the_three_poll_paths_have_one_body(stack: Stack) -> None:
    task = stack.submit("the same three times")
    stack.finished(task)

    bodies = [
        stack.get(f"/v1/{path}/{task['id']}").json()
        for path in ("images/generations", "tasks", "images")
    ]

    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[0]["status"] == "completed"


def client(stack: Stack, **headers: str) -> openai.OpenAI:
    return openai.OpenAI(
        api_key=KEY, base_url=f"{stack.url}/v1", default_headers=headers, max_retries=0
    )


def test_the_openai_sdk_reads_the_pending_task(stack: Stack) -> None:
    """S28, S40: an answer without a picture is still an ImagesResponse."""
    with client(stack) as sdk:
        pending = sdk.images.generate(
            model="dall-e-3", prompt="a lighthouse", size="1024x1024", quality="standard", n=1
        )

    assert pending.data is not None
    assert pending.data[0].url == ""
    assert pending.status == "pending"  # type: ignore[attr-defined]
    assert pending.poll_url.startswith("/v1/")  # type: ignore[attr-defined]


def test_the_openai_sdk_gets_images_when_it_prefers_to_wait(stack: Stack) -> None:
    """S22 to S25 and S27: the inline answer, through an unmodified SDK."""
    with client(stack, Prefer="wait=60") as sdk:
        answer = sdk.images.generate(model="dall-e-3", prompt="a lighthouse in a storm", n=1)

    assert answer.data is not None
    image = answer.data[0]
    assert abs(answer.created - time.time()) < 120
    assert image.revised_prompt == "a lighthouse in a storm"
    assert image.url is not None
    picture = requests.get(image.url, timeout=30)
    assert Image.open(io.BytesIO(picture.content)).size == (1024, 1024)


def test_the_openai_sdk_gets_base64_when_it_asks_for_it(stack: Stack) -> None:
    """S19, S26."""
    with client(stack, Prefer="wait=60") as sdk:
        answer = sdk.images.generate(
            model="flux-pro", prompt="a red apple", size="512x512", response_format="b64_json"
        )

    assert answer.data is not None
    data = base64.b64decode(answer.data[0].b64_json or "")
    assert Image.open(io.BytesIO(data)).size == (512, 512)


def test_the_openai_sdk_lists_and_retrieves_models(stack: Stack) -> None:
    with client(stack) as sdk:
        ids = {model.id for model in sdk.models.list()}
        one = sdk.models.retrieve("flux-pro")

    assert {"dall-e-3", "flux-pro", "midjourney"} <= ids
    assert one.id == "flux-pro"


def test_a_refused_prompt_is_a_bad_request_to_the_openai_sdk(stack: Stack) -> None:
    with (
        client(stack, Prefer="wait=60") as sdk,
        pytest.raises(openai.BadRequestError) as refused,
    ):
        sdk.images.generate(model="dall-e-3", prompt="something sim:moderated")

    assert refused.value.code == "content_policy_violation"
