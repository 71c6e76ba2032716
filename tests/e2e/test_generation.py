"""One generation through every part of the system, for both kinds of provider."""

from __future__ import annotations

import io
import json

import pytest
import requests
from PIL import Image

from tests.stack import Stack


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("dall-e-3", "1024x1024"),
        ("dall-e-3", "1792x1024"),
        ("dall-e-2", "512x512"),
        ("flux-pro", "512x512"),
        ("flux-pro", "1344x768"),
        ("flux-schnell", "1344x768"),
        ("stable-diffusion-3", "512x512"),
        ("midjourney", "512x512"),
        ("ideogram-v3", "512x512"),
        ("ideogram-v3", "1248x832"),
        ("sd-webui", "520x776"),
        ("comfyui", "840x512"),
    ],
)
def test_the_picture_has_the_size_that_was_asked_for(stack: Stack, model: str, size: str) -> None:
    prompt = f"a lighthouse, {model}, {size}"

    task = stack.finished(stack.submit(prompt, model, size=size))

    assert task["status"] == "completed", task
    answer = requests.get(task["data"][0]["url"], timeout=30)
    picture = Image.open(io.BytesIO(answer.content))
    assert f"{picture.width}x{picture.height}" == size
    assert picture.info["prompt"] == prompt
    assert picture.info["model"] == model
    assert answer.headers["Content-Type"] == "image/png"
    assert len(stack.purchases(prompt)) == 1
    assert task["sandbox"] is True


def test_a_picture_keeps_the_format_that_its_provider_chose(stack: Stack) -> None:
    task = stack.finished(stack.submit("a lighthouse", "gemini-image", size="1376x768", n=2))

    assert task["status"] == "completed", task
    for image in task["data"]:
        answer = requests.get(image["url"], timeout=30)
        picture = Image.open(io.BytesIO(answer.content))
        assert (picture.format, picture.size) == ("JPEG", (1376, 768))
        assert answer.headers["Content-Type"] == "image/jpeg"


def test_a_generation_can_be_followed(stack: Stack) -> None:
    task = stack.submit("followed sim:never_ready@poll*1", "midjourney")
    stream = stack.get(f"/v1/tasks/{task['id']}/events").text
    told = [
        dict(line.split(": ", 1) for line in block.splitlines())
        for block in stream.split("\n\n")[1:-1]
        if block != ":"
    ]

    names = [event["event"] for event in told]
    assert names[:2] == ["status", "status"] and names[-3:] == ["status", "image", "done"]
    assert len([name for name in names if name == "progress"]) > 1  # it was told on the way
    ids = [int(event["id"]) for event in told]
    assert ids == sorted(set(ids))
    assert json.loads(told[-1]["data"]) == stack.poll(task)


def test_several_pictures_are_bought_once_each(stack: Stack) -> None:
    task = stack.finished(stack.submit("three different foxes", n=3))

    assert task["status"] == "completed", task
    assert len(stack.purchases("three different foxes")) == 3
    pictures = {requests.get(image["url"], timeout=30).content for image in task["data"]}
    assert len(pictures) == 3


def test_what_succeeded_is_delivered_and_what_did_not_is_told(stack: Stack) -> None:
    task = stack.finished(stack.submit("a pair sim:failed*1", n=2))

    assert task["status"] == "completed", task
    assert len(task["data"]) == 1
    (missing,) = task["missing"]
    assert missing["code"] == "upstream_error"
    assert len(stack.purchases("a pair sim:failed*1")) == 2


def test_a_picture_that_its_provider_withheld_is_told_beside_the_others(stack: Stack) -> None:
    prompt = "three foxes sim:fewer_images"

    task = stack.finished(stack.submit(prompt, "ideogram-v3", n=3))

    assert task["status"] == "completed", task
    assert len(task["data"]) == 2
    (missing,) = task["missing"]
    assert (missing["code"], missing["billed"]) == ("content_policy_violation", "unknown")
    assert "is_image_safe" in missing["message"]
    assert len(stack.purchases(prompt)) == 3


@pytest.mark.parametrize(
    ("word", "code", "billed", "bought"),
    [
        ("sim:moderated", "content_policy_violation", "unknown", 0),
        ("sim:moderated_output", "content_policy_violation", "unknown", 1),
        ("sim:failed", "upstream_error", "unknown", 1),
        ("sim:reset", "outcome_unknown", "unknown", 1),
        ("sim:bad_gateway", "outcome_unknown", "unknown", 1),
        ("sim:truncated_image", "upstream_error", "yes", 1),
        ("sim:corrupt_image", "upstream_error", "yes", 1),
        ("sim:html_image", "upstream_error", "yes", 1),
        ("sim:huge_image", "upstream_error", "yes", 1),
        ("sim:no_credit", "all_channels_failed", "no", 0),
        ("sim:bad_key", "all_channels_failed", "no", 0),
    ],
)
def test_a_failure_says_what_happened_and_whether_it_cost(
    stack: Stack, word: str, code: str, billed: str, bought: int
) -> None:
    task = stack.finished(stack.submit(f"trouble {word}"))

    assert task["status"] == "failed"
    assert task["data"] == []
    assert isinstance(task["error"], str)
    assert (task["error_detail"]["code"], task["error_detail"]["billed"]) == (code, billed)
    assert len(stack.purchases(f"trouble {word}")) == bought


def test_a_foreign_polling_url_is_not_followed_and_the_job_not_lost(stack: Stack) -> None:
    task = stack.finished(stack.submit("led astray sim:foreign_polling_url"))

    assert task["status"] == "completed", task
    assert len(stack.purchases("led astray")) == 1


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ("flux-pro", "sim:rate_limited*2"),
        ("dall-e-2", "sim:rate_limited*2"),
        ("dall-e-2", "sim:overloaded*1"),  # OpenAI's 503 is a refusal at the door
    ],
)
def test_what_cost_nothing_is_tried_again(stack: Stack, model: str, word: str) -> None:
    prompt = f"patience {model} {word}"

    task = stack.finished(stack.submit(prompt, model))

    assert task["status"] == "completed", task
    assert len(stack.purchases(prompt)) == 1


def test_progress_of_the_provider_is_passed_on(stack: Stack) -> None:
    task = stack.submit("slow progress sim:never_ready@poll*1")
    seen = set()
    while (body := stack.poll(task))["status"] not in ("completed", "failed"):
        seen.add(body["progress"])

    assert body["status"] == "completed"
    assert body["progress"] == 100
    assert 0 in seen


def test_the_outcomes_rank_the_models(stack: Stack) -> None:
    """S1, S2: the shortlist knows what really happened here."""
    stack.finished(stack.submit("for the statistics"))

    models = requests.get(f"{stack.url}/v1/models?recommended_for=image", timeout=5).json()["data"]

    ours = next(model for model in models if model["id"] == "flux-pro")
    assert ours["image"]["available"] is True
    usable = {
        "dall-e-3",
        "dall-e-2",
        "flux-pro",
        "flux-schnell",
        "midjourney",
        "ideogram-v3",
        "stable-diffusion-3",
        "gemini-image",
        "sd-webui",
        "comfyui",
    }
    assert {model["id"] for model in models} >= usable
