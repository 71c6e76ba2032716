"""`POST /v1/images/generations`: what is answered, kept and said about what could not be done."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from common.task import ImageRequest, Status, is_task_id
from tests.api.conftest import Stack

SEVEN = (
    "dall-e-3",
    "dall-e-2",
    "flux-pro",
    "flux-schnell",
    "midjourney",
    "ideogram-v3",
    "stable-diffusion-3",
)
USABLE = (
    *("dall-e-3", "dall-e-2", "flux-pro", "gpt-image-2", "gpt-image-2.5-flare"),
    *("gpt-image-2.5-sunburst", "gpt-image-2.6-flare", "gpt-image-2.6-sunburst", "flux-2-pro"),
    *("flux-2-max", "flux-2-flex", "flux-2-klein-9b", "flux-2-klein-4b"),
    *("flux-kontext-pro", "flux-kontext-max", "flux-pro-1.1-ultra"),
)


@pytest.mark.parametrize("model", USABLE)
def test_every_usable_model_answers_a_pending_task(stack: Stack, model: str) -> None:
    """S2, S28, S30, S33-S36, S39, S40, S50: the same form whatever the model's usual mode."""
    answer = stack.post({"model": model, "prompt": "a red apple"})

    assert answer.status_code == 202
    body = answer.json()
    assert body["status"] == "pending"
    assert is_task_id(body["task_id"]) and body["id"] == body["task_id"]
    assert body["object"] == "image.generation.task"
    assert abs(body["created"] - time.time()) < 5 and isinstance(body["created"], int)
    assert body["poll_url"] == f"/v1/images/generations/{body['task_id']}"
    assert body["data"] == [{"url": "", "revised_prompt": "a red apple"}]
    assert (body["progress"], body["model"]) == (0, model)
    assert isinstance(body["warnings"], list)


def test_the_headers_say_where_to_look_and_when(stack: Stack) -> None:
    answer = stack.post({"model": "flux-pro", "prompt": "a red apple"})

    task_id = answer.json()["task_id"]
    assert answer.headers["Location"] == answer.json()["poll_url"]
    assert answer.headers["X-Task-ID"] == task_id
    assert answer.headers["Cache-Control"] == "no-store"
    assert 1 <= int(answer.headers["Retry-After"]) <= 5
    assert answer.headers["X-Request-ID"]


def test_there_is_one_placeholder_per_image(stack: Stack) -> None:
    """S6, S39"""
    body = stack.post({"model": "flux-pro", "prompt": "x", "n": 4}).json()

    assert body["data"] == [{"url": "", "revised_prompt": "x"}] * 4


def test_the_prompt_is_all_that_is_needed(stack: Stack) -> None:
    """S3, S5, S6, S9, S17, S19, S20: the defaults."""
    task_id = stack.post({"prompt": "a red apple"}).json()["task_id"]

    task = stack.store.read(task_id)
    assert task is not None and task.status is Status.PENDING
    assert task.request == ImageRequest(
        model="dall-e-3",
        prompt="a red apple",
        n=1,
        size="1024x1024",
        quality="standard",
        style="vivid",
        response_format="url",
    )
    assert task.queue == "images.openai"
    assert task.deadline - task.created == 600_000
    assert not task.sandbox


def test_what_was_asked_for_is_kept_and_announced(stack: Stack) -> None:
    """S12, S17, S19-S21"""
    fields = {
        "prompt": "ein Apfel 🍎",
        "size": "1792x1024",
        "quality": "hd",
        "style": "natural",
        "response_format": "b64_json",
        "user": "user-17",
    }
    task_id = stack.submit(model="dall-e-3", **fields)

    task = stack.store.read(task_id)
    assert task is not None
    assert task.request == ImageRequest(model="dall-e-3", **fields)  # type: ignore[arg-type]
    assert task.queue == "images.openai"
    assert task.queue_position is not None


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("dall-e-3", "1024x1024"),
        ("dall-e-3", "1792x1024"),
        ("dall-e-3", "1024x1792"),
        ("dall-e-2", "512x512"),
        ("flux-pro", "512x512"),
        ("flux-pro", "1024x1024"),
        ("flux-pro", "1440x960"),
        ("flux-pro", "416x608"),
        ("gpt-image-2", "512x512"),
        ("gpt-image-2", "1200x912"),
        ("flux-2-max", "2048x2048"),
        ("flux-2-klein-4b", "80x1008"),
        ("flux-pro-1.1-ultra", "2752x1536"),
    ],
)
def test_sizes_that_a_model_takes_are_accepted(stack: Stack, model: str, size: str) -> None:
    """S10-S16"""
    task = stack.store.read(stack.submit(model=model, size=size))

    assert task is not None and task.request.size == size


@pytest.mark.parametrize("value", [None, "auto"])
def test_no_size_and_auto_are_the_default_of_the_model(stack: Stack, value: str | None) -> None:
    task = stack.store.read(stack.submit(size=value))

    assert task is not None and task.request.size == "1024x1024"


def test_null_means_absent(stack: Stack) -> None:
    names = ("model", "n", "size", "quality", "style", "response_format", "user", "seed", "async")
    task_id = stack.submit(**dict.fromkeys(names))

    task = stack.store.read(task_id)
    assert task is not None
    assert (task.request.model, task.request.n, task.request.quality) == (
        "dall-e-3",
        1,
        "standard",
    )


def test_known_parameters_that_the_model_does_not_take_are_dropped_and_named(stack: Stack) -> None:
    """S18, S20: a client that always sends quality must not break."""
    answer = stack.post(
        {
            "model": "flux-pro",
            "prompt": "x",
            "quality": "standard",
            "style": "vivid",
            "background": "auto",
            "moderation": "low",
            "output_compression": 50,
            "negative_prompt": "y",
            "aspect_ratio": "16:9",
            "seed": 5,
        }
    )

    warnings = answer.json()["warnings"]
    dropped = "quality style negative_prompt aspect_ratio output_compression background moderation"
    assert warnings == [
        f"{name} is not taken by flux-pro and was ignored." for name in dropped.split()
    ]
    task = stack.store.read(answer.json()["task_id"])
    assert task is not None
    assert (task.request.quality, task.request.style, task.request.seed) == (None, None, 5)
    assert task.warnings == tuple(warnings)


def test_a_model_with_qualities_of_its_own_is_told_them_as_they_are(stack: Stack) -> None:
    said = {
        "quality": "low",
        "background": "transparent",
        "output_format": "webp",
        "output_compression": 80,
        "moderation": "low",
        "user": "user-17",
    }
    answer = stack.post({"model": "gpt-image-2", "prompt": "x", "size": "2048x1152"} | said)

    assert (answer.status_code, answer.json()["warnings"]) == (202, [])
    task = stack.store.read(answer.json()["task_id"])
    assert task is not None
    assert task.request == ImageRequest("gpt-image-2", "x", size="2048x1152", **said)  # type: ignore[arg-type]


def test_the_default_quality_may_be_said_to_every_model(stack: Stack) -> None:
    """S17: a client that always sends quality must not break."""
    answer = stack.post({"model": "gpt-image-2", "prompt": "x", "quality": "standard"})

    assert answer.status_code == 202
    assert answer.json()["warnings"] == [
        "quality standard is not taken by gpt-image-2 and was ignored."
    ]
    task = stack.store.read(answer.json()["task_id"])
    assert task is not None and task.request.quality is None


@pytest.mark.parametrize(
    ("model", "quality", "possible"),
    [
        ("gpt-image-2", "hd", "auto, low, medium, high"),
        ("gpt-image-2", "max", "auto, low, medium, high"),
        ("gpt-image-2.6-flare", "hd", "auto, low, medium, high, xhigh, max"),
        ("dall-e-3", "low", "standard, hd"),
    ],
)
def test_a_quality_of_another_model_is_refused_with_those_that_are_taken(
    stack: Stack, model: str, quality: str, possible: str
) -> None:
    error = stack.post({"model": model, "prompt": "x", "quality": quality}).json()["error"]

    assert (error["code"], error["param"]) == ("invalid_value", "quality")
    assert error["message"].endswith(f"{model} takes {possible}.")


def test_a_size_beyond_the_rule_is_answered_with_the_rule(stack: Stack) -> None:
    error = stack.post({"model": "gpt-image-2", "prompt": "x", "size": "3840x640"}).json()["error"]

    assert (error["code"], error["param"]) == ("invalid_value", "size")
    assert error["message"].endswith(
        "2160x3840, and sides from 480 to 3840 that are multiples of 16, the longer at most 3 "
        "times the shorter, 655360 to 8294400 pixels in all."
    )
    assert len(error["message"]) < 400


def test_unknown_fields_are_dropped_and_named(stack: Stack) -> None:
    body = {"model": "flux-pro", "prompt": "x", "promt": "y", "\ud800\x00": 1, "z" * 200: 2}
    answer = stack.post(body)

    assert answer.status_code == 202
    first, second, third = answer.json()["warnings"]
    assert first == "'promt' is not a known field and was ignored."
    assert second == "'\\ud800\\x00' is not a known field and was ignored."
    assert len(third) < 120


def test_a_flood_of_unknown_fields_does_not_flood_the_answer(stack: Stack) -> None:
    answer = stack.post({"model": "flux-pro", "prompt": "x"} | {f"f{i}": i for i in range(5000)})

    assert len(answer.json()["warnings"]) == 21
    assert answer.json()["warnings"][-1] == "4980 more unknown fields were ignored."


def test_async_is_accepted_silently(stack: Stack) -> None:
    answer = stack.post({"model": "flux-pro", "prompt": "x", "async": True, "user": "u"})

    assert (answer.status_code, answer.json()["warnings"]) == (202, [])


def test_a_retired_model_says_who_serves_it_and_what_it_cannot_be_told(stack: Stack) -> None:
    plain = stack.post({"model": "dall-e-3", "prompt": "x"}).json()["warnings"]
    styled = stack.post({"model": "dall-e-3", "prompt": "x", "style": "vivid"}).json()["warnings"]

    assert len(plain) == 1 and "gpt-image-2" in plain[0]
    assert len(styled) == 2 and styled[1].startswith("style ")


INVALID = [
    ({}, "missing_required_parameter", "prompt"),
    ({"prompt": None}, "missing_required_parameter", "prompt"),
    ({"prompt": ""}, "invalid_value", "prompt"),
    ({"prompt": " \n\t"}, "invalid_value", "prompt"),
    ({"prompt": 5}, "invalid_value", "prompt"),
    ({"prompt": ["x"]}, "invalid_value", "prompt"),
    ({"prompt": "a\x00b"}, "invalid_value", "prompt"),
    ({"prompt": "a\ud800b"}, "invalid_value", "prompt"),
    ({"prompt": "x" * 4001}, "invalid_value", "prompt"),
    ({"prompt": "x" * 1001, "model": "dall-e-2"}, "invalid_value", "prompt"),
    ({"prompt": "x" * 10001, "model": "flux-pro"}, "invalid_value", "prompt"),
    ({"model": "dalle-3"}, "model_not_found", "model"),
    ({"model": ""}, "model_not_found", "model"),
    ({"model": "\ud800"}, "model_not_found", "model"),
    ({"model": 3}, "invalid_value", "model"),
    ({"model": "x" * 100_000}, "model_not_found", "model"),
    ({"n": 0}, "invalid_value", "n"),
    ({"n": -1}, "invalid_value", "n"),
    ({"n": 2}, "invalid_value", "n"),
    ({"n": 5, "model": "flux-pro"}, "invalid_value", "n"),
    ({"n": "1"}, "invalid_value", "n"),
    ({"n": True}, "invalid_value", "n"),
    ({"n": 1.5}, "invalid_value", "n"),
    ({"n": 10**400}, "invalid_value", "n"),
    ({"n": []}, "invalid_value", "n"),
    ({"size": "big"}, "invalid_value", "size"),
    ({"size": "1024"}, "invalid_value", "size"),
    ({"size": "512x512"}, "invalid_value", "size"),
    ({"size": 1024}, "invalid_value", "size"),
    ({"size": ""}, "invalid_value", "size"),
    ({"size": "0x0", "model": "flux-pro"}, "invalid_value", "size"),
    ({"size": "-512x512", "model": "flux-pro"}, "invalid_value", "size"),
    ({"size": "100x100", "model": "flux-pro"}, "invalid_value", "size"),
    ({"size": "9" * 5000 + "x1", "model": "flux-pro"}, "invalid_value", "size"),
    (
        {"size": "\u0661\u0660\u0662\u0664x\u0661\u0660\u0662\u0664", "model": "flux-pro"},
        "invalid_value",
        "size",
    ),
    ({"size": "01024x1024", "model": "flux-pro"}, "invalid_value", "size"),
    ({"quality": "ultra"}, "invalid_value", "quality"),
    ({"quality": "ultra", "model": "flux-pro"}, "invalid_value", "quality"),
    ({"quality": 1}, "invalid_value", "quality"),
    ({"style": "baroque"}, "invalid_value", "style"),
    ({"response_format": "png"}, "invalid_value", "response_format"),
    ({"user": 17}, "invalid_value", "user"),
    ({"user": "\x00"}, "invalid_value", "user"),
    ({"user": "u" * 513}, "invalid_value", "user"),
    ({"seed": -1}, "invalid_value", "seed"),
    ({"seed": 2**32}, "invalid_value", "seed"),
    ({"seed": 1.0}, "invalid_value", "seed"),
    ({"negative_prompt": "\x00"}, "invalid_value", "negative_prompt"),
    ({"negative_prompt": "x" * 10001}, "invalid_value", "negative_prompt"),
    ({"aspect_ratio": "wide"}, "invalid_value", "aspect_ratio"),
    ({"output_format": "gif"}, "invalid_value", "output_format"),
    ({"output_format": "bmp", "model": "flux-pro"}, "invalid_value", "output_format"),
    ({"output_compression": 101}, "invalid_value", "output_compression"),
    ({"background": "pink"}, "invalid_value", "background"),
    ({"moderation": "off"}, "invalid_value", "moderation"),
    ({"async": "yes"}, "invalid_value", "async"),
]


@pytest.mark.parametrize(
    ("fields", "code", "param"), INVALID, ids=lambda value: ascii(value)[:40].replace("/", "_")
)
def test_a_wrong_value_is_refused_by_name(
    stack: Stack, fields: dict[str, Any], code: str, param: str
) -> None:
    """S5, S7, S8, S10, S13, S17, S19, S20"""
    body = fields if "prompt" in fields or not fields else {"prompt": "x"} | fields
    answer = stack.post(body)

    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == "invalid_request_error"
    assert 10 < len(error["message"]) < 400
    assert [problem["field"] for problem in answer.json()["validation_errors"]] == [param]


def test_everything_that_is_wrong_is_said_at_once(stack: Stack) -> None:
    answer = stack.post(
        {"seed": "x", "n": 9, "size": "7x7", "model": "flux-pro", "quality": "ultra"}
    )

    body = answer.json()
    fields = [problem["field"] for problem in body["validation_errors"]]
    assert fields == ["prompt", "n", "size", "quality", "seed"]
    assert body["error"]["param"] == "prompt"
    assert body["error"]["message"] == body["validation_errors"][0]["message"]


def test_the_refusal_of_n_says_what_the_model_allows(stack: Stack) -> None:
    """S7, S8"""
    one = stack.post({"prompt": "x", "model": "dall-e-3", "n": 2}).json()["error"]["message"]
    four = stack.post({"prompt": "x", "model": "flux-pro", "n": 7}).json()["error"]["message"]

    assert one == "n must be 1 for dall-e-3."
    assert four == "n must be an integer from 1 to 4 for flux-pro."


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("1920x1080", "1792x1024"),
        ("600x1100", "1024x1792"),
        ("512x512", "1024x1024"),
        ("1024X1024", "1024x1024"),
    ],
)
def test_a_size_out_of_reach_is_answered_with_the_nearest(
    stack: Stack, asked: str, meant: str
) -> None:
    """S10, S13"""
    error = stack.post({"prompt": "x", "model": "dall-e-3", "size": asked}).json()["error"]

    assert error["did_you_mean"] == meant
    assert all(size in error["message"] for size in ("1024x1024", "1792x1024", "1024x1792"))


def test_an_unknown_model_is_answered_with_those_that_were_meant(stack: Stack) -> None:
    error = stack.post({"prompt": "x", "model": "Flux_Pro"}).json()["error"]

    assert error["did_you_mean"] == "flux-pro"
    assert error["suggestions"][0] == "flux-pro"
    assert "/v1/models" in error["hint"]


@pytest.mark.parametrize("model", [model for model in SEVEN if model not in USABLE])
def test_a_model_without_a_provider_is_unavailable_and_names_others(
    stack: Stack, model: str
) -> None:
    """S4: midjourney is a valid value, which this installation cannot serve."""
    answer = stack.post({"prompt": "x", "model": model})

    assert answer.status_code == 503
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("service_unavailable", "model_unavailable")
    assert error["alternatives"] == list(USABLE)
    assert answer.headers["X-Should-Retry"] == "false"


def test_a_wrong_request_for_an_unavailable_model_is_wrong_first(stack: Stack) -> None:
    assert stack.post({"prompt": "x", "model": "midjourney", "n": 9}).status_code == 400


def test_a_submit_costs_one_round_trip_and_a_poll_one(stack: Stack) -> None:
    task_id = stack.submit()  # the key is known from now on
    stack.get(f"/v1/tasks/{task_id}")  # and, for a few seconds, how tasks ended lately
    before = stack.commands()
    stack.submit()
    middle = stack.commands()
    stack.get(f"/v1/tasks/{task_id}")
    after = stack.commands()

    def calls(new: dict[str, int], old: dict[str, int]) -> dict[str, int]:
        # Inside the script commands are counted too; it is one fcall.
        names = ("fcall", "eval", "hget", "hgetall", "get", "set", "ping")
        return {n: new.get(n, 0) - old.get(n, 0) for n in names if new.get(n, 0) > old.get(n, 0)}

    assert calls(middle, before).pop("fcall") == 1
    assert set(calls(middle, before)) <= {"fcall", "hgetall", "hget"}
    assert set(calls(after, middle)) <= {"fcall", "hgetall", "hget"}
    assert calls(after, middle).pop("fcall") == 1


def test_ids_are_all_different_and_tell_nothing(stack: Stack) -> None:
    ids = {stack.submit() for _ in range(20)}

    assert len(ids) == 20
    assert all(re.fullmatch(r"imgtask_[0-9a-f]{32}", task_id) for task_id in ids)
