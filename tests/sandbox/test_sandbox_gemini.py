"""The sandbox speaks Gemini's dialect."""

import base64
from io import BytesIO

import pytest
from PIL import Image

MODEL = "gemini-3.1-flash-image"
KEY = {"x-goog-api-key": "k"}


def generate(sandbox, prompt="a fox", *, model=MODEL, headers=KEY, config=None, **fields):
    body = {
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
        "generationConfig": {"responseModalities": ["IMAGE"]} | (config or {}),
    }
    return sandbox.http.post(
        f"{sandbox.url}/gemini/v1beta/models/{model}:generateContent",
        json=body | fields,
        headers=headers,
        timeout=20,
    )


def image_config(**fields):
    return {"imageConfig": fields}


def parts(answer):
    return answer.json()["candidates"][0]["content"]["parts"]


def picture(part):
    data = base64.b64decode(part["inlineData"]["data"])
    with Image.open(BytesIO(data)) as image:
        assert part["inlineData"]["mimeType"] == f"image/{str(image.format).lower()}"
        return image.size


def test_the_documented_request_is_answered_as_documented(sandbox, documents):
    sample = next(s for s in documents.examples("google-gemini") if s["name"] == "generateContent")

    answer = sandbox.http.post(
        f"{sandbox.url}/gemini/v1beta{sample['path']}",
        json=sample["body"],
        headers=KEY,
        timeout=20,
    )

    assert answer.status_code == 200
    documents.check("google-gemini.json", "GenerateContentResponse", answer.json())
    assert [picture(part) for part in parts(answer)] == [(1376, 768)]
    assert answer.json()["candidates"][0]["finishReason"] == "STOP"
    assert answer.json()["usageMetadata"]["candidatesTokenCount"] == 1120
    (bought,) = sandbox.purchases()
    assert bought["job_id"] == answer.json()["responseId"]


@pytest.mark.parametrize(
    ("ratio", "step", "size"),
    [
        ("1:1", "512", (512, 512)),
        ("1:1", "1K", (1024, 1024)),
        ("3:2", "2K", (2528, 1696)),
        ("21:9", "1K", (1584, 672)),
        ("1:8", "1K", (384, 3072)),
    ],
)
def test_shape_and_step_make_the_size(sandbox, ratio, step, size):
    answer = generate(sandbox, config=image_config(aspectRatio=ratio, imageSize=step))

    assert [picture(part) for part in parts(answer)] == [size]


def test_words_come_along_unless_only_a_picture_is_wanted(sandbox):
    both = generate(sandbox, config={"responseModalities": ["TEXT", "IMAGE"]})

    assert [set(part) for part in parts(both)] == [{"text"}, {"inlineData"}]


def test_a_thinking_model_shows_its_drafts(sandbox, documents):
    answer = generate(sandbox, model="gemini-3-pro-image")

    documents.check("google-gemini.json", "GenerateContentResponse", answer.json())
    assert [part.get("thought", False) for part in parts(answer)] == [True, True, False]


def test_the_older_model_has_one_size(sandbox):
    answer = generate(sandbox, model="gemini-2.5-flash-image")
    refused = generate(sandbox, model="gemini-2.5-flash-image", config=image_config(imageSize="1K"))

    assert [picture(part) for part in parts(answer)] == [(1024, 1024)]
    assert refused.status_code == 400


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"config": image_config(aspectRatio="16x9")}, "aspect_ratio"),
        ({"config": image_config(imageSize="1k")}, "image_size"),
        ({"config": image_config(size="1K")}, "size"),
        ({"config": {"candidateCount": 2}}, "candidateCount"),
        ({"config": {"responseModalities": ["PICTURE"]}}, "responseModalities"),
        ({"contents": []}, "contents"),
        ({"prompt": None, "n": 2}, "n"),
    ],
)
def test_a_wrong_field_is_named_and_costs_nothing(sandbox, documents, fields, named):
    answer = generate(sandbox, **fields)

    assert answer.status_code == 400
    documents.check("google-gemini.json", "GoogleErrorResponse", answer.json())
    assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
    assert named in answer.json()["error"]["message"]
    assert sandbox.purchases() == []


@pytest.mark.parametrize("model", ["imagen-4.0-generate-001", "gemini-1", "long-gone"])
def test_models_that_are_gone_are_not_found(sandbox, documents, model):
    answer = generate(sandbox, model=model)

    assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")
    documents.check("google-gemini.json", "GoogleErrorResponse", answer.json())


@pytest.mark.parametrize(("headers", "status"), [({}, 403), ({"x-goog-api-key": "bad"}, 400)])
def test_a_key_is_needed(sandbox, documents, headers, status):
    answer = generate(sandbox, headers=headers)

    assert answer.status_code == status
    documents.check("google-gemini.json", "GoogleErrorResponse", answer.json())


@pytest.mark.parametrize(
    ("fault", "status", "name", "paid"),
    [
        ("rate_limited", 429, "RESOURCE_EXHAUSTED", 0),
        ("no_credit", 402, "RESOURCE_EXHAUSTED", 0),
        ("bad_key", 400, "INVALID_ARGUMENT", 0),
        ("overloaded", 503, "UNAVAILABLE", 0),
        ("server_error", 500, "INTERNAL", 0),
    ],
)
def test_it_fails_in_its_own_words(sandbox, documents, fault, status, name, paid):
    answer = generate(sandbox, f"a fox sim:{fault}")

    assert (answer.status_code, answer.json()["error"]["status"]) == (status, name)
    documents.check("google-gemini.json", "GoogleErrorResponse", answer.json())
    assert len(sandbox.purchases()) == paid


def test_the_wait_is_in_the_body(sandbox):
    answer = generate(sandbox, "a fox sim:rate_limited:34")

    assert answer.json()["error"]["details"][0]["retryDelay"] == "34s"
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize(
    ("fault", "reason", "paid"),
    [("moderated_output", "IMAGE_SAFETY", 1), ("failed", "NO_IMAGE", 1)],
)
def test_a_success_may_be_none(sandbox, documents, fault, reason, paid):
    answer = generate(sandbox, f"a fox sim:{fault}")

    assert answer.status_code == 200
    documents.check("google-gemini.json", "GenerateContentResponse", answer.json())
    assert answer.json()["candidates"] == [{"index": 0, "finishReason": reason}]
    assert len(sandbox.purchases()) == paid


def test_a_blocked_prompt_costs_nothing(sandbox, documents):
    answer = generate(sandbox, "a fox sim:moderated")

    assert answer.status_code == 200
    documents.check("google-gemini.json", "GenerateContentResponse", answer.json())
    assert answer.json()["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}
    assert "candidates" not in answer.json()
    assert sandbox.purchases() == []


def test_the_model_may_talk_or_say_nothing(sandbox):
    assert [set(part) for part in parts(generate(sandbox, "a fox sim:text_only"))] == [{"text"}]
    assert parts(generate(sandbox, "a fox sim:no_image")) == []


def test_models_are_listed(sandbox, documents):
    base = f"{sandbox.url}/gemini/v1beta/models"

    listed = sandbox.http.get(base, headers=KEY, timeout=20).json()
    shown = sandbox.http.get(f"{base}/{MODEL}", headers=KEY, timeout=20).json()

    documents.check("google-gemini.json", "ListModelsResponse", listed)
    assert shown in listed["models"]
    assert sandbox.http.get(f"{base}/gone", headers=KEY, timeout=20).status_code == 404


def test_the_same_seed_gives_the_same_picture(sandbox):
    sandbox.fault({"picture": "drawn"})
    small = image_config(imageSize="512")

    first, again, other = (
        parts(generate(sandbox, config=small | {"seed": seed})) for seed in (1, 1, 2)
    )

    assert first == again != other
