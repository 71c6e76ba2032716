"""The sandbox speaks Ideogram's dialect."""

import time
from datetime import datetime
from io import BytesIO
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from ops.sandbox.dialects.ideogram import RATIOS, RESOLUTIONS

KEY = {"Api-Key": "k"}


def generate(sandbox, *, headers=KEY, **body):
    return sandbox.http.post(
        f"{sandbox.url}/ideogram/v1/ideogram-v3/generate",
        json={"prompt": "a fox"} | body,
        headers=headers,
        timeout=20,
    )


def picture(sandbox, item):
    return sandbox.http.get(item["url"], timeout=20, allow_redirects=False)


def test_the_documented_request_is_answered_as_documented(sandbox, documents):
    (sample,) = documents.examples("ideogram")

    answer = generate(sandbox, **sample["body"])

    assert answer.status_code == 200
    documents.check("ideogram.json", "ImageGenerationResponseV3", answer.json())
    assert datetime.fromisoformat(answer.json()["created"]).tzinfo
    items = answer.json()["data"]
    assert [item["seed"] for item in items] == [7, 8]
    assert {item["prompt"] for item in items} == {"a red fox"}
    for item in items:
        with Image.open(BytesIO(picture(sandbox, item).content)) as image:
            assert (image.format, image.size) == ("PNG", (1344, 768))
    assert len(sandbox.purchases()) == 2


def test_it_knows_every_resolution_and_ratio_and_no_others(documents):
    schemas = documents.schemas("ideogram.json")

    assert set(RESOLUTIONS) == set(schemas["ResolutionV3"]["enum"])
    assert set(RATIOS) == set(schemas["AspectRatioV3"]["enum"])
    assert set(RATIOS.values()) <= set(RESOLUTIONS)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"resolution": "1024x1024", "aspect_ratio": "1x1"}, "aspect_ratio"),
        ({"resolution": "512x512"}, "resolution"),
        ({"aspect_ratio": "16:9"}, "aspect_ratio"),
        ({"prompt": ""}, "prompt"),
        ({"num_images": 9}, "num_images"),
        ({"num_images": "2"}, "num_images"),
        ({"seed": 2**31}, "seed"),
        ({"rendering_speed": "FAST"}, "rendering_speed"),
        ({"magic_prompt": "off"}, "magic_prompt"),
        ({"style_codes": ["0123abcd"], "style_type": "GENERAL"}, "style_codes"),
        ({"size": "1024x1024"}, "size"),
    ],
)
def test_a_wrong_field_is_named_and_costs_nothing(sandbox, fields, named):
    answer = generate(sandbox, **fields)

    assert answer.status_code == 400
    assert named in answer.json()["error"]
    assert sandbox.purchases() == []


@pytest.mark.parametrize("headers", [{}, {"Api-Key": "bad"}, {"Authorization": "Bearer k"}])
def test_a_key_is_needed(sandbox, headers):
    assert generate(sandbox, headers=headers).status_code == 401


def test_prompts_are_rewritten_unless_that_is_turned_off(sandbox):
    said = {
        option: generate(sandbox, magic_prompt=option).json()["data"][0]["prompt"]
        for option in ("AUTO", "ON", "OFF")
    }

    assert said["AUTO"] == said["ON"] != said["OFF"] == "a fox"


@pytest.mark.parametrize(
    ("fault", "status", "paid"),
    [
        ("rate_limited", 429, 0),
        ("no_credit", 402, 0),
        ("bad_key", 401, 0),
        ("overloaded", 503, 0),
        ("server_error", 500, 0),
        ("moderated", 422, 0),
        ("failed", 500, 1),
    ],
)
def test_it_fails_in_its_own_words(sandbox, documents, fault, status, paid):
    answer = generate(sandbox, prompt=f"a fox sim:{fault}")

    assert answer.status_code == status
    if status == 422:
        documents.check("ideogram.json", "GenerateImageSafetyError", answer.json())
    assert ("Retry-After" in answer.headers) == (fault == "rate_limited")
    assert len(sandbox.purchases()) == paid


@pytest.mark.parametrize(
    ("fault", "safe"),
    [("moderated_output", [False, False]), ("fewer_images", [True, False]), ("no_image", [])],
)
def test_unsafe_pictures_have_no_address(sandbox, documents, fault, safe):
    answer = generate(sandbox, prompt=f"a fox sim:{fault}", num_images=2)

    documents.check("ideogram.json", "ImageGenerationResponseV3", answer.json())
    items = answer.json()["data"]
    assert [item["is_image_safe"] for item in items] == safe
    assert [item["url"] is not None for item in items] == safe
    assert len(sandbox.purchases()) == 2


def test_addresses_are_signed_and_say_when_they_expire(sandbox):
    (item,) = generate(sandbox).json()["data"]

    query = parse_qs(urlsplit(item["url"]).query)
    assert int(query["exp"][0]) > time.time()
    forged = item["url"].replace(query["sig"][0], "0" * 32)
    assert picture(sandbox, {"url": forged}).status_code == 404


def test_an_expired_address_is_forbidden(sandbox):
    (item,) = generate(sandbox, prompt="a fox sim:expired_url").json()["data"]

    assert int(parse_qs(urlsplit(item["url"]).query)["exp"][0]) < time.time()
    assert picture(sandbox, item).status_code == 403


def test_addresses_can_lead_astray(sandbox):
    (foreign,) = generate(sandbox, prompt="a fox sim:foreign_image_url").json()["data"]
    (moved,) = generate(sandbox, prompt="a fox sim:redirect_image").json()["data"]

    assert foreign["url"].startswith("http://169.254.169.254/")
    assert picture(sandbox, moved).headers["Location"].startswith("http://169.254.169.254/")


def test_a_key_at_a_picture_is_noticed(sandbox):
    (item,) = generate(sandbox).json()["data"]

    sandbox.http.get(item["url"], headers=KEY, timeout=20)

    assert sandbox.calls("ideogram")["downloads_with_key"] == 1


def test_better_pictures_take_longer(sandbox):
    def seconds(**fields):
        started = time.monotonic()
        assert generate(sandbox, **fields).ok
        return time.monotonic() - started

    assert 0.05 < seconds(rendering_speed="FLASH") < seconds(rendering_speed="QUALITY")
