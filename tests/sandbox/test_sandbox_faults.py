"""Each fault does what the sandbox's page says, and costs what it says."""

import base64
import time
import warnings
from io import BytesIO
from pathlib import Path

import pytest
import requests
from PIL import Image

from ops.sandbox.faults import FAULTS

FOX = {"prompt": "a fox", "seed": 1}


def billed(sandbox) -> int:
    return len(sandbox.purchases())


@pytest.mark.parametrize(
    ("fault", "status", "kind", "code", "paid"),
    [
        ("rate_limited", 429, "requests", "rate_limit_exceeded", 0),
        ("no_credit", 429, "insufficient_quota", "insufficient_quota", 0),
        ("bad_key", 401, "invalid_request_error", "invalid_api_key", 0),
        ("overloaded", 503, "service_unavailable_error", "server_is_overloaded", 0),
        ("server_error", 500, "server_error", None, 0),
        ("moderated", 400, "image_generation_user_error", "moderation_blocked", 0),
        ("moderated_output", 400, "image_generation_user_error", "moderation_blocked", 1),
        ("failed", 500, "server_error", None, 1),
    ],
)
def test_openai_fails_in_its_own_words(sandbox, documents, fault, status, kind, code, paid):
    answer = sandbox.generate(prompt=f"a fox sim:{fault}")

    assert answer.status_code == status
    documents.check("openai.json", "ErrorResponse", answer.json())
    assert (answer.json()["error"]["type"], answer.json()["error"]["code"]) == (kind, code)
    assert billed(sandbox) == paid


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        ("rate_limited", 429, "rate_limit_exceeded"),
        ("no_credit", 402, "insufficient_credits"),
        ("bad_key", 401, "invalid_api_key"),
        ("overloaded", 503, "service_unavailable"),
        ("server_error", 500, "internal_server_error"),
    ],
)
def test_bfl_refuses_in_its_own_words(sandbox, fault, status, error):
    answer = sandbox.submit(prompt=f"a fox sim:{fault}")

    assert answer.status_code == status
    assert answer.json()["error"] == error
    assert billed(sandbox) == 0


@pytest.mark.parametrize(
    ("fault", "status", "paid"),
    [
        ("moderated", "Request Moderated", 0),
        ("moderated_output", "Content Moderated", 1),
        ("failed", "Error", 1),
        ("job_lost", "Task not found", 1),
        ("unknown_status", "Preempted", 1),
    ],
)
def test_a_bfl_job_ends_badly(sandbox, documents, fault, status, paid):
    state = sandbox.result(prompt=f"a fox sim:{fault}")

    assert state["status"] == status
    assert state["result"] is None
    if fault != "unknown_status":
        documents.check("black-forest-labs.json", "ResultResponse", state)
    assert billed(sandbox) == paid


def test_a_bfl_job_never_ends(sandbox):
    sandbox.fault({"delay": 0})
    url = sandbox.submit(prompt="a fox sim:never_ready").json()["polling_url"]

    assert {sandbox.poll(url).json()["status"] for _ in range(5)} == {"Pending"}


def test_a_lost_job_can_come_back(sandbox):
    url = sandbox.submit(prompt="a fox sim:job_lost@poll*2").json()["polling_url"]

    statuses = [sandbox.poll(url).json()["status"] for _ in range(3)]

    assert statuses[:2] == ["Task not found"] * 2
    assert statuses[2] in ("Pending", "Ready")


def test_bfl_limits_how_many_jobs_run(launch):
    sandbox = launch()  # its own, where no other test's jobs are running
    sandbox.fault({"fault": "active_limit", "limit": 7})

    statuses = [sandbox.submit("flux-kontext-max", **FOX).status_code for _ in range(7)]
    statuses += [sandbox.submit().status_code for _ in range(2)]

    assert statuses == [200] * 6 + [429] + [200, 429]


def test_urls_can_lead_astray(sandbox):
    polling = sandbox.submit(prompt="a fox sim:foreign_polling_url").json()["polling_url"]
    sample = sandbox.result(prompt="a fox sim:foreign_image_url")["result"]["sample"]
    redirect = sandbox.picture(prompt="a fox sim:redirect_image")

    assert polling.startswith("http://169.254.169.254/")
    assert sample.startswith("http://169.254.169.254/")
    assert redirect.status_code == 302
    assert redirect.headers["Location"].startswith("http://169.254.169.254/")


def test_a_picture_url_can_be_expired(sandbox):
    assert sandbox.picture(prompt="a fox sim:expired_url").status_code == 403


@pytest.fixture(params=["openai", "bfl"])
def spoilt_picture(request, sandbox):
    """The bytes of a picture asked for with a fault, from either provider."""

    def ask(fault: str) -> bytes:
        sandbox.fault({"picture": "drawn"}, {"fault": fault, "times": 1})
        if request.param == "bfl":
            return sandbox.picture(width=256, height=256).content
        return base64.b64decode(sandbox.generate(size="1024x640").json()["data"][0]["b64_json"])

    return ask


@pytest.mark.parametrize("fault", ["truncated_image", "corrupt_image"])
def test_a_picture_can_be_damaged(spoilt_picture, fault):
    body = spoilt_picture(fault)

    with pytest.raises((OSError, SyntaxError)):
        Image.open(BytesIO(body)).load()


def test_a_picture_can_be_a_page(spoilt_picture):
    assert b"<html>" in spoilt_picture("html_image")


def test_a_picture_can_be_a_bomb(spoilt_picture):
    body = spoilt_picture("huge_image")

    assert len(body) < 100_000
    with warnings.catch_warnings(), pytest.raises(Image.DecompressionBombError):
        warnings.simplefilter("ignore")
        Image.open(BytesIO(body))


def test_a_picture_can_have_the_wrong_size(spoilt_picture):
    image = Image.open(BytesIO(spoilt_picture("wrong_size")))

    image.load()
    assert image.size in [(128, 128), (512, 320)]


def test_a_picture_url_serves_a_page_as_a_page(sandbox):
    picture = sandbox.picture(prompt="a fox sim:html_image")

    assert picture.headers["Content-Type"].startswith("text/html")


def test_a_success_can_lack_its_picture(sandbox):
    assert sandbox.generate(prompt="a fox sim:no_image", n=2).json()["data"] == []
    assert "sample" not in sandbox.result(prompt="a fox sim:no_image")["result"]
    assert billed(sandbox) == 3


def test_fewer_pictures_can_come_than_were_paid_for(sandbox):
    answer = sandbox.generate(prompt="a fox sim:fewer_images", n=3)

    assert len(answer.json()["data"]) == 2
    assert billed(sandbox) == 3


@pytest.mark.parametrize(("fault", "status"), [("bad_gateway", 502), ("not_json", 200)])
def test_a_page_can_come_instead_of_an_answer(sandbox, fault, status):
    for answer in (
        sandbox.generate(prompt=f"a fox sim:{fault}"),
        sandbox.submit(prompt=f"a fox sim:{fault}"),
    ):
        assert answer.status_code == status
        assert "<html>" in answer.text
    assert billed(sandbox) == 2


def test_the_connection_can_be_cut_after_billing(sandbox):
    for ask in (sandbox.generate, sandbox.submit):
        with pytest.raises(requests.ConnectionError):
            ask(prompt="a fox sim:reset")
    assert billed(sandbox) == 2


def test_a_call_can_hang_until_the_client_goes_away(sandbox):
    with pytest.raises(requests.ReadTimeout):
        sandbox.generate(prompt="a fox sim:hang", timeout=0.2)

    assert billed(sandbox) == 1
    sandbox.until(lambda: sandbox.calls("openai")["open"], lambda count: count == 0)


def test_an_answer_can_be_slow(sandbox):
    started = time.monotonic()

    assert sandbox.submit(prompt="a fox sim:slow:0.4").ok

    assert time.monotonic() - started >= 0.4


def test_a_body_can_drip(sandbox):
    started = time.monotonic()

    answer = sandbox.submit(prompt="a fox sim:drip:0.002")

    assert time.monotonic() - started >= 0.002 * len(answer.content)
    assert answer.json()["id"]


@pytest.mark.parametrize(
    "retry_after", [7, "Wed, 21 Oct 2026 07:28:00 GMT", None], ids=["seconds", "date", "none"]
)
def test_retry_after_is_as_ordered(sandbox, retry_after):
    sandbox.fault({"fault": "rate_limited", "retry_after": retry_after})

    for answer in (sandbox.generate(), sandbox.submit()):
        expected = None if retry_after is None else str(retry_after)
        assert answer.headers.get("Retry-After") == expected


def test_a_fault_strikes_only_whom_it_is_meant_for(sandbox):
    sandbox.fault({"fault": "overloaded", "provider": "bfl", "prompt_contains": "owl", "times": 1})

    assert sandbox.generate(prompt="an owl").status_code == 200
    assert sandbox.submit(prompt="a fox").status_code == 200
    assert sandbox.submit(prompt="an owl").status_code == 503
    assert sandbox.submit(prompt="an owl").status_code == 200
    assert sandbox.http.get(f"{sandbox.url}/_sandbox/faults", timeout=20).json()["faults"] == []


def test_a_share_of_the_calls_is_struck_evenly(sandbox):
    sandbox.fault({"fault": "rate_limited", "share": 0.75, "times": 6})

    answers = [sandbox.submit(prompt="a fox").status_code for _ in range(10)]

    assert answers == [200, 429, 429, 429, 200, 429, 429, 429, 200, 200]


def test_faults_can_strike_polls_and_downloads(sandbox):
    sandbox.fault(
        {"fault": "server_error", "call": "poll", "times": 1},
        {"fault": "truncated_image", "call": "download", "times": 1},
    )
    url = sandbox.submit().json()["polling_url"]

    assert sandbox.poll(url).status_code == 500
    state = sandbox.until(lambda: sandbox.poll(url).json(), lambda state: state["result"])
    first, second = (
        sandbox.http.get(state["result"]["sample"], timeout=20).content for _ in range(2)
    )
    assert len(first) < len(second)


def test_a_prompt_word_can_name_provider_value_and_times(sandbox):
    prompt = "a fox, sim:bfl.rate_limited:9*2."

    answers = [sandbox.submit(prompt=prompt) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "9"
    assert sandbox.generate(prompt=prompt).status_code == 200


def test_a_header_strikes_one_call(sandbox):
    sandbox.http.headers["X-Sandbox-Fault"] = "slow:0.2, overloaded"
    started = time.monotonic()
    try:
        struck = sandbox.generate()
    finally:
        del sandbox.http.headers["X-Sandbox-Fault"]

    assert struck.status_code == 503
    assert time.monotonic() - started >= 0.2
    assert sandbox.generate().status_code == 200


@pytest.mark.parametrize(
    "order",
    [{"fault": "rate_limitde"}, {"fault": "slow", "second": 1}, {"picture": "nice"}, "slow", 3],
)
def test_an_order_that_makes_no_sense_is_refused(sandbox, order):
    answer = sandbox.http.post(f"{sandbox.url}/_sandbox/faults", json=order, timeout=20)

    assert answer.status_code == 400
    assert answer.json()["error"]


def test_an_unknown_prompt_word_is_not_taken_for_success(sandbox):
    answer = sandbox.generate(prompt="a fox sim:rate_limitde")

    assert answer.status_code == 400
    assert "rate_limited" in answer.json()["error"]["message"]


def test_every_fault_is_on_the_page_and_at_the_root(sandbox):
    page = (Path(__file__).resolve().parents[2] / "ops/sandbox/README.md").read_text()

    assert [name for name in FAULTS if f"| `{name}` |" not in page] == []
    listed = sandbox.http.get(sandbox.url, timeout=20).json()["faults"]
    assert listed == FAULTS


def test_a_client_may_leave_in_the_middle_of_a_drip(sandbox):
    with sandbox.http.post(
        f"{sandbox.url}/bfl/v1/flux-2-pro",
        json={"prompt": "a fox sim:drip:0.05"},
        headers={"x-key": "k"},
        stream=True,
        timeout=20,
    ) as answer:
        assert answer.raw.read(1) == b"{"

    sandbox.until(lambda: sandbox.calls("bfl")["open"], lambda count: count == 0)
