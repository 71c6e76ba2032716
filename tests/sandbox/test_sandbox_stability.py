"""The sandbox speaks Stability AI's dialect."""

import base64
from io import BytesIO
from typing import Any

import pytest
from PIL import Image


def generate(
    sandbox, *, key: str = "k", accept: str = "application/json", to: str = "sd3", **fields: Any
) -> Any:
    headers = {"Accept": accept} | ({"Authorization": f"Bearer {key}"} if key else {})
    return sandbox.http.post(
        f"{sandbox.url}/stability/v2beta/stable-image/generate/{to}",
        data={"prompt": "a fox"} | fields,
        files={"none": ""},  # forces a form in parts
        headers=headers,
        timeout=20,
    )


def test_the_documented_request_is_answered_as_documented(sandbox, documents):
    (sample,) = documents.examples("stability")

    answer = generate(sandbox, **sample["body"])

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json; type=image/png"
    documents.check("stability.json", "ImageJson", answer.json())
    assert (answer.json()["finish_reason"], answer.json()["seed"]) == ("SUCCESS", 7)
    picture = Image.open(BytesIO(base64.b64decode(answer.json()["image"])))
    assert (picture.format, picture.size) == ("PNG", (1344, 768))
    (purchase,) = sandbox.purchases()
    assert purchase["model"] == "sd3.5-large"


@pytest.mark.parametrize("accept", ["image/*", "*/*"])
def test_the_picture_comes_as_it_is_by_default(sandbox, accept):
    answer = generate(sandbox, accept=accept, output_format="webp", seed="9")

    assert answer.headers["Content-Type"] == "image/webp"
    assert (answer.headers["finish-reason"], answer.headers["seed"]) == ("SUCCESS", "9")
    assert answer.headers["x-request-id"]
    assert Image.open(BytesIO(answer.content)).format == "WEBP"


@pytest.mark.parametrize(
    ("asked", "served"),
    [("sd3-large", "sd3.5-large"), ("sd3-medium", "sd3.5-medium"), ("sd3.5-flash", "sd3.5-flash")],
)
def test_older_models_are_served_by_those_that_followed(sandbox, asked, served):
    assert generate(sandbox, model=asked).ok

    assert [entry["model"] for entry in sandbox.purchases()] == [served]


@pytest.mark.parametrize("to", ["core", "ultra"])
def test_the_siblings_take_no_model(sandbox, to):
    assert generate(sandbox, to=to).status_code == 200
    assert generate(sandbox, to=to, model="sd3.5-large").status_code == 400


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": "sd1"}, "model"),
        ({"aspect_ratio": "4:3"}, "aspect_ratio"),
        ({"seed": "4294967295"}, "seed"),
        ({"output_format": "gif"}, "output_format"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 10_001}, "prompt"),
        ({"width": "1024"}, "width"),
        ({"mode": "image-to-image"}, "image"),
        ({"accept": "image/png"}, "accept"),
    ],
)
def test_a_wrong_field_is_named_and_costs_nothing(sandbox, documents, fields, named):
    answer = generate(sandbox, **fields)

    assert answer.status_code == 400
    documents.check("stability.json", "Error", answer.json())
    assert answer.json()["name"] == "bad_request"
    assert answer.json()["errors"][0].startswith(f"{named}: ")
    assert sandbox.purchases() == []


@pytest.mark.parametrize("how", ["json", "data"])
def test_takes_nothing_but_forms_in_parts(sandbox, documents, how):
    answer = sandbox.http.post(
        f"{sandbox.url}/stability/v2beta/stable-image/generate/sd3",
        headers={"Authorization": "Bearer k"},
        timeout=20,
        **{how: {"prompt": "a fox"}},
    )

    assert answer.status_code == 400
    documents.check("stability.json", "Error", answer.json())
    assert sandbox.purchases() == []


@pytest.mark.parametrize("key", ["", "sk-bad"])
def test_bad_keys_are_refused(sandbox, documents, key):
    answer = generate(sandbox, key=key)

    assert answer.status_code == 401
    documents.check("stability.json", "Error", answer.json())


@pytest.mark.parametrize(
    ("fault", "status", "name", "paid"),
    [
        ("bad_key", 401, "unauthorized", 0),
        ("no_credit", 402, "payment_required", 0),
        ("rate_limited", 429, "rate_limit_exceeded", 0),
        ("overloaded", 503, "service_unavailable", 0),
        ("server_error", 500, "internal_error", 0),
        ("moderated", 403, "content_moderation", 0),
        ("failed", 500, "internal_error", 0),
    ],
)
def test_fails_in_its_own_words(sandbox, documents, fault, status, name, paid):
    answer = generate(sandbox, prompt=f"a fox sim:{fault}")

    assert (answer.status_code, answer.json()["name"]) == (status, name)
    documents.check("stability.json", "Error", answer.json())
    assert "Retry-After" not in answer.headers
    assert len(sandbox.purchases()) == paid


def test_a_wait_is_told_when_somebody_asks_for_one(sandbox):
    answer = generate(sandbox, prompt="a fox sim:rate_limited:7")

    assert answer.headers["Retry-After"] == "7"


def test_what_is_not_to_be_shown_is_blurred_and_billed(sandbox, documents):
    told = generate(sandbox, prompt="a fox sim:moderated_output")
    shown = generate(sandbox, prompt="a fox sim:moderated_output", accept="image/*")

    documents.check("stability.json", "ImageJson", told.json())
    assert told.json()["finish_reason"] == "CONTENT_FILTERED"
    assert shown.headers["finish-reason"] == "CONTENT_FILTERED"
    picture = Image.open(BytesIO(shown.content))
    assert len(picture.getcolors() or []) == 1
    assert len(sandbox.purchases()) == 2


@pytest.mark.parametrize("accept", ["image/*", "application/json"])
def test_can_succeed_without_a_picture(sandbox, accept):
    answer = generate(sandbox, prompt="a fox sim:no_image", accept=accept)

    assert answer.status_code == 200
    assert answer.content == b"" or answer.json()["image"] == ""
    assert len(sandbox.purchases()) == 1


def test_a_balance_can_be_asked_for(sandbox):
    url = f"{sandbox.url}/stability/v1/user/balance"

    answer = sandbox.http.get(url, headers={"Authorization": "Bearer k"}, timeout=20)

    assert answer.json()["credits"] > 0
    assert sandbox.http.get(url, timeout=20).status_code == 401
