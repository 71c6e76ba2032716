"""ComfyUI's ways: workflows, ids of our own, and jobs that are silent until they are over.

PROTOCOLS.md, section 14.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from common.catalog import Route
from common.errors import (
    BadAnswer,
    ConfigurationError,
    JobFailed,
    JobLost,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Refused,
    Unavailable,
)
from common.task import ImageRequest
from tests.contracts.cases import PNG
from tests.contracts.conftest import Buyer, Connect, Sandbox
from tests.contracts.scripted import Reply, Scripted
from tests.processes import until
from workers.providers.base import Job, Order, Pictures

Serve = Callable[..., Scripted]

REQUEST = ImageRequest("comfyui", "a red fox")
ROUTE = Route("comfyui", "default")
ACCEPTED = Reply({"prompt_id": "17", "number": 1, "node_errors": {}})
NOTHING = Reply({})
IDLE = Reply({"queue_running": [], "queue_pending": []})
SHIPPED = Path("workers/providers/comfyui_workflow.json")


@pytest.fixture
def buyer(connect: Connect, sandbox: Sandbox) -> Buyer:
    return connect("comfyui", f"{sandbox.url}/comfyui", sandbox=True)


def order(key: str = "imgtask_1/0", count: int = 1, first: int = 0, **fields: Any) -> Order:
    return Order(replace(REQUEST, **fields), ROUTE, count=count, first=first, key=key)


def sent(connect: Connect, serve: Serve, asked: Order, file: str = "") -> Any:
    """The body of a submit."""
    server = serve(ACCEPTED)
    connect("comfyui", server.url, file=file).provider.submit(asked, timeout=5)
    return server.seen[0].json()


def inputs(body: Any, kind: str) -> list[Any]:
    """Of all nodes of one class."""
    return [node["inputs"] for node in body["prompt"].values() if node["class_type"] == kind]


def over(outputs: Any, status: Any = None) -> Reply:
    """A history of job 17."""
    status = status or {"status_str": "success", "completed": True, "messages": []}
    return Reply({"17": {"prompt": [1, "17", {}, {}, []], "outputs": outputs, "status": status}})


def image(name: str, kind: str = "output", subfolder: str = "") -> dict[str, str]:
    return {"filename": name, "subfolder": subfolder, "type": kind}


def polled(connect: Connect, serve: Serve, *replies: Reply, count: int = 2) -> Any:
    """What one poll makes of a job, and the paths that it asked for."""
    server = serve(*replies)
    job = Job("17", {"count": count, "seed": 7})
    outcome = connect("comfyui", server.url).provider.poll(job, timeout=5)
    return outcome, [seen.path for seen in server.seen]


def test_the_workflow_is_filled_in(connect: Connect, serve: Serve) -> None:
    asked = order(count=3, first=2, size="768x512", seed=40, negative_prompt="blur")

    body = sent(connect, serve, asked)

    assert [node["text"] for node in inputs(body, "CLIPTextEncode")] == ["a red fox", "blur"]
    assert inputs(body, "EmptyLatentImage") == [{"width": 768, "height": 512, "batch_size": 3}]
    assert inputs(body, "KSampler")[0]["seed"] == 42
    assert body["prompt_id"] in inputs(body, "SaveImage")[0]["filename_prefix"]
    assert "%" not in json.dumps(body)


def test_what_a_caller_writes_is_no_placeholder(connect: Connect, serve: Serve) -> None:
    asked = order(prompt="%seed% of %count%", negative_prompt="%prompt%", seed=5)

    texts = [node["text"] for node in inputs(sent(connect, serve, asked), "CLIPTextEncode")]

    assert texts == ["%seed% of %count%", "%prompt%"]


def test_a_call_has_one_id_however_often_it_is_sent(connect: Connect, serve: Serve) -> None:
    keys = ["imgtask_1/0", "imgtask_1/0", "imgtask_1/1", "imgtask_2/0", "", ""]

    ids = [sent(connect, serve, order(key))["prompt_id"] for key in keys]

    assert ids[0] == ids[1]
    assert len(set(ids)) == 5
    assert ids == [str(uuid.UUID(one)) for one in ids]


def test_without_a_seed_each_call_has_one_of_its_own(connect: Connect, serve: Serve) -> None:
    bodies = [sent(connect, serve, order(f"imgtask_1/{first}", first=first)) for first in (0, 1, 0)]

    seeds = [inputs(body, "KSampler")[0]["seed"] for body in bodies]
    assert seeds[0] == seeds[2] != seeds[1]
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_the_same_seed_twice_brings_pictures_twice(buyer: Buyer, prompt: str) -> None:
    """What ran before is not run again by the server: the pictures' names keep it new."""
    asked = replace(REQUEST, prompt=prompt, seed=7)

    first, second = (buyer.finish(buyer.submit(request=asked, count=2)) for _ in range(2))

    assert len(first.pictures) == len(second.pictures) == 2
    assert {picture.seed for picture in (*first.pictures, *second.pictures)} == {7}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "no workflow in API format"),
        ("{}", "no workflow in API format"),
        ('{"nodes": [], "links": [], "version": 0.4}', "no workflow in API format"),
        ('{"1": {"class_type": "A"}}', "no workflow in API format"),
        ('{"1": {"class_type": "A", "inputs": {"seed": "%seed%", "n": "%count%"}}}', "%prompt%"),
        ('{"1": {"class_type": "A", "inputs": {"text": "%prompt%", "n": "%count%"}}}', "%seed%"),
        ('{"1": {"class_type": "A", "inputs": {"text": "%prompt%", "n": "%seed%"}}}', "%count%"),
    ],
)
def test_a_file_that_is_no_workflow_stops_the_start(
    connect: Connect, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "workflow.json"
    file.write_text(text)

    with pytest.raises(ConfigurationError, match=f"^COMFYUI_WORKFLOW: {file}.*{said}"):
        connect("comfyui", "http://comfy.invalid", file=str(file))


def test_a_workflow_that_is_not_there_stops_the_start(connect: Connect, tmp_path: Path) -> None:
    for file in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigurationError, match=f"^COMFYUI_WORKFLOW: {file}: "):
            connect("comfyui", "http://comfy.invalid", file=str(file))


def test_a_workflow_of_the_operators_own_is_run(
    connect: Connect, sandbox: Sandbox, tmp_path: Path, prompt: str
) -> None:
    graph = json.loads(SHIPPED.read_text())
    graph["1"]["inputs"]["ckpt_name"] = "v1-5-pruned-emaonly.safetensors"
    graph["2"]["inputs"]["text"] = "%prompt%, oil on canvas"
    graph["8"] = {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}}
    file = tmp_path / "oil.json"
    file.write_text(json.dumps(graph))
    buyer = connect("comfyui", f"{sandbox.url}/comfyui", file=str(file))

    result = buyer.finish(buyer.submit(prompt, count=2))

    assert len(result.pictures) == 2
    assert sandbox.purchases(f"{prompt}, oil on canvas") == 2


def test_a_server_with_ids_of_its_own_is_asked_by_these(connect: Connect, serve: Serve) -> None:
    server = serve(ACCEPTED, NOTHING)
    provider = connect("comfyui", server.url).provider

    job = provider.submit(order(), timeout=5)
    assert isinstance(job, Job)
    provider.poll(job, timeout=5)

    assert job.id == "17"
    assert server.seen[1].path == "/history/17"


def test_a_call_that_is_there_already_is_as_good_as_accepted(
    buyer: Buyer, sandbox: Sandbox, prompt: str
) -> None:
    key = f"imgtask_{uuid.uuid4().hex}/0"

    jobs = [buyer.submit(prompt, key=key) for _ in range(3)]

    assert jobs[0] == jobs[1] == jobs[2]
    assert len(buyer.finish(jobs[2]).pictures) == 1
    assert sandbox.purchases(prompt) == 1


def test_says_what_a_node_does_not_take_and_not_what_the_server_has(
    buyer: Buyer, connect: Connect, sandbox: Sandbox, tmp_path: Path
) -> None:
    file = tmp_path / "workflow.json"
    file.write_text(SHIPPED.read_text().replace("sd_xl_base_1.0", "none"))
    other = connect("comfyui", f"{sandbox.url}/comfyui", file=str(file))

    with pytest.raises(
        Refused, match=r"EmptyLatentImage: Value 8 smaller.*\(width\), .*\(height\)"
    ):
        buyer.submit(request=replace(REQUEST, size="8x8"))
    with pytest.raises(Refused) as caught:
        other.submit()

    assert caught.value.message == (
        "comfyui answered 400: CheckpointLoaderSimple: Value not in list "
        "(ckpt_name: 'none.safetensors')"
    )


@pytest.mark.parametrize("errors", [[], {}, {"4": None}, {"4": {"class_type": "A", "errors": [5]}}])
def test_a_refusal_of_any_shape_is_one(connect: Connect, serve: Serve, errors: Any) -> None:
    error = {"type": "prompt_no_outputs", "message": "Prompt has no outputs"}
    server = serve(Reply({"error": error, "node_errors": errors}, 400))

    with pytest.raises(Refused, match="comfyui answered 400"):
        connect("comfyui", server.url).submit()


def test_the_words_of_a_node_are_scrubbed(connect: Connect, serve: Serve) -> None:
    wrong = {"message": "not loaded:\nhttp://10.0.0.5/x", "details": "sk-0123456789"}
    errors = {"4": {"class_type": "Loader", "errors": [wrong]}}
    server = serve(Reply({"error": {"type": "x", "message": "y"}, "node_errors": errors}, 400))

    with pytest.raises(Refused) as caught:
        connect("comfyui", server.url).submit()

    assert caught.value.message.startswith("comfyui answered 400: Loader: not loaded: [link]")
    assert "sk-" not in caught.value.message


def test_pictures_are_fetched_by_their_names(connect: Connect, serve: Serve) -> None:
    outputs = {
        "8": {"images": [image("p 1.png", "temp")]},
        "9": {"images": [image("ü&1.png", subfolder="a/b"), image("2.png")], "text": ["x"]},
        "10": {"images": [image("3.png")]},
    }

    outcome, paths = polled(connect, serve, over(outputs), Reply(PNG))

    assert isinstance(outcome, Pictures)
    assert [(picture.data, picture.seed) for picture in outcome.pictures] == [(PNG, 7)] * 2
    assert paths == [
        "/history/17",
        "/view?filename=%C3%BC%261.png&subfolder=a%2Fb&type=output",
        "/view?filename=2.png&subfolder=&type=output",
    ]


def test_previews_are_taken_where_there_is_nothing_else(connect: Connect, serve: Serve) -> None:
    outputs = {"8": {"images": [image("1.png", "temp")]}}

    outcome, paths = polled(connect, serve, over(outputs), Reply(PNG))

    assert len(outcome.pictures) == 1
    assert paths[1].endswith("type=temp")


@pytest.mark.parametrize(
    "outputs",
    [{}, None, [], {"9": None}, {"9": {}}, {"9": {"images": None}}, {"9": {"images": []}},
     {"9": {"images": [None, {}, {"filename": 5}, {"filename": ""}]}}],
)  # fmt: skip
def test_a_success_without_a_picture_is_a_bad_answer(
    connect: Connect, serve: Serve, outputs: Any
) -> None:
    with pytest.raises(BadAnswer, match="names no picture"):
        polled(connect, serve, over(outputs))


def test_a_server_without_a_status_is_understood(connect: Connect, serve: Serve) -> None:
    for status in ({"status": None}, {}):
        entry = {"outputs": {"9": {"images": [image("1.png")]}}} | status

        outcome, _ = polled(connect, serve, Reply({"17": entry}), Reply(PNG))

        assert len(outcome.pictures) == 1


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            [
                ["execution_start", {}],
                [
                    "execution_error",
                    {"node_type": "KSampler", "exception_message": "no memory\nsee http://x/y"},
                ],
            ],
            r"could not carry out the job: KSampler: no memory see \[link\]$",
        ),
        ([["execution_interrupted", {"node_type": "KSampler"}]], "cancelled"),
        ([["execution_error", {}], None, []], "no reason given"),
        ([], "no reason given"),
        (None, "no reason given"),
        (5, "no reason given"),
    ],
)
def test_an_end_without_a_picture_says_why(
    connect: Connect, serve: Serve, messages: Any, said: str
) -> None:
    status = {"status_str": "error", "completed": False, "messages": messages}

    with pytest.raises(JobFailed, match=said) as caught:
        polled(connect, serve, over({}, status))

    assert caught.value.billed == "no"


def test_a_state_nobody_has_told_us_of_goes_on(connect: Connect, serve: Serve) -> None:
    status = {"status_str": "preempted", "completed": False, "messages": []}

    outcome, _ = polled(connect, serve, over({"9": {"images": [image("1.png")]}}, status))

    assert outcome == Job("17", {"count": 2, "seed": 7})


def test_the_queue_is_seldom_looked_at_and_a_job_in_it_is_waited_for(
    connect: Connect, serve: Serve
) -> None:
    queue = Reply({"queue_running": [[2, "16", {}]], "queue_pending": [None, [], [3, "17", {}]]})
    server = serve(*[NOTHING] * 10, queue, *[NOTHING] * 10, queue, NOTHING)
    provider = connect("comfyui", server.url).provider
    outcome: Any = Job("17", {"count": 1})

    for _ in range(21):
        outcome = provider.poll(outcome, timeout=5)

    asked = [seen.path for seen in server.seen]
    assert asked.count("/history/17") == 21
    assert [at for at, path in enumerate(asked) if path == "/queue"] == [10, 21]


def test_a_job_that_is_neither_queued_nor_over_is_lost(connect: Connect, serve: Serve) -> None:
    server = serve(*[NOTHING] * 10, IDLE, NOTHING, IDLE, NOTHING, IDLE, NOTHING, IDLE)
    provider = connect("comfyui", server.url).provider
    outcome: Any = Job("17", {"count": 1})

    with pytest.raises(JobLost) as caught:
        for _ in range(20):
            outcome = provider.poll(outcome, timeout=5)

    assert caught.value.billed == "no"
    assert [seen.path for seen in server.seen].count("/queue") == 4


@pytest.mark.parametrize(
    ("queue", "error"),
    [
        (Reply(b"<html>sign in</html>"), Unavailable),
        (Reply({"queue_running": {}}), Unavailable),
        (Reply(status=404), Unavailable),
        (Reply(status=502), Unavailable),
        (Reply(status=429), RateLimited),
    ],
)
def test_a_job_is_not_lost_while_the_queue_cannot_be_seen(
    connect: Connect, serve: Serve, queue: Reply, error: type[ProviderError]
) -> None:
    server = serve(NOTHING, queue)

    with pytest.raises(error) as caught:
        connect("comfyui", server.url).provider.poll(Job("17", {"unseen": 99}), timeout=5)

    assert caught.value.retryable


def test_a_call_whose_answer_was_lost_is_found_and_not_bought_again(
    connect: Connect, sandbox: Sandbox, prompt: str
) -> None:
    prompt += " sim:reset"
    asked = order(f"imgtask_{uuid.uuid4().hex}/0", prompt=prompt, count=2)
    first, heir = (connect("comfyui", f"{sandbox.url}/comfyui") for _ in range(2))
    with pytest.raises(OutcomeUnknown):
        first.provider.submit(asked, timeout=5)

    waiting = heir.provider.lookup(asked, timeout=5)
    assert waiting is not None
    result = heir.finish(waiting)
    ended = heir.provider.lookup(asked, timeout=5)

    assert len(result.pictures) == 2
    assert ended == waiting
    assert sandbox.purchases(prompt) == 2
    assert heir.provider.in_doubt == "lookup"


def test_a_call_that_never_arrived_is_not_found(buyer: Buyer) -> None:
    assert buyer.provider.lookup(order(f"imgtask_{uuid.uuid4().hex}/0"), timeout=5) is None


def test_a_call_is_looked_for_until_the_server_answers(
    connect: Connect, serve: Serve, dead_url: str
) -> None:
    for url in (dead_url, serve(Reply(status=502)).url, serve(Reply(b"<html>")).url):
        with pytest.raises(Unavailable):
            connect("comfyui", url).provider.lookup(order(), timeout=5)


def test_a_call_is_looked_for_where_it_waits_and_then_where_it_ended(
    connect: Connect, serve: Serve
) -> None:
    job = connect("comfyui", serve(Reply(status=409)).url).provider.submit(order(), timeout=5)
    assert isinstance(job, Job)
    entries = [[1, job.id, {}, {}, []]]
    for replies in (
        [Reply({"queue_running": [], "queue_pending": entries})],
        [Reply({"queue_running": entries, "queue_pending": []})],
        [IDLE, Reply({job.id: {"outputs": {}}})],
    ):
        server = serve(*replies)

        assert connect("comfyui", server.url).provider.lookup(order(), timeout=5) == job

        paths = [seen.path for seen in server.seen]
        assert paths == ["/queue", f"/history/{job.id}"][: len(replies)]


def test_a_job_is_cancelled_where_it_is(
    connect: Connect, serve: Serve, buyer: Buyer, prompt: str
) -> None:
    mine, other = [1, "17", {}], [2, "18", {}]
    for running, pending, asked in (
        ([other], [mine], ("/queue", {"delete": ["17"]})),
        ([mine], [other], ("/interrupt", {"prompt_id": "17"})),
    ):
        server = serve(Reply({"queue_running": running, "queue_pending": pending}), Reply())

        assert connect("comfyui", server.url).provider.cancel(Job("17"), timeout=5) == "no"

        assert (server.seen[1].method, server.seen[1].path, server.seen[1].json()) == (
            "POST",
            *asked,
        )


def test_a_cancelled_job_ends_as_such(buyer: Buyer, sandbox: Sandbox, prompt: str) -> None:
    job = buyer.submit(f"{prompt} sim:never_ready")
    assert isinstance(job, Job)
    queue = f"{sandbox.url}/comfyui/queue"
    until(lambda: job.id in str(requests.get(queue, timeout=5).json()["queue_running"]))

    assert buyer.provider.cancel(job, timeout=5) == "no"

    with pytest.raises(JobFailed, match="cancelled"):
        buyer.finish(job)
    assert buyer.provider.cancel(job, timeout=5) is None


def test_a_cancelling_that_goes_wrong_is_told(connect: Connect, serve: Serve) -> None:
    running = Reply({"queue_running": [[1, "17", {}]], "queue_pending": []})
    server = serve(running, Reply(status=502))

    with pytest.raises(OutcomeUnknown):
        connect("comfyui", server.url).provider.cancel(Job("17"), timeout=5)


def test_everything_is_asked_below_the_path_of_a_proxy(connect: Connect, serve: Serve) -> None:
    server = serve(
        ACCEPTED,
        NOTHING,
        IDLE,
        over({"9": {"images": [image("1.png")]}}),
        Reply(PNG),
        IDLE,
        NOTHING,
    )
    provider = connect("comfyui", f"{server.url}/tools/comfy").provider

    job = provider.submit(order(), timeout=5)
    assert isinstance(job, Job)
    provider.poll(replace(job, state=job.state | {"unseen": 9}), timeout=5)
    provider.poll(job, timeout=5)
    provider.lookup(order(), timeout=5)

    assert {seen.path.rpartition("/")[0] for seen in server.seen} == {
        "/tools/comfy",
        "/tools/comfy/history",
    }
    assert len(server.seen) == 7


def test_nothing_but_what_the_protocol_knows_is_sent(connect: Connect, serve: Serve) -> None:
    """A server refuses what comes from a page of somebody else's."""
    server = serve(ACCEPTED)

    connect("comfyui", server.url, key="").submit()

    assert not {"origin", "authorization"} & set(server.seen[0].headers)
