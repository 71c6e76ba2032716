"""The sandbox speaks OpenAI's dialect."""

import base64
import time
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

CURRENT = [
    "gpt-image-2",
    "gpt-image-2-2026-04-21",
    "gpt-image-2.5-sunburst",
    "gpt-image-2.5-sunburst-2026-09-08",
    "gpt-image-2.5-flare",
    "gpt-image-2.5-flare-2026-09-08",
    "gpt-image-2.6-sunburst",
    "gpt-image-2.6-flare",
    "gpt-image-1.5",
    "gpt-image-1-mini",
    "chatgpt-image-latest",
]


def open_pictures(answer: Any) -> list[Image.Image]:
    return [
        Image.open(BytesIO(base64.b64decode(item["b64_json"]))) for item in answer.json()["data"]
    ]


def test_the_documented_request_is_answered_as_documented(sandbox, documents):
    (sample,) = documents.examples("openai")

    answer = sandbox.generate(**sample["body"])

    assert answer.status_code == 200
    assert answer.headers["x-request-id"]
    documents.check("openai.json", "ImagesResponse", answer.json())
    assert [picture.size for picture in open_pictures(answer)] == [(1792, 1024)] * 2
    assert answer.json()["usage"]["output_tokens"] > 0


@pytest.mark.parametrize("model", CURRENT)
def test_every_current_model_answers(sandbox, model):
    assert sandbox.generate(model=model, size="1024x1024").status_code == 200


@pytest.mark.parametrize("model", ["dall-e-2", "dall-e-3", "gpt-image-1", "no-such-model"])
def test_retired_models_are_not_found(sandbox, documents, model):
    answer = sandbox.generate(model=model)

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    documents.check("openai.json", "ErrorResponse", answer.json())


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"response_format": "url"}, "response_format", "unknown_parameter"),
        ({"style": "vivid"}, "style", "unknown_parameter"),
        ({"colour": "red"}, "colour", "unknown_parameter"),
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": " "}, "prompt", "invalid_value"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"prompt": "x" * 32_001}, "prompt", "string_above_max_length"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 11}, "n", "integer_above_max_value"),
        ({"n": "2"}, "n", "invalid_type"),
        ({"n": True}, "n", "invalid_type"),
        ({"size": "1000x1000"}, "size", "invalid_value"),
        ({"size": "3840x1024"}, "size", "invalid_value"),
        ({"size": "3840x3840"}, "size", "invalid_value"),
        ({"size": "3856x1600"}, "size", "invalid_value"),
        ({"size": "256x256"}, "size", "invalid_value"),
        ({"size": "big"}, "size", "invalid_value"),
        ({"size": "1792x1024", "model": "gpt-image-1.5"}, "size", "invalid_value"),
        ({"quality": "hd"}, "quality", "invalid_value"),
        ({"quality": "max"}, "quality", "invalid_value"),
        ({"output_format": "gif"}, "output_format", "invalid_value"),
        ({"output_compression": 101}, "output_compression", "integer_above_max_value"),
        ({"output_compression": 50}, "output_compression", "invalid_value"),
        ({"background": "transparent", "output_format": "jpeg"}, "background", "invalid_value"),
        ({"moderation": "none"}, "moderation", "invalid_value"),
        ({"stream": True}, "stream", "unsupported_value"),
    ],
)
def test_a_wrong_field_is_named_and_costs_nothing(sandbox, documents, fields, param, code):
    answer = sandbox.generate(**fields)

    assert answer.status_code == 400
    documents.check("openai.json", "ErrorResponse", answer.json())
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["code"] == code
    assert answer.headers["x-request-id"]
    assert sandbox.purchases() == []


def test_newer_models_know_more_qualities(sandbox):
    answer = sandbox.generate(model="gpt-image-2.5-flare", quality="max")

    assert answer.json()["quality"] == "max"


def test_null_means_left_out(sandbox):
    assert sandbox.generate(n=None, size=None, response_format=None).status_code == 200


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_pictures_come_in_the_format_asked_for(sandbox, output_format):
    answer = sandbox.generate(output_format=output_format, size="1024x1536")

    (picture,) = open_pictures(answer)
    assert (picture.format, picture.size) == (output_format.upper(), (1024, 1536))
    assert answer.json()["output_format"] == output_format


def test_a_transparent_background_is_transparent(sandbox):
    sandbox.fault({"picture": "drawn"})

    (picture,) = open_pictures(sandbox.generate(background="transparent", size="1024x640"))

    assert picture.mode == "RGBA"
    assert picture.getpixel((0, 0))[3] == 0
    assert picture.getextrema()[3] == (0, 255)


def test_a_body_that_is_no_json_object_is_refused(sandbox, documents):
    answer = sandbox.http.post(
        f"{sandbox.url}/openai/v1/images/generations",
        data=b"[1, 2",
        headers={"Authorization": "Bearer k", "Content-Type": "application/json"},
        timeout=20,
    )

    assert answer.status_code == 400
    documents.check("openai.json", "ErrorResponse", answer.json())


@pytest.mark.parametrize("key", ["bad-key", "sk-invalid"])
def test_bad_keys_are_refused(sandbox, documents, key):
    answer = sandbox.generate(key=key)

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    documents.check("openai.json", "ErrorResponse", answer.json())


def test_models_are_listed(sandbox, documents):
    headers = {"Authorization": "Bearer k"}

    listed = sandbox.http.get(f"{sandbox.url}/openai/v1/models", headers=headers, timeout=20)
    shown = sandbox.http.get(
        f"{sandbox.url}/openai/v1/models/gpt-image-2", headers=headers, timeout=20
    )

    documents.check("openai.json", "ListModelsResponse", listed.json())
    documents.check("openai.json", "Model", shown.json())
    assert {model["id"] for model in listed.json()["data"]} == set(CURRENT)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/chat"), ("GET", "/v1/images/generations")]
)
def test_unknown_calls_get_the_error_shape(sandbox, documents, method, path):
    answer = sandbox.http.request(method, f"{sandbox.url}/openai{path}", timeout=20)

    assert answer.status_code == 404
    assert answer.headers["x-request-id"]
    documents.check("openai.json", "ErrorResponse", answer.json())


def test_more_pictures_of_higher_quality_take_longer(sandbox):
    def seconds(**fields: Any) -> float:
        started = time.monotonic()
        assert sandbox.generate(size="1024x1024", **fields).ok
        return time.monotonic() - started

    assert 0.1 < seconds() < seconds(n=10, quality="high")


def test_a_compatible_server_answers_as_documented(sandbox, documents):
    (sample,) = documents.examples("openai-compatible")

    answer = compatible(sandbox, sample["body"] | {"model": "gpt-image-2"})

    assert answer.status_code == 200
    documents.check("openai-compatible.json", "TolerantImagesResponse", answer.json())
    assert [picture.size for picture in open_pictures(answer)] == [(1792, 1024)] * 2
    assert {entry["provider"] for entry in sandbox.purchases()} == {"compatible"}


@pytest.mark.parametrize(
    "body",
    [
        {"model": "dall-e-3", "size": "1024x1792", "quality": "hd", "style": "natural"},
        {"model": "dall-e-2", "size": "256x256"},
        {"model": "gpt-image-2", "quality": "low"},
        {"model": "dall-e-3", "seed": 7, "negative_prompt": "blur"},
    ],
)
def test_a_compatible_server_still_has_what_openai_retired(sandbox, body):
    answer = compatible(sandbox, body | {"prompt": "a fox"})

    assert answer.status_code == 200
    (picture,) = open_pictures(answer)
    assert f"{picture.width}x{picture.height}" == body.get("size", "1024x1024")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "dall-e-3", "size": "512x512"}, "size"),
        ({"model": "dall-e-3", "quality": "medium"}, "quality"),
        ({"model": "dall-e-3", "response_format": "url"}, "response_format"),
        ({"model": "dall-e-3", "promt": "x"}, "promt"),
    ],
)
def test_a_compatible_server_refuses_what_it_does_not_know(sandbox, documents, body, param):
    answer = compatible(sandbox, body | {"prompt": "a fox"})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    documents.check("openai-compatible.json", "Error", answer.json())


def compatible(sandbox, body):
    return sandbox.http.post(
        f"{sandbox.url}/compatible/v1/images/generations",
        json=body,
        headers={"Authorization": "Bearer sk-test"},
        timeout=20,
    )
