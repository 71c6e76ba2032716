"""The sandbox speaks fal's dialect."""

import base64
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from ops.sandbox.dialects.fal import SIZES, FluxSchnell

MODEL = "fal-ai/flux/schnell"
SQUARE = {"width": 256, "height": 256}


def call(sandbox, method: str, url: str, *, key: str = "k", **options: Any) -> Any:
    url = url if url.startswith("http") else f"{sandbox.url}/fal/{url}"
    headers = {"Authorization": f"Key {key}"} if key else {}
    return sandbox.http.request(method, url, headers=headers, timeout=20, **options)


def submit(sandbox, *, key: str = "k", model: str = MODEL, **fields: Any) -> Any:
    body = {"prompt": "a fox", "image_size": SQUARE, "output_format": "png"} | fields
    return call(sandbox, "POST", model, key=key, json=body)


def end(sandbox, **fields: Any) -> tuple[dict[str, Any], Any]:
    """The last status and the answer at the place of the result."""
    told = submit(sandbox, **fields).json()
    status = sandbox.until(
        lambda: call(sandbox, "GET", told["status_url"]).json(),
        lambda body: body["status"] == "COMPLETED",
    )
    return status, call(sandbox, "GET", told["response_url"])


def test_the_documented_request_is_answered_as_documented(sandbox, documents):
    (sample,) = documents.examples("fal")
    sandbox.fault({"delay": 0.05})

    accepted = call(sandbox, "POST", sample["path"][1:], json=sample["body"])
    told = accepted.json()
    answers = []
    while not answers or answers[-1].json()["status"] != "COMPLETED":
        answers.append(call(sandbox, "GET", told["status_url"]))
    result = call(sandbox, "GET", told["response_url"])

    documents.check("fal.json", "SubmitResponse", told)
    assert accepted.headers["x-fal-request-id"] == told["request_id"]
    for answer in answers:
        documents.check("fal.json", "QueueStatus", answer.json())
        assert answer.status_code == (200 if answer is answers[-1] else 202)
    documents.check("fal.json", "FluxSchnellOutput", result.json())
    assert result.json()["has_nsfw_concepts"] == [False, False]
    assert len(sandbox.purchases()) == 2
    for item in result.json()["images"]:
        picture = sandbox.http.get(item["url"], timeout=20)
        image = Image.open(BytesIO(picture.content))
        assert (image.size, image.format) == ((1792, 1024), "PNG")


def test_addresses_of_requests_have_two_segments_of_the_model(sandbox):
    told = submit(sandbox).json()

    own = f"{sandbox.url}/fal/fal-ai/flux/requests/{told['request_id']}"
    assert (told["response_url"], told["status_url"]) == (own, f"{own}/status")
    assert told["cancel_url"] == f"{own}/cancel"


def test_every_documented_field_is_known(documents):
    fields = documents.schemas("fal.json")["FluxSchnellInput"]["properties"]

    assert set(fields) == set(FluxSchnell.model_fields)
    assert set(fields["image_size"]["anyOf"][0]["enum"]) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_have_names(sandbox, name):
    _, result = end(sandbox, image_size=name)

    (item,) = result.json()["images"]
    image = Image.open(BytesIO(sandbox.http.get(item["url"], timeout=20).content))
    assert image.size == (item["width"], item["height"]) == SIZES[name]


def test_pictures_can_come_inside_the_answer(sandbox, documents):
    _, result = end(sandbox, sync_mode=True, output_format="jpeg")

    documents.check("fal.json", "FluxSchnellOutput", result.json())
    head, _, data = result.json()["images"][0]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(BytesIO(base64.b64decode(data))).size == (256, 256)


@pytest.mark.parametrize(
    ("fault", "code", "kind"),
    [("moderated", 422, "content_policy_violation"), ("failed", 500, "internal_server_error")],
)
def test_a_request_completes_that_has_failed(sandbox, documents, fault, code, kind):
    status, result = end(sandbox, prompt=f"sim:{fault}")

    documents.check("fal.json", "QueueStatus", status)
    documents.check("fal.json", "ModelError", result.json())
    assert status["error_type"] == result.json()["detail"][0]["type"] == kind
    assert result.status_code == code
    assert sandbox.purchases() == []


@pytest.mark.parametrize(
    ("fault", "flags"),
    [("moderated_output", [True, True]), ("fewer_images", [True, False]), ("no_image", [])],
)
def test_pictures_can_be_missing_from_a_success(sandbox, documents, fault, flags):
    _, result = end(sandbox, prompt=f"sim:{fault}", num_images=2)

    documents.check("fal.json", "FluxSchnellOutput", result.json())
    assert result.status_code == 200
    assert result.json()["has_nsfw_concepts"] == flags
    assert len(result.json()["images"]) == len(flags)
    assert len(sandbox.purchases()) == 2


def test_a_request_can_go_on_for_ever(sandbox, documents):
    told = submit(sandbox, prompt="sim:never_ready").json()

    status = sandbox.until(
        lambda: call(sandbox, "GET", told["status_url"]).json(),
        lambda body: body["status"] != "IN_QUEUE",
    )
    early = call(sandbox, "GET", told["response_url"])

    assert status["status"] == "IN_PROGRESS"
    documents.check("fal.json", "RequestError", early.json())
    assert (early.status_code, early.json()["detail"]) == (400, "Request is still in progress")


def test_a_request_is_cancelled_as_far_as_that_is_possible(sandbox, documents):
    sandbox.fault({"delay": 30})
    queued = submit(sandbox).json()
    sandbox.fault({"delay": 0})
    running = submit(sandbox, prompt="sim:never_ready").json()
    done = submit(sandbox).json()
    unknown = done["cancel_url"].replace(done["request_id"], "none")

    urls = [queued["cancel_url"], running["cancel_url"], done["cancel_url"], unknown]
    answers = [call(sandbox, "PUT", url) for url in urls]

    for answer in answers:
        documents.check("fal.json", "CancelResponse", answer.json())
    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [
        (200, "OK"),
        (202, "CANCELLATION_REQUESTED"),
        (400, "ALREADY_COMPLETED"),
        (404, "NOT_FOUND"),
    ]
    result = call(sandbox, "GET", queued["response_url"])
    documents.check("fal.json", "RequestError", result.json())
    assert (result.status_code, result.json()["error_type"]) == (499, "client_cancelled")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": None}, "prompt"),
        ({"output_format": "webp"}, "output_format"),
        ({"image_size": {"width": 48, "height": 48}}, "image_size"),
        ({"image_size": "huge"}, "image_size"),
        ({"num_images": 5}, "num_images"),
        ({"num_inference_steps": 13}, "num_inference_steps"),
        ({"n": 1}, "n"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(sandbox, documents, fields, named):
    answer = submit(sandbox, **fields)

    assert answer.status_code == 422
    documents.check("fal.json", "ModelError", answer.json())
    assert answer.json()["detail"][0]["loc"][:2] == ["body", named]
    assert sandbox.purchases() == []


@pytest.mark.parametrize(
    ("fault", "status", "word"),
    [
        ("rate_limited", 429, "concurrent"),
        ("no_credit", 403, "User is locked. Reason: Exhausted balance."),
        ("bad_key", 401, "key"),
        ("overloaded", 503, "unavailable"),
        ("server_error", 500, "Internal"),
    ],
)
def test_a_call_is_refused_in_its_own_words(sandbox, documents, fault, status, word):
    answer = submit(sandbox, prompt=f"sim:{fault}")

    documents.check("fal.json", "RequestError", answer.json())
    assert answer.status_code == status
    assert word in answer.json()["detail"]
    assert sandbox.purchases() == []


def test_every_call_needs_a_key_of_the_right_kind(sandbox):
    told = submit(sandbox).json()

    assert submit(sandbox, key="bad").status_code == 401
    for method, url in (("GET", "status_url"), ("GET", "response_url"), ("PUT", "cancel_url")):
        assert call(sandbox, method, told[url], key="").status_code == 401
    bearer = sandbox.http.get(told["status_url"], headers={"Authorization": "Bearer k"}, timeout=20)
    assert bearer.status_code == 401


def test_what_nobody_knows_is_not_found(sandbox):
    assert submit(sandbox, model="fal-ai/unheard-of").status_code == 404
    assert call(sandbox, "GET", "fal-ai/flux/requests/none/status").status_code == 404
    assert call(sandbox, "GET", "fal-ai/flux/requests/none").status_code == 404
    lost = submit(sandbox, prompt="sim:job_lost").json()
    assert call(sandbox, "GET", lost["status_url"]).status_code == 404
    assert call(sandbox, "GET", lost["response_url"]).status_code == 404
    assert call(sandbox, "GET", "files/none/x/0.png").status_code == 404


def test_addresses_can_lead_astray(sandbox):
    foreign = "http://169.254.169.254/"

    def link(fault: str) -> str:
        return str(end(sandbox, prompt=f"sim:{fault}")[1].json()["images"][0]["url"])

    told = submit(sandbox, prompt="sim:foreign_polling_url").json()
    assert all(told[name].startswith(foreign) for name in ("status_url", "response_url"))
    assert link("foreign_image_url").startswith(foreign)
    answer = sandbox.http.get(link("redirect_image"), timeout=20, allow_redirects=False)
    assert answer.headers["Location"].startswith(foreign)
    assert sandbox.http.get(link("expired_url"), timeout=20).status_code == 404
