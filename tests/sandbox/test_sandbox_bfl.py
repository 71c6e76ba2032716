"""The sandbox speaks Black Forest Labs' dialect."""

from io import BytesIO

import pytest
from PIL import Image

SUBMITS = {
    "flux-pro-1.1": ({"prompt": "a fox", "width": 1344, "height": 768}, (1344, 768), "JPEG"),
    "flux-dev": ({"prompt": "a fox", "steps": 20, "guidance": 3}, (1024, 768), "JPEG"),
    "flux-pro-1.1-ultra": ({"prompt": "a fox", "aspect_ratio": "1:1"}, (2048, 2048), "JPEG"),
    "flux-kontext-pro": ({"prompt": "a fox", "aspect_ratio": "3:2"}, (1248, 832), "PNG"),
    "flux-kontext-max": ({"prompt": "a fox", "seed": 1}, (1024, 1024), "PNG"),
    "flux-2-max": ({"prompt": "a fox", "output_format": "webp"}, (1024, 1024), "WEBP"),
    "flux-2-klein-9b": ({"prompt": "a fox", "width": 64, "height": 64}, (64, 64), "JPEG"),
    "flux-2-klein-4b": ({"prompt": "a fox", "width": 80, "height": 64}, (80, 64), "JPEG"),
    "flux-2-pro-preview": ({"prompt": "a fox", "width": 512, "height": 64}, (512, 64), "JPEG"),
    "flux-2-pro": ({"prompt": "a fox", "output_format": None}, (1024, 1024), "JPEG"),
    "flux-2-flex": ({"prompt": "a fox", "steps": 50, "guidance": 10}, (1024, 1024), "JPEG"),
}


def test_every_documented_model_is_served(documents):
    paths = documents.paths("black-forest-labs.json")

    assert {path.removeprefix("/v1/") for path in paths} - {"credits", "get_result"} == set(SUBMITS)


@pytest.mark.parametrize("model", SUBMITS)
def test_a_job_goes_from_submit_to_picture_as_documented(sandbox, documents, model):
    body, size, picture_format = SUBMITS[model]
    sandbox.fault({"delay": 0.05})

    accepted = sandbox.submit(model, **body)
    documents.check("black-forest-labs.json", "AsyncResponse", accepted.json())
    states = []
    while not states or states[-1]["status"] == "Pending":
        states.append(sandbox.poll(accepted.json()["polling_url"]).json())
    picture = sandbox.http.get(states[-1]["result"]["sample"], timeout=20)

    for state in states:
        documents.check("black-forest-labs.json", "ResultResponse", state)
    assert states[-1]["result"]["prompt"] == "a fox"
    assert states[-1]["cost"] == accepted.json()["cost"] > 0
    image = Image.open(BytesIO(picture.content))
    assert (image.size, image.format) == (size, picture_format)
    assert picture.headers["Content-Type"] == f"image/{picture_format.lower()}"


def test_the_documented_request_is_accepted(sandbox, documents):
    (sample,) = documents.examples("black-forest-labs")

    assert sandbox.submit(sample["path"].removeprefix("/v1/"), **sample["body"]).status_code == 200


def test_progress_rises_while_the_job_is_pending(sandbox):
    sandbox.fault({"delay": 0.3})
    url = sandbox.submit().json()["polling_url"]

    seen = []
    while (state := sandbox.poll(url).json())["status"] == "Pending":
        seen.append(state["progress"])

    assert seen == sorted(seen)
    assert seen[0] < 0.5 < seen[-1] < 1


def test_a_seed_is_kept_and_a_missing_one_chosen(sandbox):
    assert sandbox.result(seed=42)["result"]["seed"] == 42
    assert sandbox.result()["result"]["seed"] != sandbox.result()["result"]["seed"]


def test_a_webhook_answer_has_the_webhook_shape(sandbox, documents):
    answer = sandbox.submit(webhook_url="https://gateway.example/hooks/bfl").json()

    documents.check("black-forest-labs.json", "AsyncWebhookResponse", answer)
    assert "polling_url" not in answer
    assert (
        sandbox.poll(f"{sandbox.url}/bfl/v1/get_result?id={answer['id']}").json()["result"] is None
    )


@pytest.mark.parametrize(
    ("model", "body", "field"),
    [
        ("flux-pro-1.1", {"prompt": "x", "width": 250}, "width"),
        ("flux-pro-1.1", {"prompt": "x", "height": 1472}, "height"),
        ("flux-pro-1.1", {"prompt": "x", "width": 1000}, "width"),
        ("flux-pro-1.1", {"prompt": "x", "safety_tolerance": 7}, "safety_tolerance"),
        ("flux-pro-1.1", {"prompt": "x", "output_format": "gif"}, "output_format"),
        ("flux-pro-1.1", {"prompt": "x", "seed": "soon"}, "seed"),
        ("flux-dev", {"prompt": "x", "steps": 51}, "steps"),
        ("flux-pro-1.1-ultra", {"prompt": "x", "aspect_ratio": "30:9"}, "aspect_ratio"),
        (
            "flux-pro-1.1-ultra",
            {"prompt": "x", "image_prompt_strength": 2},
            "image_prompt_strength",
        ),
        ("flux-kontext-pro", {"prompt": "x", "aspect_ratio": "wide"}, "aspect_ratio"),
        ("flux-2-pro", {"prompt": "x", "width": 63}, "width"),
        ("flux-2-pro", {"prompt": "x", "width": 1000}, "width"),
        ("flux-2-pro", {"prompt": "x", "width": 4096, "height": 2048}, "width"),
        ("flux-2-pro", {"prompt": "x", "safety_tolerance": 6}, "safety_tolerance"),
        ("flux-2-flex", {"prompt": "x", "guidance": 1}, "guidance"),
        ("flux-2-pro", {"seed": 1, "prompt": None}, "prompt"),
    ],
)
def test_a_wrong_field_is_named_and_costs_nothing(sandbox, documents, model, body, field):
    answer = sandbox.submit(model, **body)

    assert answer.status_code == 422
    documents.check("black-forest-labs.json", "HTTPValidationError", answer.json())
    assert [error["loc"] for error in answer.json()["detail"]] == [["body", field]]
    assert sandbox.purchases() == []


def test_keys_are_asked_for_everywhere_but_at_the_picture(sandbox):
    accepted = sandbox.submit().json()

    assert sandbox.submit(key="").status_code == 403
    assert sandbox.submit(key="a-bad-key").status_code == 401
    assert sandbox.poll(accepted["polling_url"], key="").status_code == 403
    assert sandbox.poll(accepted["polling_url"], key="invalid").status_code == 401
    assert sandbox.picture().status_code == 200


def test_a_key_sent_to_the_picture_is_noticed(sandbox):
    sample = sandbox.result()["result"]["sample"]

    sandbox.http.get(sample, timeout=20)
    sandbox.poll(sample)

    assert sandbox.calls("bfl")["downloads"] == 2
    assert sandbox.calls("bfl")["downloads_with_key"] == 1


def test_unknown_ids_are_not_found(sandbox, documents):
    state = sandbox.poll(f"{sandbox.url}/bfl/v1/get_result?id=nobody").json()

    documents.check("black-forest-labs.json", "ResultResponse", state)
    assert state["status"] == "Task not found"
    assert sandbox.poll(f"{sandbox.url}/bfl/v1/get_result").status_code == 422


def test_a_picture_url_cannot_be_guessed(sandbox):
    sample = sandbox.result()["result"]["sample"]

    assert sandbox.http.get(sample.split("?")[0], timeout=20).status_code == 404


def test_credits_are_shown(sandbox, documents):
    documents.check(
        "black-forest-labs.json",
        "CreditsResponse",
        sandbox.poll(f"{sandbox.url}/bfl/v1/credits").json(),
    )
