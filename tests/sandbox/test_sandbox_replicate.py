"""The sandbox speaks Replicate's dialect."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from ops.sandbox.dialects.replicate import SIZES, FluxSchnell, Prediction

PATH = "/models/black-forest-labs/flux-schnell/predictions"
RUNNING = ("starting", "processing")


def call(sandbox, method: str, path: str, *, key: str = "k", **options: Any) -> Any:
    headers = {"Authorization": f"Bearer {key}"} | options.pop("headers", {})
    url = path if path.startswith("http") else f"{sandbox.url}/replicate/v1{path}"
    return sandbox.http.request(method, url, headers=headers, timeout=20, **options)


def submit(sandbox, *, key: str = "k", headers: Any = None, path: str = PATH, **fields: Any) -> Any:
    told = {"prompt": "a fox", "output_format": "png"} | fields
    return call(sandbox, "POST", path, key=key, headers=headers or {}, json={"input": told})


def end(sandbox, **fields: Any) -> dict[str, Any]:
    url = submit(sandbox, **fields).json()["urls"]["get"]
    return sandbox.until(
        lambda: call(sandbox, "GET", url).json(), lambda body: body["status"] not in RUNNING
    )


def check(documents, answer: Any) -> None:
    documents.check("replicate.json", "schemas_prediction_response", answer.json())


def test_the_documented_request_is_answered_as_documented(sandbox, documents):
    whole, alone = documents.examples("replicate")
    sandbox.fault({"delay": 0.05})

    accepted = call(sandbox, "POST", PATH, json=whole["body"], headers=whole["headers"])
    answers = [accepted]
    while answers[-1].json()["status"] in RUNNING:
        answers.append(call(sandbox, "GET", accepted.json()["urls"]["get"]))

    assert accepted.status_code == 201
    for answer in answers:
        check(documents, answer)
    links = answers[-1].json()["output"]
    documents.check("replicate.json", "flux_schnell_output", links)
    assert len(links) == len(sandbox.purchases()) == 2
    for link in links:
        picture = sandbox.http.get(link, timeout=20)
        image = Image.open(BytesIO(picture.content))
        assert (image.size, image.format) == ((1344, 768), "PNG")
    assert submit(sandbox, **alone["body"]).status_code == 201


@pytest.mark.parametrize("ratio", SIZES)
def test_every_documented_shape_is_drawn(sandbox, ratio):
    links = end(sandbox, aspect_ratio=ratio, megapixels="0.25")["output"]

    image = Image.open(BytesIO(sandbox.http.get(links[0], timeout=20).content))
    assert image.size == tuple(side // 2 for side in SIZES[ratio])


def test_every_documented_shape_is_known(documents):
    fields = documents.schemas("replicate.json")["flux_schnell_input"]["properties"]

    assert set(fields["aspect_ratio"]["enum"]) == set(SIZES)
    assert set(fields) == set(FluxSchnell.model_fields)


@pytest.mark.parametrize("name", ["webp", "jpg", "png"])
def test_pictures_come_in_the_format_asked_for(sandbox, name):
    (link,) = end(sandbox, output_format=name)["output"]

    picture = sandbox.http.get(link, timeout=20)
    assert picture.headers["Content-Type"] == f"image/{name.replace('jpg', 'jpeg')}"
    assert link.endswith(f".{name}")


@pytest.mark.parametrize(
    ("delay", "prefer", "code", "over"),
    [
        (0, "", 201, True),  # done before it is answered
        (0.2, "wait", 201, True),
        (0.2, "wait=5", 201, True),
        (5, "wait=1", 202, False),
        (5, "respond-async", 201, False),
    ],
)
def test_an_answer_waits_when_it_is_preferred(sandbox, documents, delay, prefer, code, over):
    sandbox.fault({"delay": delay})

    answer = submit(sandbox, headers={"Prefer": prefer})

    check(documents, answer)
    assert answer.status_code == code
    assert (answer.json()["status"] == "succeeded") == over


@pytest.mark.parametrize(
    ("fault", "status", "word", "paid"),
    [
        ("moderated", "failed", "NSFW", 0),
        ("moderated_output", "failed", "(E005)", 1),
        ("failed", "failed", "interrupted", 1),
        ("aborted", "aborted", None, 0),
    ],
)
def test_a_prediction_ends_badly(sandbox, documents, fault, status, word, paid):
    answer = submit(sandbox, prompt=f"a fox sim:{fault}")
    check(documents, answer)
    url = answer.json()["urls"]["get"]
    body = sandbox.until(
        lambda: call(sandbox, "GET", url).json(), lambda body: body["status"] not in RUNNING
    )

    documents.check("replicate.json", "schemas_prediction_response", body)
    assert (body["status"], body["output"]) == (status, None)
    assert word in body["error"] if word else body["error"] is None
    assert len(sandbox.purchases()) == paid
    # What is refused for its prompt is refused in the answer to the submit.
    assert (answer.json()["status"] == status) == (paid == 0)


def test_a_prediction_is_forgotten(sandbox, documents):
    body = end(sandbox, prompt="a fox sim:data_removed")

    documents.check("replicate.json", "schemas_prediction_response", body)
    assert (body["status"], body["output"], body["data_removed"]) == ("succeeded", None, True)
    lost = submit(sandbox, prompt="sim:job_lost").json()["urls"]["get"]
    assert call(sandbox, "GET", lost).status_code == 404


def test_a_prediction_can_be_cancelled_till_it_is_over(sandbox, documents):
    running = submit(sandbox, prompt="sim:never_ready").json()["urls"]
    done = end(sandbox)["urls"]

    stopped = call(sandbox, "POST", running["cancel"])
    again = call(sandbox, "POST", running["cancel"])
    late = call(sandbox, "POST", done["cancel"])

    for answer in (stopped, again, late):
        check(documents, answer)
    assert [answer.json()["status"] for answer in (stopped, again)] == ["canceled"] * 2
    assert late.json()["status"] == "succeeded"
    assert call(sandbox, "GET", running["get"]).json()["status"] == "canceled"
    assert call(sandbox, "POST", "/predictions/none/cancel").status_code == 404


def test_a_prediction_ends_after_the_time_it_was_given():
    now = time.monotonic()
    prediction = Prediction(
        id="x", model="m", inputs=FluxSchnell(prompt="a fox"), told={}, seed=1,
        started=now, ready=now + 10, ends=now + 5, created=datetime.now(UTC),
    )  # fmt: skip

    assert prediction.status({}, now + 4.9) == "processing"
    assert prediction.status({}, now + 5.1) == "canceled"
    assert replace(prediction, ready=now + 4).status({}, now + 5.1) == "succeeded"


@pytest.mark.parametrize(
    ("fields", "headers", "named"),
    [
        ({"prompt": None}, {}, "input.prompt"),
        ({"output_format": "tiff"}, {}, "input.output_format"),
        ({"aspect_ratio": "7:5"}, {}, "input.aspect_ratio"),
        ({"num_outputs": 5}, {}, "input.num_outputs"),
        ({"megapixels": 1}, {}, "input.megapixels"),
        ({"size": "1024x1024"}, {}, "input.size"),
        ({}, {"Cancel-After": "4s"}, "Cancel-After"),
        ({}, {"Cancel-After": "soon"}, "Cancel-After"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(sandbox, documents, fields, headers, named):
    answer = submit(sandbox, headers=headers, **fields)

    assert answer.status_code == 422
    documents.check("replicate.json", "problem", answer.json())
    assert named in answer.json()["detail"]
    assert sandbox.purchases() == []


@pytest.mark.parametrize(
    ("fault", "status", "title"),
    [
        ("rate_limited", 429, "Too many requests"),
        ("no_credit", 402, "Insufficient credit"),
        ("bad_key", 401, "Unauthenticated"),
        ("overloaded", 503, "Service unavailable"),
        ("server_error", 500, "Internal server error"),
    ],
)
def test_a_call_is_refused_in_its_own_words(sandbox, documents, fault, status, title):
    answer = submit(sandbox, prompt=f"sim:{fault}")

    documents.check("replicate.json", "problem", answer.json())
    assert (answer.status_code, answer.json()["title"]) == (status, title)
    assert sandbox.purchases() == []


def test_the_wait_is_told_in_words(sandbox):
    usual = submit(sandbox, prompt="sim:rate_limited")
    asked = submit(sandbox, prompt="sim:rate_limited:30")

    assert usual.json()["detail"].endswith("resets in ~1s.")
    assert "Retry-After" not in usual.headers
    assert asked.headers["Retry-After"] == "30"


def test_every_call_needs_a_key(sandbox):
    own = submit(sandbox).json()["urls"]

    assert submit(sandbox, key="bad").status_code == 401
    assert call(sandbox, "GET", own["get"], key="").status_code == 401
    assert call(sandbox, "POST", own["cancel"], key="").status_code == 401


def test_what_nobody_knows_is_not_found(sandbox):
    assert submit(sandbox, path="/models/somebody/else/predictions").status_code == 404
    assert call(sandbox, "GET", "/predictions/none").status_code == 404
    link = end(sandbox)["output"][0]
    assert sandbox.http.get(f"{link.rpartition('/')[0]}/else.png", timeout=20).status_code == 404


def test_addresses_can_lead_astray(sandbox):
    foreign = "http://169.254.169.254/"

    told = submit(sandbox, prompt="sim:foreign_polling_url").json()
    assert told["urls"]["get"].startswith(foreign)
    assert end(sandbox, prompt="sim:foreign_image_url")["output"][0].startswith(foreign)
    redirect = end(sandbox, prompt="sim:redirect_image")["output"][0]
    answer = sandbox.http.get(redirect, timeout=20, allow_redirects=False)
    assert answer.headers["Location"].startswith(foreign)
    expired = end(sandbox, prompt="sim:expired_url")["output"][0]
    assert sandbox.http.get(expired, timeout=20).status_code == 403
