"""A Stable Diffusion web UI's ways (PROTOCOLS.md, section 13)."""

from __future__ import annotations

import base64
import io
import json
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import requests
from PIL import Image

from common.catalog import Catalog, Route
from common.errors import (
    BadAnswer,
    JobFailed,
    ModelNotServed,
    NotAuthorised,
    OutcomeUnknown,
    ProviderError,
    Refused,
    Unavailable,
)
from common.task import Billed, ImageRequest
from tests.contracts.cases import PNG
from tests.contracts.conftest import Buyer, Connect, Sandbox
from tests.contracts.scripted import Reply, Scripted
from tests.processes import until
from workers.providers.base import Order, Picture, Pictures

Serve = Callable[..., Scripted]

REQUEST = ImageRequest("sd-webui", "a red fox")
DEFAULT = Route("a1111", "default")
GRID, FIRST, SECOND, MAP = (PNG + name for name in (b"grid", b"first", b"second", b"map"))


def answer(*images: object, **info: Any) -> Reply:
    encoded = [base64.b64encode(i).decode() if isinstance(i, bytes) else i for i in images]
    return Reply({"images": encoded, "parameters": {}, "info": json.dumps(info)})


def made(connect: Connect, serve: Serve, reply: Reply, count: int = 2) -> list[Any]:
    """What a call makes of an answer: picture and seed, one after the other."""
    outcome = connect("a1111", serve(reply).url).submit(count=count)
    assert isinstance(outcome, Pictures)
    assert outcome.usage == {}
    pictures = [picture for picture in outcome.pictures if isinstance(picture, Picture)]
    return [(picture.data, picture.seed) for picture in pictures]


def sent(connect: Connect, serve: Serve, **options: Any) -> Any:
    server = serve(answer(PNG))
    connect("a1111", server.url).submit(**options)
    return server.seen[-1].json()


@pytest.fixture
def webui(connect: Connect, sandbox: Sandbox) -> Buyer:
    return connect("a1111", f"{sandbox.url}/a1111", key="ada:lovelace")


@pytest.fixture
def slow_webui(webui: Buyer, sandbox: Sandbox) -> Iterator[Buyer]:
    """One that takes two seconds for a call."""
    set_delay(sandbox, 2.0)
    yield webui
    set_delay(sandbox, 0.1)


def set_delay(sandbox: Sandbox, seconds: float) -> None:
    order = {"provider": "a1111", "delay": seconds}
    requests.post(f"{sandbox.url}/_sandbox/faults", json=order, timeout=5).raise_for_status()


def new_order(prompt: str) -> Order:
    return Order(replace(REQUEST, prompt=prompt), DEFAULT, key=f"imgtask_{uuid.uuid4().hex}/0")


def test_says_what_it_wants(connect: Connect, serve: Serve) -> None:
    request = replace(REQUEST, size="832x1216", seed=40, negative_prompt="blur")
    route = replace(DEFAULT, quality={"standard": "20", "hd": "40"})

    body = sent(connect, serve, request=request, route=route, count=3, first=2)

    assert re.fullmatch(r"task\(imgtask_\w+/2\)", body.pop("force_task_id"))
    assert body == {
        "prompt": "a red fox",
        "negative_prompt": "blur",
        "width": 832,
        "height": 1216,
        "batch_size": 3,
        "steps": 20,
        "seed": 42,
        "send_images": True,
        "save_images": False,
    }


@pytest.mark.parametrize(
    ("quality", "asked", "steps"),
    [
        ({"standard": "20", "hd": "40"}, "hd", 40),
        ({"standard": "20"}, "hd", None),
        ({}, None, None),
        ({"standard": "many"}, None, None),
    ],
)
def test_the_steps_are_those_of_the_route(
    connect: Connect, serve: Serve, quality: dict[str, str], asked: str | None, steps: int | None
) -> None:
    route = replace(DEFAULT, quality=quality)

    body = sent(connect, serve, request=replace(REQUEST, quality=asked), route=route)

    assert body.get("steps") == steps


def test_the_catalog_asks_for_what_the_server_can_do(webui: Buyer, prompt: str) -> None:
    model = Catalog.load().get("sd-webui")
    assert model is not None and model.takes_size("64x2048") and not model.takes_size("100x100")

    outcome = webui.submit(prompt, request=replace(REQUEST, size="64x72"), route=model.routes[0])

    assert isinstance(outcome, Pictures) and isinstance(outcome.pictures[0], Picture)
    with Image.open(io.BytesIO(outcome.pictures[0].data)) as image:
        assert image.size == (64, 72)
        assert model.max_n <= webui.provider.pictures_per_call


def test_a_user_and_a_password_are_sent_in_base64(connect: Connect, serve: Serve) -> None:
    server = serve(answer(PNG))

    connect("a1111", server.url, key="ada:love:lace").submit()
    connect("a1111", server.url, key="").submit()

    with_key, without = (seen.headers for seen in server.seen)
    assert with_key["authorization"] == "Basic YWRhOmxvdmU6bGFjZQ=="
    assert "authorization" not in without


def test_a_wrong_password_is_named(connect: Connect, sandbox: Sandbox, prompt: str) -> None:
    buyer = connect("a1111", f"{sandbox.url}/a1111", key="ada:bad")

    for route in (DEFAULT, replace(DEFAULT, model="sandbox-anime")):
        with pytest.raises(NotAuthorised, match="Incorrect username or password"):
            buyer.submit(prompt, route=route)


def test_each_picture_has_its_own_seed(webui: Buyer, sandbox: Sandbox, prompt: str) -> None:
    outcome = webui.submit(prompt, request=replace(REQUEST, seed=40), count=4)

    assert isinstance(outcome, Pictures)
    assert [picture.seed for picture in outcome.pictures if isinstance(picture, Picture)] == [
        *range(40, 44)
    ]
    assert sandbox.purchases(prompt) == 4


@pytest.mark.parametrize("word", ["sim:grid_first", "sim:grid_first sim:bad_info"])
def test_a_grid_is_not_one_of_the_pictures(webui: Buyer, prompt: str, word: str) -> None:
    outcome = webui.submit(f"{prompt} {word}", count=3)

    assert isinstance(outcome, Pictures)
    sizes = set()
    for picture in outcome.pictures:
        assert isinstance(picture, Picture)
        with Image.open(io.BytesIO(picture.data)) as image:
            sizes.add(image.size)
    assert len(outcome.pictures) == 3
    assert sizes == {(1024, 1024)}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        # The server says where the pictures begin, and more may follow.
        (answer(GRID, FIRST, SECOND, index_of_first_image=1), [FIRST, SECOND]),
        (answer(FIRST, SECOND, MAP, index_of_first_image=0), [FIRST, SECOND]),
        (answer(GRID, FIRST, SECOND, MAP, index_of_first_image=1), [FIRST, SECOND]),
        (answer(GRID, FIRST, index_of_first_image=1), [FIRST]),
        (answer(FIRST, index_of_first_image=0), [FIRST]),
        # It does not, and what comes last are pictures.
        (answer(GRID, FIRST, SECOND), [FIRST, SECOND]),
        (answer(FIRST, SECOND, index_of_first_image="1"), [FIRST, SECOND]),
        (answer(GRID, FIRST, SECOND, index_of_first_image=-1), [FIRST, SECOND]),
        (answer(FIRST), [FIRST]),
        # One of them cannot be read.
        (answer("%%", SECOND), [SECOND]),
        (answer(FIRST, None), [FIRST]),
        (
            answer("data:image/png;base64," + base64.b64encode(FIRST).decode(), SECOND),
            [FIRST, SECOND],
        ),
    ],
)
def test_takes_the_pictures_and_nothing_else(
    connect: Connect, serve: Serve, reply: Reply, expected: list[bytes]
) -> None:
    assert [data for data, _ in made(connect, serve, reply)] == expected


@pytest.mark.parametrize(
    ("told", "seeds"),
    [
        ({"all_seeds": [7, 8]}, [7, 8]),
        ({"all_seeds": [2**32 - 1, 2**32]}, [2**32 - 1, 2**32]),
        ({"all_seeds": [0]}, [0, None]),
        ({"all_seeds": ["7", None]}, [None, None]),
        ({"all_seeds": [-1, True]}, [None, None]),
        ({"all_seeds": 7}, [None, None]),
        ({}, [None, None]),
    ],
)
def test_seeds_are_taken_where_they_make_sense(
    connect: Connect, serve: Serve, told: dict[str, Any], seeds: list[int | None]
) -> None:
    pictures = made(connect, serve, answer(FIRST, SECOND, index_of_first_image=0, **told))

    assert [seed for _, seed in pictures] == seeds


@pytest.mark.parametrize("seeded", [0, 1])
def test_a_picture_that_cannot_be_read_leaves_the_others_their_seeds(
    connect: Connect, serve: Serve, seeded: int
) -> None:
    images = [FIRST, SECOND]
    images[1 - seeded] = b""

    pictures = made(connect, serve, answer(*images, all_seeds=[7, 8]))

    assert [seed for _, seed in pictures] == [7 + seeded]


@pytest.mark.parametrize("info", ["", "{", "[]", "null", None, 5, {"all_seeds": [7, 8]}])
def test_what_is_told_may_be_unreadable(connect: Connect, serve: Serve, info: object) -> None:
    reply = answer(FIRST, SECOND)
    reply.body["info"] = info

    assert made(connect, serve, reply) == [(FIRST, None), (SECOND, None)]


@pytest.mark.parametrize(
    "reply", [answer(), answer(""), answer(GRID, index_of_first_image=1), Reply({"images": None})]
)
def test_no_picture_is_a_bad_answer(connect: Connect, serve: Serve, reply: Reply) -> None:
    with pytest.raises(BadAnswer):
        connect("a1111", serve(reply).url).submit(count=2)


def test_a_checkpoint_is_asked_for_by_name(webui: Buyer, sandbox: Sandbox, prompt: str) -> None:
    webui.submit(prompt, route=replace(DEFAULT, model="sandbox-anime"))
    webui.submit(prompt, route=replace(DEFAULT, model=""))
    webui.submit(prompt)

    sold = requests.get(f"{sandbox.url}/_sandbox/purchases", timeout=5).json()["purchases"]
    models = [entry["model"] for entry in sold if entry["prompt"] == prompt]
    assert models == ["sandbox-anime", "sandbox-xl", "sandbox-xl"]


def test_a_checkpoint_that_is_not_there_is_not_replaced_by_another(
    webui: Buyer, sandbox: Sandbox, prompt: str
) -> None:
    with pytest.raises(ModelNotServed, match="no checkpoint of the name long-gone") as caught:
        webui.submit(prompt, route=replace(DEFAULT, model="long-gone"))

    assert caught.value.billed == "no"
    assert sandbox.purchases(prompt) == 0


ENTRY = {
    "title": "xl/fox.safetensors [0123456789]",
    "model_name": "xl_fox",
    "hash": "0123456789",
    "sha256": None,
    "filename": "C:\\webui\\models\\xl\\fox.safetensors",
}


@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        *((str(ENTRY[field]), True) for field in ("title", "model_name", "hash")),
        *(("xl/fox.safetensors", True), ("fox.safetensors", True), ("fox", True)),
        *(("None", False), ("xl", False), ("FOX", False), ("fox.safetensors [0]", False)),
    ],
)
def test_a_checkpoint_has_many_names(
    connect: Connect, serve: Serve, name: str, is_known: bool
) -> None:
    server = serve(Reply([ENTRY]), answer(PNG))
    buyer = connect("a1111", server.url)

    if is_known:
        buyer.submit(route=replace(DEFAULT, model=name))
        assert server.seen[1].json()["override_settings"] == {"sd_model_checkpoint": name}
    else:
        with pytest.raises(ModelNotServed):
            buyer.submit(route=replace(DEFAULT, model=name))
    assert (server.seen[0].method, server.seen[0].path) == ("GET", "/sdapi/v1/sd-models")
    assert len(server.seen) == 1 + is_known


@pytest.mark.parametrize(
    "reply", [Reply({}, 404), Reply({}), Reply([]), Reply([None, {"title": 5}]), Reply(b"<html>")]
)
def test_a_server_that_does_not_tell_its_checkpoints_is_trusted(
    connect: Connect, serve: Serve, reply: Reply
) -> None:
    server = serve(reply, answer(PNG))

    connect("a1111", server.url).submit(route=replace(DEFAULT, model="fox"))

    assert server.seen[1].json()["override_settings"] == {"sd_model_checkpoint": "fox"}


def test_nothing_is_sent_when_the_checkpoints_cannot_be_asked_for(
    connect: Connect, serve: Serve
) -> None:
    server = serve(Reply(status=502))

    with pytest.raises(Unavailable):
        connect("a1111", server.url).submit(route=replace(DEFAULT, model="fox"))

    assert [seen.method for seen in server.seen] == ["GET"]


def said(error: str, detail: object = "", errors: str = "") -> dict[str, object]:
    return {"error": error, "detail": detail, "body": "", "errors": errors}


@pytest.mark.parametrize(
    ("status", "body", "error", "billed", "message"),
    [
        (
            *(500, said("OutOfMemoryError", errors="CUDA out of memory."), JobFailed, "no"),
            "a1111 answered 500: OutOfMemoryError: CUDA out of memory.",
        ),
        (
            *(500, said("HTTPException", "Invalid image format", "x"), JobFailed, "no"),
            "a1111 answered 500: HTTPException: Invalid image format",
        ),
        (
            *(500, said("RuntimeError", ["odd"], "broken"), JobFailed, "no"),
            "a1111 answered 500: RuntimeError: broken",
        ),
        (500, "words", OutcomeUnknown, "unknown", "a1111 answered 500."),
        (502, said("x", errors="y"), OutcomeUnknown, "unknown", "a1111 answered 502: y"),
        (
            *(400, said("HTTPException", "Sampler not found"), Refused, "no"),
            "a1111 answered 400: Sampler not found",
        ),
        (
            *(404, {"detail": "Not Found"}, ModelNotServed, "no"),
            "a1111 answered 404: Not Found. Perhaps the server was started without --api.",
        ),
        (
            *(422, said("HTTPException", "Script 'x' not found"), Refused, "no"),
            "a1111 answered 422: Script 'x' not found",
        ),
        (
            422,
            {"detail": [{"loc": ["body", "steps"], "msg": "too many", "type": "x"}]},
            *(Refused, "no", "a1111 answered 422: steps: too many"),
        ),
        (
            *(401, said("HTTPException", "Incorrect username or password"), NotAuthorised, "no"),
            "a1111 answered 401: Incorrect username or password",
        ),
    ],
)
def test_says_what_the_server_said(
    connect: Connect,
    serve: Serve,
    status: int,
    body: object,
    error: type[ProviderError],
    billed: Billed,
    message: str,
) -> None:
    with pytest.raises(ProviderError) as caught:
        connect("a1111", serve(Reply(body, status)).url).submit()

    assert (type(caught.value), caught.value.billed) == (error, billed)
    assert caught.value.message == message


def test_tells_how_far_it_has_come_and_of_nobody_elses_work(
    slow_webui: Buyer, sandbox: Sandbox, prompt: str
) -> None:
    provider = slow_webui.provider
    mine, next_one = new_order(prompt), new_order(prompt)
    assert provider.progress_every is not None
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(provider.submit, mine, timeout=20)
        percent = until(lambda: provider.progress(mine, timeout=5))
        second = pool.submit(provider.submit, next_one, timeout=20)
        until(lambda: sandbox.purchases(prompt) == 2)

        of_both = [provider.progress(order, timeout=5) for order in (mine, next_one)]

        assert not first.done()
        assert 0 < percent <= of_both[0] <= 100
        assert of_both[1] is None
        until(lambda: provider.progress(next_one, timeout=5))
        assert first.done() and not second.done()
    assert provider.progress(mine, timeout=5) is None


@pytest.mark.parametrize(
    ("body", "percent"),
    [
        ({"active": True, "progress": 0.35}, 35),
        ({"active": True, "progress": 0}, 0),
        ({"active": True, "progress": 1.7}, 100),
        ({"active": True, "progress": -1}, 0),
        ({"active": True, "progress": None}, None),
        ({"active": True, "progress": "0.5"}, None),
        # What SD.Next says of work that is not the one asked for.
        ({"active": False, "queued": False, "completed": False, "progress": 0.35}, None),
        ({"active": False, "queued": True, "progress": None}, None),
        ({}, None),
        ([], None),
    ],
)
def test_reads_how_far_it_has_come(
    connect: Connect, serve: Serve, body: object, percent: int | None
) -> None:
    server = serve(Reply(body))
    order = new_order("a red fox")

    assert connect("a1111", server.url).provider.progress(order, timeout=5) == percent

    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/internal/progress")
    assert seen.json() == {
        "id_task": f"task({order.key})",
        "id_live_preview": -1,
        "live_preview": False,
    }


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_without_its_user_interface_tells_no_progress(
    connect: Connect, serve: Serve, status: int
) -> None:
    server = serve(Reply({"detail": "Not Found"}, status))

    assert connect("a1111", server.url).provider.progress(new_order("x"), timeout=5) is None


def test_a_progress_that_cannot_be_asked_for_is_an_error(
    connect: Connect, serve: Serve, dead_url: str
) -> None:
    with pytest.raises(Unavailable):
        connect("a1111", dead_url).provider.progress(new_order("x"), timeout=5)
    with pytest.raises(NotAuthorised):
        connect("a1111", serve(Reply({}, 401)).url).provider.progress(new_order("x"), timeout=5)


def test_a_call_of_no_name_has_none(connect: Connect, serve: Serve) -> None:
    server = serve(answer(PNG))

    connect("a1111", server.url).provider.submit(Order(REQUEST, DEFAULT), timeout=5)

    assert "force_task_id" not in server.seen[0].json()
