"""The sandbox speaks the dialect of Hugging Face's own inference."""

from io import BytesIO
from typing import Any

import pytest
from PIL import Image

MODEL = "black-forest-labs/FLUX.1-schnell"


def generate(
    sandbox,
    *,
    model: str = MODEL,
    key: str = "hf_k",
    accept: str = "image/png",
    inputs: Any = "a fox",
    **parameters: Any,
) -> Any:
    headers = {"Accept": accept} | ({"Authorization": f"Bearer {key}"} if key else {})
    return sandbox.http.post(
        f"{sandbox.url}/huggingface/models/{model}",
        json={"inputs": inputs, "parameters": parameters},
        headers=headers,
        timeout=20,
    )


def test_the_documented_request_is_answered_as_documented(sandbox, documents):
    (sample,) = documents.examples("huggingface")

    answer = sandbox.http.post(
        f"{sandbox.url}/huggingface{sample['path']}",
        json=sample["body"],
        headers={"Authorization": "Bearer hf_k"},
        timeout=20,
    )

    assert answer.status_code == 200
    assert answer.headers["x-request-id"]
    assert answer.headers["Content-Type"] == "image/jpeg"
    picture = Image.open(BytesIO(answer.content))
    assert (picture.format, picture.size) == ("JPEG", (1024, 768))
    assert len(sandbox.purchases()) == 1


def test_the_format_is_hinted_at_by_a_header(sandbox):
    answer = generate(sandbox, accept="image/png", width=512, height=256)

    picture = Image.open(BytesIO(answer.content))
    assert (picture.format, picture.size) == ("PNG", (512, 256))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"width": 48}, "`parameters.width`"),
        ({"height": "high"}, "`parameters.height`"),
        ({"size": "512x512"}, "`parameters.size`"),
        ({"inputs": 5}, "`inputs`"),
    ],
)
def test_a_wrong_field_is_named_and_costs_nothing(sandbox, documents, fields, named):
    answer = generate(sandbox, **fields)

    assert answer.status_code == 400
    documents.check("huggingface.json", "Error", answer.json())
    assert named in answer.json()["error"][0]
    assert sandbox.purchases() == []


def test_a_model_that_is_not_served_is_not_found(sandbox, documents):
    answer = generate(sandbox, model="ada/own-model")

    assert answer.status_code == 404
    documents.check("huggingface.json", "Error", answer.json())


@pytest.mark.parametrize("key", ["", "hf_bad"])
def test_bad_keys_are_refused(sandbox, documents, key):
    answer = generate(sandbox, key=key)

    assert answer.status_code == 401
    documents.check("huggingface.json", "Error", answer.json())


@pytest.mark.parametrize(
    ("fault", "status", "paid"),
    [
        ("bad_key", 401, 0),
        ("no_credit", 402, 0),
        ("rate_limited", 429, 0),
        ("overloaded", 503, 0),
        ("server_error", 500, 0),
        ("failed", 500, 1),
        ("no_image", 200, 1),
    ],
)
def test_fails_in_its_own_words(sandbox, documents, fault, status, paid):
    answer = generate(sandbox, inputs=f"a fox sim:{fault}")

    assert answer.status_code == status
    documents.check("huggingface.json", "Error", answer.json())
    assert answer.headers.get("Retry-After") == ("1" if fault == "rate_limited" else None)
    assert len(sandbox.purchases()) == paid


@pytest.mark.parametrize(("retry_after", "expected"), [(20, 20.0), (None, None)])
def test_a_model_that_is_being_loaded_says_for_how_long(sandbox, retry_after, expected):
    sandbox.fault({"fault": "overloaded", "retry_after": retry_after})

    assert generate(sandbox).json().get("estimated_time") == expected
