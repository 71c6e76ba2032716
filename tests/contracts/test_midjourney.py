"""A midjourney-proxy's ways, in both of its lines (PROTOCOLS.md, section 12)."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import requests
from PIL import Image

from common.catalog import Route
from common.errors import (
    BadAnswer,
    ContentRefused,
    JobFailed,
    JobLost,
    ModelNotServed,
    NotAuthorised,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
)
from common.pictures import ImageLimits
from common.task import Billed, ImageRequest
from tests.contracts.cases import PNG
from tests.contracts.conftest import Buyer, Connect, Sandbox, running_sandbox
from tests.contracts.scripted import Reply, Scripted
from workers.images import verify
from workers.providers.base import Job, Order, Pictures

Serve = Callable[..., Scripted]

LIMITS = ImageLimits(bytes=50_000_000, pixels=64_000_000)
ACCEPTED = Reply({"code": 1, "description": "提交成功", "result": "17"})
REQUEST = ImageRequest("midjourney", "a red fox")


@pytest.fixture(params=["/midjourney", "/midjourney/mj-fast"], ids=["novicezk", "trueai"])
def line(request: pytest.FixtureRequest, connect: Connect, sandbox: Sandbox) -> Buyer:
    """Either line of the proxy, as the sandbox plays it."""
    return connect("midjourney", sandbox.url + str(request.param))


def prompt_sent(connect: Connect, serve: Serve, request: ImageRequest, **options: Any) -> str:
    server = serve(ACCEPTED)
    connect("midjourney", server.url).submit(request=request, **options)
    return str(server.seen[0].json()["prompt"])


def polled(connect: Connect, serve: Serve, task: dict[str, Any], count: int = 2) -> Any:
    """What one poll makes of a task whose pictures can be had."""
    server = serve()
    text = json.dumps({"id": "17"} | task).replace("{base}", server.url)
    server.replies = [Reply(text.encode()), Reply(PNG)]
    return connect("midjourney", server.url).provider.poll(Job("17", {"count": count}), timeout=5)


def test_one_grid_becomes_four_different_pictures(
    line: Buyer, sandbox: Sandbox, prompt: str
) -> None:
    result = line.finish(line.submit(prompt, count=4))

    images = [verify(p.data, REQUEST, LIMITS, quarter=p.quarter) for p in result.pictures]
    assert [(image.width, image.height) for image in images] == [(1024, 1024)] * 4
    assert sandbox.purchases(prompt) == 1


def test_a_grid_is_cut_where_single_pictures_are_not_to_be_had(
    connect: Connect, sandbox: Sandbox, prompt: str
) -> None:
    buyer = connect("midjourney", f"{sandbox.url}/midjourney")

    result = buyer.finish(buyer.submit(prompt, count=4))

    assert [picture.quarter for picture in result.pictures] == [0, 1, 2, 3]
    images = [verify(p.data, REQUEST, LIMITS, quarter=p.quarter) for p in result.pictures]
    assert len({image.sha256 for image in images}) == 4


def test_single_pictures_are_taken_as_they_are(
    connect: Connect, sandbox: Sandbox, prompt: str
) -> None:
    buyer = connect("midjourney", f"{sandbox.url}/midjourney/mj-fast")
    before = sandbox.calls("midjourney")["downloads"]
    request = replace(REQUEST, seed=7)

    result = buyer.finish(buyer.submit(prompt, count=3, request=request))

    assert [(picture.quarter, picture.seed) for picture in result.pictures] == [(None, 7)] * 3
    assert sandbox.calls("midjourney")["downloads"] == before + 3


def test_the_shape_asked_for_is_the_shape_of_each_picture(line: Buyer, prompt: str) -> None:
    wide = replace(REQUEST, size="1792x1024")

    picture = line.finish(line.submit(prompt, request=wide)).pictures[0]

    image = verify(picture.data, wide, LIMITS, quarter=picture.quarter)
    assert image.width * 1024 == image.height * 1792


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, "a red fox --ar 1:1 --v 7"),
        ({"size": "1792x1024"}, "a red fox --ar 7:4 --v 7"),
        ({"size": "512x512", "seed": 5}, "a red fox --ar 1:1 --v 7 --seed 5"),
        ({"seed": 0}, "a red fox --ar 1:1 --v 7 --seed 0"),
        ({"negative_prompt": "blur, text"}, "a red fox --ar 1:1 --v 7 --no blur, text"),
        ({"prompt": "a fox - red -- or not"}, "a fox - red -- or not --ar 1:1 --v 7"),
        ({"prompt": "a fox—red"}, "a fox—red --ar 1:1 --v 7"),
    ],
)
def test_what_is_asked_for_becomes_parameters(
    connect: Connect, serve: Serve, fields: dict[str, Any], prompt: str
) -> None:
    request = replace(REQUEST, **fields)

    assert prompt_sent(connect, serve, request) == prompt


def test_the_version_is_that_of_the_route(connect: Connect, serve: Serve) -> None:
    route = Route("midjourney", "v6.1")

    assert prompt_sent(connect, serve, REQUEST, route=route).endswith("--v 6.1")


@pytest.mark.parametrize("version", ["7", "v7 --repeat 40", "niji", ""])
def test_a_version_that_cannot_be_is_named_and_not_sent(
    connect: Connect, serve: Serve, version: str
) -> None:
    server = serve(ACCEPTED)

    with pytest.raises(ModelNotServed, match="version"):
        connect("midjourney", server.url).submit(route=Route("midjourney", version))

    assert server.connections == 0


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"prompt": "a fox --repeat 40"}, "--repeat"),
        ({"prompt": "--V 8 a fox"}, "--V"),
        ({"prompt": "a fox--ar 1:9"}, "--ar"),
        ({"prompt": "a fox —turbo"}, "—turbo"),
        ({"prompt": "a fox\n--q 4"}, "--q"),
        ({"negative_prompt": "blur --fast"}, "--fast"),
    ],
)
def test_parameters_of_the_callers_own_are_refused_by_name(
    connect: Connect, serve: Serve, fields: dict[str, Any], parameter: str
) -> None:
    server = serve(ACCEPTED)

    with pytest.raises(Refused) as caught:
        connect("midjourney", server.url).submit(request=replace(REQUEST, **fields))

    assert f"parameters like {parameter} cannot" in caught.value.message
    assert caught.value.billed == "no"
    assert server.connections == 0


def test_the_call_is_named_to_the_proxy(connect: Connect, serve: Serve) -> None:
    server = serve(ACCEPTED)
    provider = connect("midjourney", server.url).provider

    for key in ("imgtask_1/0", "k" * 300, ""):
        provider.submit(Order(REQUEST, Route("midjourney", "v7"), key=key), timeout=5)

    states = [seen.json().get("state") for seen in server.seen]
    assert states == ["imgtask_1/0", "k" * 255, None]


def test_the_proxy_shows_the_name_with_the_task(
    connect: Connect, sandbox: Sandbox, prompt: str
) -> None:
    connect("midjourney", f"{sandbox.url}/midjourney").submit(prompt, key="imgtask_1/0")

    url, headers = f"{sandbox.url}/midjourney/mj/task/list", {"mj-api-secret": "x"}
    tasks = requests.get(url, headers=headers, timeout=5).json()
    (task,) = (task for task in tasks if task["prompt"].startswith(prompt))
    assert task["state"] == "imgtask_1/0"


@pytest.mark.parametrize(
    ("status", "answer", "error", "billed"),
    [
        (200, {"code": 3, "description": "无可用的账号实例"}, Unavailable, "no"),
        (404, {"code": 3, "description": "关联任务不存在或已失效"}, Unavailable, "no"),
        (200, {"code": 4, "description": "prompt不能为空"}, Refused, "no"),
        (200, {"code": 9, "description": "提交失败,队列已满"}, RateLimited, "no"),
        (200, {"code": 9, "description": "[Banned prompt detected] x"}, ContentRefused, "no"),
        (200, {"code": 9, "description": "discord: 50035"}, JobFailed, "no"),
        (200, {"code": 9}, JobFailed, "no"),
        (200, {"code": 23, "description": "队列已满"}, RateLimited, "no"),
        (200, {"code": 24, "properties": {"bannedWord": "x"}}, ContentRefused, "no"),
        (200, {"code": 24, "properties": None}, ContentRefused, "no"),
        (200, {"code": 7, "description": "?"}, BadAnswer, "unknown"),
        (200, {"code": 1, "result": None}, BadAnswer, "unknown"),
        (200, {"code": 1, "result": ""}, BadAnswer, "unknown"),
        (200, {"code": "1", "result": "17"}, BadAnswer, "unknown"),
        (401, {"code": 401, "message": "no"}, NotAuthorised, "no"),
    ],
)
def test_reads_the_code_of_an_answer(
    connect: Connect,
    serve: Serve,
    status: int,
    answer: dict[str, Any],
    error: type[ProviderError],
    billed: Billed,
) -> None:
    server = serve(Reply(answer, status))

    with pytest.raises(ProviderError) as caught:
        connect("midjourney", server.url).submit()

    assert (type(caught.value), caught.value.billed) == (error, billed)
    assert len(server.seen) == 1


@pytest.mark.parametrize("code", [1, 21, 22])
@pytest.mark.parametrize("result", ["17", 17])
def test_takes_the_job_it_is_given(
    connect: Connect, serve: Serve, code: int, result: object
) -> None:
    server = serve(Reply({"code": code, "result": result, "properties": {"numberOfQueues": 3}}))

    outcome = connect("midjourney", server.url).submit(count=3)

    assert outcome == Job("17", {"count": 3}, usage={"request_id": "17"})


def test_says_which_word_is_banned(connect: Connect, sandbox: Sandbox, prompt: str) -> None:
    with pytest.raises(ContentRefused, match="the word moderated is banned"):
        connect("midjourney", f"{sandbox.url}/midjourney").submit(f"{prompt} sim:moderated")


def test_a_full_queue_is_known_in_both_lines(line: Buyer, prompt: str) -> None:
    with pytest.raises(RateLimited):
        line.submit(f"{prompt} sim:overloaded")


def test_a_job_behind_others_is_waited_for(line: Buyer, prompt: str) -> None:
    assert line.finish(line.submit(f"{prompt} sim:queued")).pictures


@pytest.mark.parametrize(
    ("progress", "percent"),
    [
        *(("45%", 45), ("0%", 0), ("100%", 99), ("", None), (None, None), ("(paused)", None)),
        *((45, None), ("999%", 99), ("45 %", None), ("-3%", None), ({}, None)),
    ],
)
def test_progress_is_a_text(
    connect: Connect, serve: Serve, progress: object, percent: int | None
) -> None:
    outcome = polled(connect, serve, {"status": "IN_PROGRESS", "progress": progress})

    assert outcome == Job("17", {"count": 2}, percent)


@pytest.mark.parametrize(
    "status", ["NOT_START", "SUBMITTED", "IN_PROGRESS", "PREEMPTED", None, 5, []]
)
def test_a_preview_is_not_taken_for_the_picture(
    connect: Connect, serve: Serve, status: object
) -> None:
    task = {"status": status, "imageUrl": "{base}/preview.webp", "imageUrls": [{"url": "{base}/0"}]}

    assert isinstance(polled(connect, serve, task), Job)


def test_nothing_is_downloaded_while_the_job_runs(
    connect: Connect, sandbox: Sandbox, prompt: str
) -> None:
    buyer = connect("midjourney", f"{sandbox.url}/midjourney")
    job = buyer.submit(f"{prompt} sim:never_ready")
    before = sandbox.calls("midjourney")["downloads"]

    for _ in range(15):
        assert isinstance(job, Job)
        job = buyer.provider.poll(job, timeout=5)

    assert sandbox.calls("midjourney")["downloads"] == before


@pytest.mark.parametrize(
    ("task", "error", "said"),
    [
        ({"failReason": "[Banned prompt detected] x"}, ContentRefused, "Banned prompt"),
        ({"failReason": "Blocked by our AI Moderators"}, ContentRefused, "AI Moderators"),
        ({"failReason": "包含敏感词"}, ContentRefused, "refused"),
        ({"failReason": "[Invalid parameter] --q 9"}, Refused, "--q 9"),
        ({"failReason": "[Pending mod message] x"}, JobFailed, "Pending"),
        ({"failReason": "任务超时"}, JobFailed, "could not"),
        ({"failReason": None}, JobFailed, "no reason"),
        ({"failReason": "see https://discord.com/x?token=1"}, JobFailed, r"see \[link\]"),
        ({"status": "CANCEL"}, JobFailed, "cancelled"),
        ({"status": "MODAL"}, JobFailed, "confirmation"),
        ({"status": "SUCCESS"}, BadAnswer, "no picture"),
        ({"status": "SUCCESS", "imageUrl": 5, "imageUrls": [None, {}]}, BadAnswer, "no picture"),
        ({"status": "SUCCESS", "imageUrl": "https://evil.example/x.png"}, BadAnswer, "host"),
        ({"status": "SUCCESS", "imageUrl": "http://cdn.discordapp.com/x"}, BadAnswer, "https"),
    ],
)
def test_an_end_without_a_picture_says_why(
    connect: Connect, serve: Serve, task: dict[str, Any], error: type[ProviderError], said: str
) -> None:
    with pytest.raises(ProviderError, match=said) as caught:
        polled(connect, serve, {"status": "FAILURE"} | task)

    assert type(caught.value) is error
    assert not caught.value.retryable


def test_a_picture_on_the_proxys_own_disk_is_fetched(connect: Connect, serve: Serve) -> None:
    for url in ("{base}/attachments/x.png", "/attachments/x.png"):
        outcome = polled(connect, serve, {"status": "SUCCESS", "imageUrl": url})

        assert isinstance(outcome, Pictures)
        assert [(p.data, p.quarter) for p in outcome.pictures] == [(PNG, 0), (PNG, 1)]


def test_too_few_single_pictures_lead_to_the_grid(connect: Connect, serve: Serve) -> None:
    task = {
        "status": "SUCCESS",
        "imageUrl": "{base}/grid.png",
        "imageUrls": [{"url": "{base}/0.png"}],
        "seed": "x",
    }

    outcome = polled(connect, serve, task)

    assert [(p.quarter, p.seed) for p in outcome.pictures] == [(0, None), (1, None)]


@pytest.mark.parametrize("host", ["cdn.discordapp.com", "media.discordapp.net"])
def test_discord_is_where_pictures_may_lie(
    connect: Connect, serve: Serve, host: str, dead_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", dead_url)  # nobody is to be visited from a test

    with pytest.raises(Unavailable):  # a host that is not admitted is a BadAnswer
        polled(connect, serve, {"status": "SUCCESS", "imageUrl": f"https://{host}/x.png"})


@pytest.mark.parametrize("answer", [Reply(b""), Reply(status=204), Reply(b"null"), Reply({}, 404)])
def test_a_job_that_stays_unknown_is_lost(connect: Connect, serve: Serve, answer: Reply) -> None:
    known = Reply({"id": "17", "status": "SUBMITTED", "progress": ""})
    server = serve(ACCEPTED, answer, known, answer)
    buyer = connect("midjourney", server.url)

    with pytest.raises(JobLost) as caught:
        buyer.finish(buyer.submit())

    assert caught.value.billed == "yes"
    assert len(server.seen) == 1 + 2 + 6


def test_a_lost_job_is_unknown_in_both_lines(line: Buyer, prompt: str) -> None:
    with pytest.raises(JobLost):
        line.finish(line.submit(f"{prompt} sim:job_lost"))


# -- Looking for a call that was not answered


ROUTE = Route("midjourney", "v7")


def order(key: str, prompt: str = "a red fox", count: int = 1) -> Order:
    return Order(replace(REQUEST, prompt=prompt), ROUTE, count=count, key=key)


@pytest.mark.parametrize("fault", ["reset", "bad_gateway", "not_json", "hang"])
def test_a_call_that_was_not_answered_is_found_and_goes_on(
    line: Buyer, sandbox: Sandbox, prompt: str, fault: str
) -> None:
    prompt += f" sim:{fault}"
    ours, other = order(f"{prompt}/0", prompt, 3), order(f"{prompt}/00", prompt, 3)
    error = BadAnswer if fault == "not_json" else OutcomeUnknown
    for each in (ours, other):
        with pytest.raises(error):
            line.provider.submit(each, timeout=0.5)

    jobs = [line.provider.lookup(each, timeout=5) for each in (ours, other, ours)]

    assert jobs[0] == jobs[2] != jobs[1]
    assert isinstance(jobs[0], Job)
    assert len(line.finish(jobs[0]).pictures) == 3
    assert line.provider.lookup(ours, timeout=5) == jobs[0]  # finished ones are known too
    assert sandbox.purchases(prompt) == 2


def test_what_is_found_is_the_job_that_the_answer_would_have_named(
    line: Buyer, prompt: str
) -> None:
    placed = order(f"{prompt}/" + "k" * 300, prompt, 2)
    told = line.provider.submit(placed, timeout=5)

    assert line.provider.lookup(placed, timeout=5) == told


@pytest.mark.parametrize("path", ["/midjourney", "/midjourney/mj-fast"])
def test_a_call_that_never_came_is_not_found(connect: Connect, path: str) -> None:
    with running_sandbox() as sandbox:
        provider = connect("midjourney", sandbox.url + path).provider
        provider.submit(order("imgtask_2/0"), timeout=5)
        with pytest.raises(RateLimited):
            provider.submit(order("imgtask_1/0", "a fox sim:overloaded"), timeout=5)

        assert provider.lookup(order("imgtask_1/0"), timeout=5) is None
        assert provider.lookup(order("imgtask_1/1"), timeout=5) is None


def found(name: str) -> Job:
    return Job(name, {"count": 1}, usage={"request_id": name})


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n[")
    for _ in range(40):
        handler.wfile.write(b" " * 1_000_000)


def tasks(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Tasks of others, a second apart, the newest first."""
    about = {"status": "SUCCESS", "state": "imgtask_2/0"}
    return [about | {"id": str(n), "submitTime": 10**12 - n * 1000} | fields for n in range(count)]


@pytest.mark.parametrize(
    "listed",
    [
        [],
        tasks(3),
        tasks(99),
        tasks(101),
        tasks(2, state=None),
        tasks(2, state=""),
        [{"id": "1", "state": state} for state in ("imgtask_1/00", "imgtask_1/", "IMGTASK_1/0", 1)],
        [None, 5, "imgtask_1/0", ["imgtask_1/0"], {"state": "imgtask_1/0"}],
        [{"id": task_id, "state": "imgtask_1/0"} for task_id in (None, "", {}, "x" * 201)],
        # A list that was cut reaches back further than any call of ours.
        [*tasks(99), {"id": "x", "submitTime": 10**12 - 3_600_000}],
    ],
)
def test_the_task_of_another_call_is_never_taken(
    connect: Connect, serve: Serve, listed: list[Any]
) -> None:
    server = serve(Reply(listed))

    assert (
        connect("midjourney", server.url).provider.lookup(order("imgtask_1/0"), timeout=5) is None
    )

    (seen,) = server.seen
    assert (seen.method, seen.path, seen.body) == ("GET", "/mj/task/list", b"")
    assert seen.headers["mj-api-secret"]


@pytest.mark.parametrize("listed", [tasks(100), tasks(100, submitTime=None)])
def test_a_list_that_was_cut_does_not_prove_that_there_is_no_task(
    connect: Connect, serve: Serve, listed: list[Any]
) -> None:
    provider = connect("midjourney", serve(Reply(listed)).url).provider

    with pytest.raises(Unavailable, match="too many new tasks"):
        provider.lookup(order("imgtask_1/0"), timeout=5)

    assert provider.lookup(order("imgtask_2/0"), timeout=5) == found("0")


def test_of_several_tasks_the_newest_is_the_one(connect: Connect, serve: Serve) -> None:
    about = {"state": "imgtask_1/0", "status": "FAILURE"}
    times = {"a": None, "b": 1_712_205_491_372, "c": 1_712_205_491_373, "d": 7, "e": "99"}
    server = serve(Reply([about | {"id": name, "submitTime": at} for name, at in times.items()]))

    job = connect("midjourney", server.url).provider.lookup(order("imgtask_1/0"), timeout=5)

    assert job == found("c")


def test_a_long_list_is_read_to_its_end(connect: Connect, serve: Serve) -> None:
    listed = [*tasks(5000, prompt="a fox " * 100), {"id": "17", "state": "imgtask_1/0"}]
    server = serve(Reply(listed))

    job = connect("midjourney", server.url).provider.lookup(order("imgtask_1/0"), timeout=5)

    assert job == found("17")


@pytest.mark.parametrize(
    "answer",
    [
        Reply(b""),
        Reply(b"<html>Welcome</html>"),
        Reply({}),
        Reply(b"null"),
        Reply({"code": 1, "result": []}),
        Reply({}, 404),  # a reseller that has no such thing
        Reply(b"", 401),
        Reply(b"", 403),
        Reply({}, 500),
        Reply(act=endless),
    ],
)
def test_a_list_that_cannot_be_had_proves_nothing(
    connect: Connect, serve: Serve, answer: Reply
) -> None:
    provider = connect("midjourney", serve(answer).url).provider

    with pytest.raises(Unavailable):
        provider.lookup(order("imgtask_1/0"), timeout=5)


def test_a_proxy_that_cannot_be_reached_proves_nothing(
    connect: Connect, serve: Serve, dead_url: str
) -> None:
    with pytest.raises(Unavailable):
        connect("midjourney", dead_url).provider.lookup(order("imgtask_1/0"), timeout=5)

    limited = connect("midjourney", serve(Reply(b"", 429)).url).provider
    with pytest.raises(RateLimited):
        limited.lookup(order("imgtask_1/0"), timeout=5)


def test_a_call_without_a_name_is_not_taken_for_one(connect: Connect, serve: Serve) -> None:
    server = serve(Reply([{"id": "17", "state": ""}, {"id": "18", "state": None}]))

    with pytest.raises(Unavailable, match="without a name"):
        connect("midjourney", server.url).provider.lookup(order(""), timeout=5)

    assert not server.seen


def test_a_job_can_be_cancelled_where_the_proxy_can(
    connect: Connect, sandbox: Sandbox, prompt: str
) -> None:
    for path, can in (("/midjourney/mj-fast", "unknown"), ("/midjourney", None)):
        buyer = connect("midjourney", sandbox.url + path)
        job = buyer.submit(f"{prompt} sim:never_ready")
        assert isinstance(job, Job)

        assert buyer.provider.cancel(job, timeout=5) == can

        if can:
            with pytest.raises(JobFailed, match="cancelled"):
                buyer.finish(job)


def test_a_cancelling_that_goes_wrong_is_told(connect: Connect, serve: Serve) -> None:
    server = serve(Reply(status=401))

    with pytest.raises(NotAuthorised):
        connect("midjourney", server.url).provider.cancel(Job("1/2"), timeout=5)

    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/mj/task/1%2F2/cancel")


def test_a_proxy_without_a_secret_is_asked_without_one(connect: Connect, serve: Serve) -> None:
    server = serve(ACCEPTED)

    outcome = connect("midjourney", server.url, key="").submit()

    assert "mj-api-secret" not in server.seen[0].headers
    assert json.loads(json.dumps(asdict(outcome))) == asdict(outcome)


def test_what_was_cut_out_can_be_opened(line: Buyer, prompt: str) -> None:
    picture = line.finish(line.submit(prompt)).pictures[0]
    small = replace(REQUEST, size="512x512")

    image = verify(picture.data, small, LIMITS, quarter=picture.quarter)

    with Image.open(io.BytesIO(image.data)) as opened:
        opened.load()
        assert (opened.size, opened.format) == ((512, 512), "PNG")
