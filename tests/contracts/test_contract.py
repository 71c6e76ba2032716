"""The contract that every adapter keeps, held against each provider as the sandbox plays it."""

from __future__ import annotations

import io
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from PIL import Image

from common.errors import (
    BadAnswer,
    ContentRefused,
    JobFailed,
    JobLost,
    ModelNotServed,
    NotAuthorised,
    OutcomeUnknown,
    OutOfCredit,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
)
from common.task import Billed
from tests.contracts.cases import CASES
from tests.contracts.conftest import KEY, Buyer, Connect, Sandbox
from tests.contracts.scripted import Reply, Scripted
from workers.providers import PROVIDERS
from workers.providers.base import Job, Provider

Serve = Callable[..., Scripted]

with_jobs = pytest.mark.parametrize("name", [name for name in CASES if CASES[name].has_jobs])
with_polls = pytest.mark.parametrize(
    "name", [name for name in CASES if CASES[name].has_jobs and CASES[name].is_polled]
)


def test_every_provider_is_held_to_the_contract() -> None:
    assert set(CASES) == set(PROVIDERS)


def test_every_provider_is_registered_under_its_own_name() -> None:
    assert {name: provider.name for name, provider in PROVIDERS.items()} == {
        name: name for name in PROVIDERS
    }


def test_whoever_can_be_told_to_stop_a_job_says_so() -> None:
    for provider in PROVIDERS.values():
        assert provider.cancels is (provider.cancel is not Provider.cancel)


def test_brings_the_picture_asked_for(buyer: Buyer, prompt: str) -> None:
    result = buyer.finish(buyer.submit(prompt))

    picture = result.pictures[0]
    scale = 1 if picture.quarter is None else 2
    with Image.open(io.BytesIO(picture.data)) as image:
        image.load()
        assert image.size == tuple(scale * side for side in buyer.case.request.pixels)
        assert image.format == buyer.case.picture_format


def test_brings_as_many_pictures_as_asked(buyer: Buyer, sandbox: Sandbox, prompt: str) -> None:
    count = min(3, buyer.provider.pictures_per_call)

    result = buyer.finish(buyer.submit(prompt, count=count))

    assert len(result.pictures) == count
    assert sandbox.purchases(prompt) == math.ceil(count / buyer.case.sold_together)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].tells_cost])
def test_tells_what_it_cost(buyer: Buyer, prompt: str) -> None:
    usage = buyer.finish(buyer.submit(prompt)).usage

    assert 0.001 < usage["cost_usd"] < 1
    assert json.loads(json.dumps(usage)) == usage


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].names_calls])
def test_tells_by_what_its_provider_knows_the_call(buyer: Buyer, prompt: str) -> None:
    outcome = buyer.submit(prompt)

    name = buyer.finish(outcome).usage["request_id"]

    assert isinstance(name, str) and 0 < len(name) <= 200
    assert name == outcome.usage["request_id"]


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"x-request-id": "req_1"}, "req_1"),
        ({"x-fal-request-id": "req_1"}, "req_1"),
        ({"x-request-id": ""}, None),
        ({"x-request-id": "x" * 201}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_failure_keeps_the_name_of_the_call_for_the_log(
    connect: Connect,
    serve: Serve,
    name: str,
    status: int,
    headers: dict[str, str],
    told: str | None,
) -> None:
    server = serve(Reply({"error": "no"}, status, headers))

    with pytest.raises(ProviderError) as caught:
        connect(name, server.url).submit()

    assert caught.value.request_id == told
    assert "req_1" not in caught.value.message


def test_returns_what_came_when_it_is_fewer(connect: Connect, sandbox: Sandbox) -> None:
    buyer = connect("openai", f"{sandbox.url}/openai/v1")

    result = buyer.finish(buyer.submit("sim:fewer_images", count=3))

    assert len(result.pictures) == 2


@pytest.mark.parametrize(
    ("name", "fault", "error"),
    [
        (name, fault, CASES[name].errors.get(fault, error))
        for name in CASES
        for fault, error in (
            ("rate_limited", RateLimited),
            ("no_credit", OutOfCredit),
            ("bad_key", NotAuthorised),
            ("server_error", OutcomeUnknown),
            ("moderated", ContentRefused),
            ("moderated_output", ContentRefused),
            ("bad_gateway", OutcomeUnknown),
            ("not_json", BadAnswer),
            ("no_image", BadAnswer),
            ("reset", OutcomeUnknown),
        )
        if fault not in CASES[name].lacks
    ],
)
def test_names_what_went_wrong(
    buyer: Buyer, prompt: str, fault: str, error: type[ProviderError]
) -> None:
    with pytest.raises(ProviderError) as caught:
        buyer.finish(buyer.submit(f"{prompt} sim:{fault}"))

    assert type(caught.value) is error
    assert caught.value.message.startswith((buyer.name, "The answer of"))


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].reasons])
@pytest.mark.parametrize(("fault", "which"), [("moderated", 0), ("moderated_output", 1)])
def test_a_refusal_says_why(buyer: Buyer, prompt: str, fault: str, which: int) -> None:
    with pytest.raises(ContentRefused) as caught:
        buyer.finish(buyer.submit(f"{prompt} sim:{fault}"))

    assert caught.value.code == "content_policy_violation"
    assert not caught.value.retryable
    assert buyer.case.reasons[which] in caught.value.message


@pytest.mark.parametrize(
    ("name", "fault", "error", "billed"),
    [
        # A 503 is an admission refusal only where the provider says so.
        ("openai", "overloaded", Unavailable, "no"),
        ("bfl", "overloaded", OutcomeUnknown, "unknown"),
        ("openai", "failed", OutcomeUnknown, "unknown"),
        ("bfl", "failed", JobFailed, "unknown"),
        ("bfl", "active_limit:0", RateLimited, "no"),
        ("bfl", "job_lost", JobLost, "yes"),
        ("bfl", "expired_url", JobLost, "yes"),
        ("bfl", "foreign_image_url", BadAnswer, "yes"),
        ("bfl", "redirect_image", BadAnswer, "yes"),
        ("replicate", "overloaded", OutcomeUnknown, "unknown"),
        ("replicate", "failed", JobFailed, "unknown"),
        ("replicate", "aborted", JobFailed, "no"),
        ("replicate", "data_removed", JobLost, "yes"),
        ("replicate", "job_lost", JobLost, "yes"),
        ("replicate", "expired_url", JobLost, "yes"),
        ("replicate", "foreign_image_url", BadAnswer, "yes"),
        ("replicate", "redirect_image", BadAnswer, "yes"),
        ("fal", "overloaded", OutcomeUnknown, "unknown"),
        ("fal", "failed", JobFailed, "no"),
        ("fal", "job_lost", JobLost, "yes"),
        ("fal", "expired_url", JobLost, "yes"),
        ("fal", "foreign_image_url", BadAnswer, "yes"),
        ("fal", "redirect_image", BadAnswer, "yes"),
        ("together", "overloaded", OutcomeUnknown, "unknown"),
        ("together", "failed", OutcomeUnknown, "unknown"),
        ("huggingface", "overloaded", Unavailable, "no"),
        ("huggingface", "failed", OutcomeUnknown, "unknown"),
        ("stability", "overloaded", OutcomeUnknown, "unknown"),
        ("stability", "failed", JobFailed, "no"),
        ("stability", "moderated", ContentRefused, "no"),
        ("stability", "moderated_output", ContentRefused, "unknown"),
        ("ideogram", "overloaded", OutcomeUnknown, "unknown"),
        ("ideogram", "failed", OutcomeUnknown, "unknown"),
        ("ideogram", "moderated_output", ContentRefused, "unknown"),
        ("ideogram", "expired_url", JobLost, "yes"),
        ("ideogram", "foreign_image_url", BadAnswer, "yes"),
        ("ideogram", "redirect_image", BadAnswer, "yes"),
        ("a1111", "failed", JobFailed, "no"),
        ("gemini", "overloaded", Unavailable, "no"),
        ("gemini", "failed", JobFailed, "unknown"),
        ("gemini", "text_only", JobFailed, "unknown"),
        ("gemini", "moderated", ContentRefused, "unknown"),
        ("compatible", "overloaded", Unavailable, "no"),
        ("compatible", "failed", OutcomeUnknown, "unknown"),
        ("midjourney", "overloaded", RateLimited, "no"),
        ("midjourney", "active_limit:0", RateLimited, "no"),
        ("midjourney", "no_account", Unavailable, "no"),
        ("midjourney", "failed", JobFailed, "unknown"),
        ("midjourney", "modal", JobFailed, "unknown"),
        ("midjourney", "job_lost", JobLost, "yes"),
        ("midjourney", "expired_url", JobLost, "yes"),
        ("midjourney", "foreign_image_url", BadAnswer, "yes"),
        ("midjourney", "redirect_image", BadAnswer, "yes"),
        ("comfyui", "overloaded", OutcomeUnknown, "unknown"),
        ("comfyui", "failed", JobFailed, "no"),
        ("comfyui", "job_lost", JobLost, "no"),
        ("comfyui", "no_image", BadAnswer, "no"),
        ("comfyui", "expired_url", JobLost, "yes"),
        ("comfyui", "redirect_image", BadAnswer, "yes"),
    ],
)
def test_knows_the_troubles_of_its_provider(
    connect: Connect,
    sandbox: Sandbox,
    prompt: str,
    name: str,
    fault: str,
    error: type[ProviderError],
    billed: Billed,
) -> None:
    buyer = connect(name, sandbox.url + CASES[name].sandbox_path)

    with pytest.raises(ProviderError) as caught:
        buyer.finish(buyer.submit(f"{prompt} sim:{fault}"))

    assert (type(caught.value), caught.value.billed) == (error, billed)


def test_names_a_model_that_is_gone(buyer: Buyer, prompt: str) -> None:
    with pytest.raises(ProviderError) as caught:
        buyer.submit(prompt, route=replace(buyer.case.route, model="long-gone"))

    assert type(caught.value) is buyer.case.errors.get("model", ModelNotServed)


@pytest.mark.parametrize("name", [name for name in CASES if not CASES[name].takes_any_size])
def test_names_a_request_the_provider_does_not_take(buyer: Buyer, prompt: str) -> None:
    wrong = replace(buyer.case.request, **buyer.case.wrong)

    with pytest.raises(Refused) as caught:
        buyer.submit(prompt, request=wrong)

    assert re.search(buyer.case.wrong_named, caught.value.message)
    assert caught.value.billed == "no"


def test_names_text_that_cannot_be_sent(buyer: Buyer) -> None:
    with pytest.raises(Refused, match="Unicode"):
        buyer.submit("half a \ud83e smile")


def test_gives_up_at_the_deadline_when_no_answer_comes(
    buyer: Buyer, sandbox: Sandbox, prompt: str
) -> None:
    prompt += " sim:hang"
    started = time.monotonic()

    with pytest.raises(OutcomeUnknown):
        buyer.submit(prompt, timeout=0.8)

    assert time.monotonic() - started == pytest.approx(0.8, abs=0.7)
    assert sandbox.purchases(prompt) == 1


def test_gives_up_at_the_deadline_when_the_answer_drips(
    buyer: Buyer, sandbox: Sandbox, prompt: str
) -> None:
    prompt += " sim:drip:0.1"
    started = time.monotonic()

    with pytest.raises(OutcomeUnknown):
        buyer.submit(prompt, timeout=1.3)

    assert time.monotonic() - started == pytest.approx(1.3, abs=0.7)
    assert sandbox.purchases(prompt) == 1


def test_does_not_send_again_after_a_reset(buyer: Buyer, sandbox: Sandbox, prompt: str) -> None:
    prompt += " sim:reset"

    with pytest.raises(OutcomeUnknown):
        buyer.submit(prompt)

    assert sandbox.purchases(prompt) == 1


def test_a_refused_connection_costs_nothing(connect: Connect, dead_url: str, name: str) -> None:
    with pytest.raises(Unavailable) as caught:
        connect(name, dead_url).submit()

    assert caught.value.retryable
    assert caught.value.billed == "no"


def test_an_unknown_host_costs_nothing(connect: Connect, name: str) -> None:
    with pytest.raises(Unavailable, match="host name"):
        connect(name, "http://provider.invalid").submit()


def test_sends_nothing_when_no_time_is_left(connect: Connect, serve: Serve, name: str) -> None:
    server = serve()

    with pytest.raises(Unavailable):
        connect(name, server.url).submit(timeout=0)

    assert server.connections == 0


@with_jobs
def test_a_job_outlives_the_process_that_bought_it(
    connect: Connect, sandbox: Sandbox, prompt: str, name: str
) -> None:
    url = sandbox.url + CASES[name].sandbox_path
    outcome = connect(name, url).submit(prompt)
    assert isinstance(outcome, Job)
    kept = json.dumps(asdict(outcome))

    heir = connect(name, url)
    result = heir.finish(Job(**json.loads(kept)))

    assert len(result.pictures) == 1
    assert sandbox.purchases(prompt) == 1


def test_a_job_ends_with_what_it_cost_and_its_seed(
    connect: Connect, sandbox: Sandbox, prompt: str
) -> None:
    buyer = connect("bfl", f"{sandbox.url}/bfl")
    asked = replace(buyer.case.request, seed=40)

    job = buyer.submit(prompt, request=asked, first=2)
    assert isinstance(job, Job)
    result = buyer.finish(job)

    assert result.pictures[0].seed == 42
    assert result.usage == {"cost_usd": 0.04, "request_id": job.id}


@with_polls
def test_goes_on_after_a_state_it_has_never_heard_of(buyer: Buyer) -> None:
    outcome = buyer.submit("sim:unknown_status")

    for _ in range(20):
        assert isinstance(outcome, Job)
        outcome = buyer.provider.poll(outcome, timeout=5)

    assert isinstance(outcome, Job)


def test_is_not_misled_by_a_foreign_polling_address(
    connect: Connect, sandbox: Sandbox, prompt: str
) -> None:
    buyer = connect("bfl", f"{sandbox.url}/bfl")

    result = buyer.finish(buyer.submit(f"{prompt} sim:foreign_polling_url"))

    assert len(result.pictures) == 1


@with_polls
@pytest.mark.parametrize("fault", ["rate_limited@poll", "server_error@poll*3", "reset@poll*2"])
def test_trouble_with_a_poll_can_be_cured_by_the_next(
    buyer: Buyer, prompt: str, fault: str
) -> None:
    outcome = buyer.submit(f"{prompt} sim:{fault}")
    assert isinstance(outcome, Job)

    with pytest.raises((Unavailable, RateLimited)) as caught:
        buyer.provider.poll(outcome, timeout=5)

    assert caught.value.retryable


@with_jobs
@pytest.mark.parametrize("fault", ["reset@download*1", "server_error@download*1"])
def test_a_download_that_fails_can_be_repeated(
    buyer: Buyer, sandbox: Sandbox, prompt: str, fault: str
) -> None:
    job = buyer.submit(f"{prompt} sim:{fault}")
    with pytest.raises(Unavailable):
        buyer.finish(job)

    result = buyer.finish(job)

    assert len(result.pictures) == 1
    assert sandbox.purchases(f"{prompt} sim:{fault}") == 1


@with_jobs
def test_downloads_carry_no_key(buyer: Buyer, sandbox: Sandbox, prompt: str) -> None:
    before = sandbox.calls(buyer.name)

    buyer.finish(buyer.submit(prompt))

    after = sandbox.calls(buyer.name)
    assert after["downloads"] == before["downloads"] + 1
    assert after["downloads_with_key"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": None}},
        {"error": f"key {KEY}"},
        {"error": "invalid", "message": f"Authorization: Bearer {KEY}"},
        {"detail": f"x-key {KEY} at http://10.0.0.5:8080/internal"},
        {"detail": [{"loc": ["header"], "msg": f"bad {KEY}", "type": "x"}]},
        {"detail": [KEY, {"odd": KEY}]},
        {"object": "error", "message": f"sk-another-key and {KEY}" + "long " * 200},
        {"error": {"message": f"{KEY[:12]}***{KEY[-4:]}\nsecond\tline"}},
        f"plain {KEY}".encode(),
    ],
)
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_shows_neither_keys_nor_links_nor_whole_bodies(
    connect: Connect, serve: Serve, name: str, status: int, body: Any
) -> None:
    server = serve(Reply(body, status, {"Content-Type": "text/plain; charset=utf-8"}))

    with pytest.raises(ProviderError) as caught:
        connect(name, server.url).submit()

    shown = caught.value.message
    assert str(status) in shown
    assert KEY[:12] not in shown
    assert "sk-" not in shown
    assert "10.0.0.5" not in shown
    assert len(shown) <= 300
    assert shown.isprintable()


def test_a_key_of_any_shape_is_hidden(connect: Connect, serve: Serve, name: str) -> None:
    key = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
    sent = CASES[name].key_sent(key)
    server = serve(Reply({"detail": f"no such key: {key}, that is {sent}"}, 401))

    with pytest.raises(NotAuthorised) as caught:
        connect(name, server.url, key=key).submit()

    assert key not in caught.value.message
    assert sent not in caught.value.message
    assert sent in server.seen[0].headers[CASES[name].key_header]


NOON = "Sun, 22 Nov 2026 12:00:00 GMT"
with_waits = pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "1.5"}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"retry-after-ms": "soon", "Retry-After": "7"}, 7),
        # The three forms of a date in HTTP.
        ({"Date": NOON, "Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30),
        ({"Date": NOON, "Retry-After": "Sunday, 22-Nov-26 12:00:30 GMT"}, 30),
        ({"Date": NOON, "Retry-After": "Sun Nov 22 12:00:30 2026"}, 30),
        ({"Retry-After": "Sun, 22 Nov 2020 12:00:00 GMT"}, 0),
        ({"Retry-After": "Sun, 22 Nov 2093 12:00:00 GMT"}, 3600),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "1e300"}, 3600),
    ],
)


@with_waits
def test_hears_how_long_to_wait(
    connect: Connect, serve: Serve, name: str, headers: dict[str, str], seconds: float
) -> None:
    server = serve(Reply({}, 429, headers))

    with pytest.raises(RateLimited) as caught:
        connect(name, server.url).submit()

    assert caught.value.retry_after == pytest.approx(seconds)


@with_polls
@with_waits
def test_hears_how_long_to_wait_before_the_next_poll(
    connect: Connect, serve: Serve, name: str, headers: dict[str, str], seconds: float
) -> None:
    server = serve(Reply({}, 429, headers))
    job = Job("job-1", CASES[name].job_state)

    with pytest.raises(RateLimited) as caught:
        connect(name, server.url).provider.poll(job, timeout=5)

    assert caught.value.retry_after == pytest.approx(seconds)


@pytest.mark.parametrize("word", ["soon", "nan", "inf", "", "Sun, 99 Nov 99999 99:99:99 GMT"])
def test_is_not_misled_by_a_wait_that_makes_no_sense(
    connect: Connect, serve: Serve, name: str, word: str
) -> None:
    server = serve(Reply({}, 429, {"Retry-After": word}))

    with pytest.raises(RateLimited) as caught:
        connect(name, server.url).submit()

    assert caught.value.retry_after == CASES[name].default_wait


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b'"text"', b"{", b"\xff\xfe", b"[" * 5000, b"1e999",
     b'{"data": 7, "id": 7}', b'{"data": [null, 5, "x", {}], "id": null}',
     b'{"data": [{"b64_json": ""}, {"b64_json": "%%"}, {"b64_json": 5}, {"url": ""}]}'],
)  # fmt: skip
def test_a_success_without_sense_is_a_bad_answer(
    connect: Connect, serve: Serve, name: str, body: bytes
) -> None:
    server = serve(Reply(body, 200, {"Content-Type": "application/json"}))

    with pytest.raises(BadAnswer) as caught:
        connect(name, server.url).submit()

    assert caught.value.billed != "no"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Refused),
        (401, NotAuthorised),
        (402, OutOfCredit),
        (403, NotAuthorised),
        (404, ModelNotServed),
        (405, ModelNotServed),
        (408, OutcomeUnknown),
        (413, Refused),
        (415, Refused),
        (418, Refused),
        (422, Refused),
        (429, RateLimited),
        (500, OutcomeUnknown),
        (502, OutcomeUnknown),
        (503, OutcomeUnknown),
        (504, OutcomeUnknown),
        (520, OutcomeUnknown),
        (302, ModelNotServed),
        (307, ModelNotServed),
    ],
)
def test_judges_an_answer_without_words_by_its_status(
    connect: Connect, serve: Serve, name: str, status: int, error: type[ProviderError]
) -> None:
    server = serve(Reply(b"<html>oops</html>", status, {"Location": "/elsewhere"}))

    with pytest.raises(ProviderError) as caught:
        connect(name, server.url).submit()

    assert type(caught.value) is error
    assert len(server.seen) == 1


@pytest.mark.parametrize("name", [n for n in CASES if isinstance(CASES[n].accepts(""), dict)])
def test_unknown_fields_do_no_harm(connect: Connect, serve: Serve, name: str) -> None:
    server = serve()
    answer = CASES[name].accepts(server.url)
    server.replies = [Reply(answer | {"x_new": [{"deep": None}], "created": "2026-11-22T12:00Z"})]

    outcome = connect(name, server.url).submit()

    assert isinstance(outcome, Job) or len(outcome.pictures) == 1
