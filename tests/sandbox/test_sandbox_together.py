"""The sandbox speaks Together AI's dialect."""

import base64
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

MODEL = "black-forest-labs/FLUX.1-schnell"


def generate(sandbox, *, key: str = "k", **body: Any) -> Any:
    body = {"model": MODEL, "prompt": "a fox", "response_format": "base64"} | body
    return sandbox.http.post(
        f"{sandbox.url}/together/v1/images/generations",
        json=body,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=20,
    )


def open_picture(item: dict[str, Any]) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(item["b64_json"])))


def test_the_documented_request_is_answered_as_documented(sandbox, documents):
    (sample,) = documents.examples("together")

    answer = generate(sandbox, **sample["body"])

    assert answer.status_code == 200
    documents.check("together.json", "ImageResponse", answer.json())
    assert "created" not in answer.json()
    pictures = [open_picture(item) for item in answer.json()["data"]]
    assert [(picture.size, picture.format) for picture in pictures] == [((1792, 1024), "PNG")] * 2
    assert len(sandbox.purchases()) == 2


def test_the_defaults_are_those_of_the_document(sandbox, documents):
    answer = generate(sandbox, response_format="url", prompt="a fox at sea")

    documents.check("together.json", "ImageResponse", answer.json())
    (item,) = answer.json()["data"]
    found = sandbox.http.get(item["url"], timeout=20)
    assert found.headers["Content-Type"] == "image/jpeg"
    picture = Image.open(BytesIO(found.content))
    assert (picture.format, picture.size) == ("JPEG", (1024, 1024))
    assert sandbox.calls("together")["downloads"] == 1


def test_an_address_nobody_was_given_leads_nowhere(sandbox):
    assert sandbox.http.get(f"{sandbox.url}/together/imgproxy/x", timeout=20).status_code == 404


def test_a_download_can_go_wrong(sandbox):
    answer = generate(sandbox, response_format="url", prompt="sim:server_error@download*1")
    url = answer.json()["data"][0]["url"]

    statuses = [sandbox.http.get(url, timeout=20).status_code for _ in range(2)]

    assert statuses == [500, 200]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "b64_json"}, "response_format"),
        ({"output_format": "webp"}, "output_format"),
        ({"width": 1000}, "width"),
        ({"height": 2048}, "height"),
        ({"n": 5}, "n"),
        ({"n": "2"}, "n"),
        ({"steps": 0}, "steps"),
        ({"prompt": ""}, "prompt"),
        ({"size": "1024x1024"}, "size"),
    ],
)
def test_a_wrong_field_is_named_and_costs_nothing(sandbox, documents, fields, param):
    answer = generate(sandbox, **fields)

    assert answer.status_code == 400
    documents.check("together.json", "ErrorData", answer.json())
    assert answer.json()["error"]["param"] == param
    assert sandbox.purchases() == []


def test_a_model_that_is_not_there_is_not_found(sandbox, documents):
    answer = generate(sandbox, model="black-forest-labs/FLUX.1-schnell-Free")

    assert answer.status_code == 404
    documents.check("together.json", "ErrorData", answer.json())


@pytest.mark.parametrize("key", ["", "bad-key"])
def test_bad_keys_are_refused(sandbox, documents, key):
    answer = generate(sandbox, key=key)

    assert answer.status_code == 401
    documents.check("together.json", "ErrorData", answer.json())


@pytest.mark.parametrize(
    ("fault", "status", "paid"),
    [
        ("bad_key", 401, 0),
        ("no_credit", 402, 0),
        ("rate_limited", 429, 0),
        ("overloaded", 503, 0),
        ("server_error", 500, 0),
        ("moderated", 422, 0),
        ("moderated_output", 422, 1),
        ("failed", 500, 1),
    ],
)
def test_fails_in_its_own_words(sandbox, documents, fault, status, paid):
    answer = generate(sandbox, prompt=f"a fox sim:{fault}")

    assert answer.status_code == status
    documents.check("together.json", "ErrorData", answer.json())
    assert answer.headers.get("Retry-After") == ("1" if fault == "rate_limited" else None)
    assert len(sandbox.purchases()) == paid


@pytest.mark.parametrize(("fault", "count"), [("no_image", 0), ("fewer_images", 2)])
def test_can_send_fewer_pictures_than_it_bills(sandbox, fault, count):
    answer = generate(sandbox, prompt=f"a fox sim:{fault}", n=3)

    assert len(answer.json()["data"]) == count
    assert len(sandbox.purchases()) == 3


def test_several_pictures_differ_and_a_seed_repeats_them(sandbox):
    sandbox.fault({"picture": "drawn"})
    fields = {"n": 2, "seed": 7, "width": 256, "height": 256}

    first, again = (generate(sandbox, **fields).json()["data"] for _ in range(2))

    assert first == again
    assert first[0]["b64_json"] != first[1]["b64_json"]
