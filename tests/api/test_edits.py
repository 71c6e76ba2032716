"""`POST /v1/images/edits` and `/v1/images/variations`: what is taken, kept and refused."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image, PngImagePlugin

from tests.api.conftest import Stack, picture

PNG = picture(64, 64)
JPEG = picture(64, 64, "jpeg")
WEBP = picture(96, 48, "webp")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def mask(width: int = 64, height: int = 64, *, clear: bool = True) -> bytes:
    image = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    if clear:
        image.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    return encoded(image)


@pytest.fixture
def stack(stack: Stack) -> Iterator[Stack]:
    """The shared one, for a caller of its own: what these tests leave waiting holds up nobody."""
    _, key = stack.keys.create("edits")
    with requests.Session() as http:
        http.trust_env = False
        http.headers["Authorization"] = f"Bearer {key}"
        yield replace(stack, key=key, http=http)


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def edit(stack: Stack, *files: Any, to: str = "edits", **fields: Any) -> requests.Response:
    """Send a form; `files` are pairs of a name and bytes, or None in place of any."""
    parts = [(name, (f"{name}.bin", data, "application/octet-stream")) for name, data in files]
    if to == "edits":
        fields = {"prompt": "a red hat"} | fields
    return stack.http.post(
        f"{stack.base}/v1/images/{to}", data=fields, files=parts or {"x": (None, "")}, timeout=60
    )


def edit_json(stack: Stack, to: str = "edits", **fields: Any) -> requests.Response:
    if to == "edits":
        fields = {"prompt": "a red hat"} | fields
    return stack.http.post(f"{stack.base}/v1/images/{to}", json=fields, timeout=60)


def refused(answer: requests.Response) -> tuple[str, str, str]:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return error["code"], error["param"], error["message"]


def stored(stack: Stack) -> set[str]:
    return {path.name for path in (stack.data_dir / "images").glob("*/*")}


def request_of(stack: Stack, answer: requests.Response) -> Any:
    assert answer.status_code == 202, answer.text
    task = stack.store.read(answer.json()["task_id"])
    assert task is not None
    return task.request


# -- what is taken


def test_an_edit_answers_like_a_generation(stack: Stack) -> None:
    answer = edit(stack, ("image", PNG))

    assert answer.status_code == 202
    body = answer.json()
    assert body["object"] == "image.generation.task"
    assert (body["status"], body["model"]) == ("pending", "gpt-image-2")
    assert body["data"] == [{"url": "", "revised_prompt": "a red hat"}]
    assert answer.headers["Location"] == body["poll_url"]
    assert stack.get(body["poll_url"]).json()["status"] == "pending"


def test_what_it_starts_from_is_kept_as_it_came_and_named_in_the_record(stack: Stack) -> None:
    answer = edit(stack, ("image", PNG), ("image", WEBP), ("image", JPEG), ("mask", mask()))
    task_id = answer.json()["task_id"]

    request = request_of(stack, answer)
    assert request.operation == "edit"
    sent = {"input-0.png": PNG, "input-1.webp": WEBP, "input-2.jpeg": JPEG, "mask.png": mask()}
    kept = [*request.inputs, request.mask]
    assert {told.file: told.sha256 for told in kept} == {
        name: hashlib.sha256(data).hexdigest() for name, data in sent.items()
    }
    assert [(told.width, told.height, told.bytes) for told in request.inputs] == [
        (64, 64, len(PNG)),
        (96, 48, len(WEBP)),
        (64, 64, len(JPEG)),
    ]
    for name, data in sent.items():
        assert stack.storage.get(f"{task_id}/{name}") == data


@pytest.mark.parametrize("name", ["image", "image[]", "image[0]", "images", "images[]"])
def test_files_are_taken_by_every_name_that_clients_give_them(stack: Stack, name: str) -> None:
    request = request_of(stack, edit(stack, (name, PNG), (name, JPEG)))

    assert [told.format for told in request.inputs] == ["png", "jpeg"]


@pytest.mark.parametrize(
    "fields",
    [
        {"image_url": data_url(PNG)},
        {"image": data_url(PNG)},
        {"image": {"image_url": data_url(PNG)}},
        {"image": [data_url(PNG)]},
        {"images": [data_url(PNG)]},
        {"images": [{"image_url": data_url(PNG)}]},
        {"images": [{"image_url": {"url": data_url(PNG)}}]},
        {"images": [{"type": "image_url", "image_url": data_url(PNG).replace("data", "DATA")}]},
        {"images": [data_url(PNG)], "mask": None, "image_url": None, "n": None},
    ],
)
def test_json_may_name_an_image_in_many_ways(stack: Stack, fields: dict[str, Any]) -> None:
    request = request_of(stack, edit_json(stack, **fields))

    assert [told.sha256 for told in request.inputs] == [hashlib.sha256(PNG).hexdigest()]


@pytest.mark.parametrize("given", [{"mask": data_url(mask())}, {"mask_url": data_url(mask())}])
def test_json_may_have_several_images_and_a_mask(stack: Stack, given: dict[str, Any]) -> None:
    request = request_of(stack, edit_json(stack, images=[data_url(PNG), data_url(WEBP)], **given))

    assert [told.file for told in request.inputs] == ["input-0.png", "input-1.webp"]
    assert request.mask.file == "mask.png"


def test_a_file_that_was_not_chosen_is_none(stack: Stack) -> None:
    """As browsers send it."""
    files = [("image", ("a.png", PNG)), ("mask", ("", b"", "application/octet-stream"))]
    answer = stack.http.post(
        f"{stack.base}/v1/images/edits", data={"prompt": "x"}, files=files, timeout=10
    )

    assert request_of(stack, answer).mask is None


def test_a_form_may_hold_an_address_in_place_of_a_file(stack: Stack) -> None:
    request = request_of(stack, edit(stack, ("image", PNG), image_url=data_url(JPEG)))

    assert [told.format for told in request.inputs] == ["png", "jpeg"]


def test_the_fields_of_a_form_mean_what_they_mean_in_json(stack: Stack) -> None:
    answer = edit(
        stack,
        ("image", PNG),
        model="gpt-image-2",
        prompt="7",
        n="2",
        size="1024x1024",
        quality="high",
        output_format="webp",
        output_compression="80",
        background="transparent",
        user="ada",
        response_format="b64_json",
        seed="7",
    )

    request = request_of(stack, answer)
    assert (request.prompt, request.n, request.size) == ("7", 2, "1024x1024")
    assert (request.quality, request.output_format) == ("high", "webp")
    assert (request.output_compression, request.background) == (80, "transparent")
    assert (request.user, request.response_format, request.seed) == ("ada", "b64_json", None)
    assert answer.json()["warnings"] == ["seed is not taken by gpt-image-2 and was ignored."]


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": '{"order": "7"}', "webhook_events": '["failed"]'},
        {"metadata[order]": "7", "webhook_events[]": "failed"},  # as OpenAI's SDK would
    ],
)
def test_objects_and_lists_in_a_form(stack: Stack, fields: dict[str, str]) -> None:
    answer = edit(stack, ("image", PNG), webhook_url="https://shop.example.com/x", **fields)

    assert answer.status_code == 202, answer.text
    assert answer.json()["warnings"] == []
    task = stack.store.read(answer.json()["task_id"])
    assert task is not None and task.webhook is not None
    assert (task.metadata, task.webhook.events) == ({"order": "7"}, ("failed",))


@pytest.mark.parametrize(
    ("model", "size", "wanted"),
    [
        ("gpt-image-2", (400, 600), "1024x1536"),
        ("gpt-image-2", (640, 480), "1536x1024"),
        ("gpt-image-2", (64, 64), "1024x1024"),
        ("flux-kontext-pro", (480, 640), "880x1184"),
        ("dall-e-2", (300, 300), "1024x1024"),
    ],
)
def test_without_a_size_the_shape_of_the_first_image_is_kept(
    stack: Stack, model: str, size: tuple[int, int], wanted: str
) -> None:
    for said in ({}, {"size": "auto"}):
        request = request_of(stack, edit(stack, ("image", picture(*size)), model=model, **said))
        assert request.size == wanted


def test_a_photograph_of_a_telephone_is_a_jpeg(stack: Stack) -> None:
    """Which has further pictures behind the first."""
    many = encoded(
        Image.new("RGB", (64, 64)), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))]
    )

    request = request_of(stack, edit(stack, ("image", many)))

    assert request.inputs[0].format == "jpeg"


@pytest.mark.parametrize(
    ("model", "warning"),
    [
        ("gpt-image-2", "moderation is not taken by gpt-image-2 and was ignored."),
        ("dall-e-2", "dall-e-2 was retired by OpenAI"),
    ],
)
def test_what_is_not_done_is_said(stack: Stack, model: str, warning: str) -> None:
    answer = edit(stack, ("image", PNG), model=model, moderation="low", odd="x")

    warnings = answer.json()["warnings"]
    assert any(said.startswith(warning) for said in warnings)
    assert "'odd' is not a known field and was ignored." in warnings


# -- what is refused

ANIMATION = encoded(
    Image.new("RGB", (8, 8)), "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]
)
HUGE = encoded(Image.new("1", (9000, 9000)))

WRONG: dict[str, tuple[Any, str, str]] = {
    # what is sent: files, and fields; the field that is named; the beginning of what is said
    "nothing": ((), "image", "image is required: gpt-image-2 takes one to 16 images."),
    "only a mask": (((("mask", mask()),)), "image", "image is required"),
    "no picture": ((("image", b"hello"),), "image", "image cannot be decoded: PNG, JPEG and WebP"),
    "an empty file": ((("image", b""),), "image", "image cannot be decoded"),
    "a picture cut off": ((("image", PNG[: len(PNG) // 2]),), "image", "image cannot be decoded"),
    "a GIF": ((("image", encoded(Image.new("P", (8, 8)), "GIF")),), "image", "image cannot be"),
    "an SVG": ((("image", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),), "image", "image cannot"),
    "an animation": ((("image", ANIMATION),), "image", "image is an animation"),
    "too many pixels": ((("image", HUGE),), "image", "image has more than 64000000 pixels"),
    "the second one": (
        (("image", PNG), ("image", b"hello"), ("image", PNG)),
        "image[1]",
        "image[1] cannot be decoded",
    ),
    "too many": ((("image", PNG),) * 17, "image[16]", "17 images were sent; gpt-image-2 takes 16"),
    "a mask of another size": (
        (("image", PNG), ("mask", mask(64, 32))),
        "mask",
        "mask has 64x32 pixels and image 64x64; they have to be of one size.",
    ),
    "a mask without alpha": ((("image", PNG), ("mask", PNG)), "mask", "mask has no alpha channel"),
    "a mask of nothing": (
        (("image", PNG), ("mask", mask(clear=False))),
        "mask",
        "mask marks nothing",
    ),
    "a mask that is no PNG": (
        (("image", PNG), ("mask", encoded(Image.new("RGBA", (64, 64)), "WEBP"))),
        "mask",
        "mask is webp; it has to be png.",
    ),
    "two masks": ((("image", PNG), ("mask", mask()), ("mask", mask())), "mask", "There can be one"),
    "another file": ((("image", PNG), ("picture", PNG)), None, "Files are taken as image and mask"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_an_image_is_said_by_its_name(stack: Stack, what: str) -> None:
    files, param, said = WRONG[what]
    before = stored(stack), stack.redis.dbsize()

    code, named, message = refused(edit(stack, *files))

    assert (named, message[: len(said)]) == (param, said)
    assert code in ("invalid_value", "missing_required_parameter")
    assert (stored(stack), stack.redis.dbsize()) == before


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({}, "image", "image is required"),
        ({"images": []}, "image", "image is required"),
        ({"images": 7}, "images", "images has to be a file, an https address or a data: URL."),
        ({"images": [data_url(PNG), {}]}, "images[1]", "images[1] has to be a file"),
        ({"images": [{"file_id": "file-1"}]}, "images[0]", "images[0] is a file_id"),
        ({"image_url": "data:image/png,abc"}, "image_url", "image_url is a data: URL that is not"),
        ({"image_url": "data:;base64,!!"}, "image_url", "image_url is a data: URL whose base64"),
        ({"image_url": data_url(b"hello")}, "image_url", "image_url cannot be decoded"),
        ({"images": [data_url(PNG)], "mask": data_url(PNG)}, "mask", "mask has no alpha"),
        ({"images": [data_url(PNG)], "mask": 3}, "mask", "mask has to be a file"),
        ({"image_url": "iVBORw0KGgo"}, "image_url", "image_url must begin with https://."),
        ({"images": ["x"] * 300}, "images", "images holds more than 200."),
    ],
)
def test_what_is_wrong_in_json_is_said_by_its_name(
    stack: Stack, fields: dict[str, Any], param: str, said: str
) -> None:
    _, named, message = refused(edit_json(stack, **fields))

    assert (named, message[: len(said)]) == (param, said)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"prompt": " "}, "prompt", "prompt must not be blank."),
        ({"n": "x"}, "n", "n must be an integer from 1 to 4 for gpt-image-2."),
        ({"n": "5"}, "n", "n must be an integer from 1 to 4"),
        ({"n": ["1", "2"]}, "n", "'n' is there more than once."),
        ({"size": "70x70"}, "size", "gpt-image-2 does not take the size 70x70"),
        ({"strength": "2"}, "strength", "strength: should be less than or equal to 1."),
        ({"model": "gpt-image"}, "model", "There is no model 'gpt-image'."),
        ({"model": "flux-pro"}, "model", "flux-pro takes no images to edit; those that do: dall-e"),
        ({"model": "dall-e-3"}, "model", "dall-e-3 takes no images to edit"),
    ],
)
def test_the_other_fields_are_checked_as_those_of_a_generation(
    stack: Stack, fields: dict[str, Any], param: str, said: str
) -> None:
    _, named, message = refused(edit(stack, ("image", PNG), **fields))

    assert (named, message[: len(said)]) == (param, said)


def test_a_prompt_is_required(stack: Stack) -> None:
    answer = stack.http.post(
        f"{stack.base}/v1/images/edits", files={"image": ("a.png", PNG)}, timeout=10
    )

    assert refused(answer)[:2] == ("missing_required_parameter", "prompt")


@pytest.mark.parametrize(
    ("model", "files", "param", "said", "suggested"),
    [
        (
            "flux-kontext-pro",
            (("image", PNG),) * 5,
            "image[4]",
            "5 images were sent; flux-kontext-pro takes 4 at most, those that do: ",
            "gpt-image-2",
        ),
        (
            "flux-2-pro",
            (("image", PNG), ("mask", mask())),
            "mask",
            "flux-2-pro takes no mask; those that do: ",
            "dall-e-2",
        ),
        ("dall-e-2", (("image", JPEG),), "image", "image is jpeg; it has to be png.", None),
        ("dall-e-2", (("image", picture(64, 48)),), "image", "image has 64x48 pixels: not a", None),
    ],
)
def test_the_limits_of_a_model_are_kept_and_others_named(
    stack: Stack, model: str, files: Any, param: str, said: str, suggested: str | None
) -> None:
    answer = edit(stack, *files, model=model)

    _, named, message = refused(answer)
    assert (named, message[: len(said)]) == (param, said)
    assert suggested is None or suggested in answer.json()["error"]["suggestions"]


def test_a_model_may_take_fewer_bytes(stack: Stack) -> None:
    noise = Image.frombytes("RGB", (1300, 1300), os.urandom(3 * 1300**2))

    _, named, message = refused(edit(stack, ("image", encoded(noise)), model="dall-e-2"))

    assert named == "image"
    assert re.fullmatch(r"image has [0-9]{7} bytes; dall-e-2 takes 4000000\.", message)


def test_a_model_without_a_provider_that_edits_is_unavailable(stack: Stack) -> None:
    answer = edit(stack, ("image", PNG), model="ideogram-v3")

    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "model_unavailable"
    assert "flux-kontext-pro" in error["alternatives"]
    assert not {"flux-pro", "ideogram-v3"} & set(error["alternatives"])


def test_all_that_is_wrong_is_said_at_once(stack: Stack) -> None:
    answer = edit(stack, ("image", b"x"), ("image", PNG), ("image", b"y"))

    fields = [problem["field"] for problem in answer.json()["validation_errors"]]
    assert fields == ["image[0]", "image[2]"]


def test_nobody_uploads_without_a_key(stack: Stack) -> None:
    answer = requests.post(
        f"{stack.base}/v1/images/edits", files={"image": PNG}, data={"prompt": "x"}, timeout=10
    )

    assert answer.status_code == 401


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "image/png"])
def test_other_bodies_are_not_taken(stack: Stack, kind: str) -> None:
    answer = stack.http.post(
        f"{stack.base}/v1/images/edits", data=b"x", headers={"Content-Type": kind}, timeout=10
    )

    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="image"'),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nabc\r\n--x--"),
        ("multipart/form-data; boundary=x", b"\x00" * 100),
        ("multipart/form-data", b"--x\r\n"),
        ("application/json", b"{"),
        ("application/json", b"[]"),
        ("application/json", b'{"prompt": "a", "prompt": "b"}'),
    ],
)
def test_broken_bodies_are_refused(stack: Stack, kind: str, body: bytes) -> None:
    answer = stack.http.post(
        f"{stack.base}/v1/images/edits", data=body, headers={"Content-Type": kind}, timeout=10
    )

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in ("bad_request", "invalid_json")


def raw(
    stack: Stack, *head: str, body: Iterator[bytes] | list[bytes]
) -> tuple[int, dict[str, Any]]:
    """Send what no client would; the status and the body of the answer."""
    where = urlsplit(stack.base)
    with socket.create_connection((where.hostname, where.port), timeout=60) as connection:
        lines = [
            "POST /v1/images/edits HTTP/1.1",
            f"Host: {where.netloc}",
            f"Authorization: Bearer {stack.key}",
            "Connection: close",
            *head,
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        for piece in body:
            try:
                connection.sendall(piece)
            except OSError:
                break  # it has heard enough
        connection.shutdown(socket.SHUT_WR)
        data = b""
        while piece := connection.recv(65_536):
            data += piece
    head_, _, rest = data.partition(b"\r\n\r\n")
    return int(head_.split()[1]), json.loads(rest)


@pytest.mark.parametrize(
    ("kind", "length"),
    [("multipart/form-data; boundary=x", 200_000_001), ("application/json", 70_000_001)],
)
def test_a_request_that_says_it_is_too_large_is_not_read(
    stack: Stack, kind: str, length: int
) -> None:
    status, body = raw(stack, f"Content-Type: {kind}", f"Content-Length: {length}", body=[])

    assert (status, body["error"]["code"]) == (413, "payload_too_large")
    assert "a form may have 200 MB" in body["error"]["message"]


@pytest.mark.parametrize("megabytes", [70, 71, 90])
def test_a_request_that_is_too_large_is_answered_and_not_cut_off(
    stack: Stack, megabytes: int
) -> None:
    """A connection that is closed with something unread takes the answer back."""

    def chunks() -> Iterator[bytes]:
        start = b'{"prompt": "x", "image_url": "data:;base64,'
        for piece in (start, *(b"A" * 1_000_000,) * megabytes):
            yield b"%x\r\n%s\r\n" % (len(piece), piece)

    status, body = raw(
        stack, "Content-Type: application/json", "Transfer-Encoding: chunked", body=chunks()
    )

    assert (status, body["error"]["code"]) == (413, "payload_too_large")


def test_a_text_in_a_form_is_limited_too(stack: Stack) -> None:
    assert edit(stack, ("image", PNG), prompt="x" * 600_000).status_code == 413


def test_an_upload_cut_short_is_refused(stack: Stack) -> None:
    where = urlsplit(stack.base)
    with socket.create_connection((where.hostname, where.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/images/edits HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Authorization: Bearer " + stack.key.encode() + b"\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5000\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc'
        )
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65_536)

    assert answer.startswith(b"HTTP/1.1 400 ")


def workers_of(stack: Stack) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(stack.process.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(pid) for pid in listed.stdout.split()]


def most_memory(pid: int) -> int:
    """The most that a process has had in memory since this was last forgotten, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_a_large_upload_is_not_held_in_memory(stack: Stack) -> None:
    (worker,) = workers_of(stack)
    edit(stack, ("image", b"x"))
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # forget the mark
    before = most_memory(worker)

    answer = edit(stack, *((("image", os.urandom(45_000_000)),) * 4))

    assert refused(answer)[1] == "image[0]"
    assert most_memory(worker) - before < 30_000_000


def test_an_image_may_have_50_mb(stack: Stack) -> None:
    (worker,) = workers_of(stack)
    answer = edit(stack, ("image", PNG + b"\0" * 50_000_001))

    assert refused(answer)[2].startswith("image is larger than 50000000 bytes")
    assert worker in workers_of(stack)


# -- repeats


def test_a_repeated_edit_is_the_same_task_and_keeps_its_images_once(stack: Stack) -> None:
    def send(image: bytes) -> requests.Response:
        return stack.http.post(
            f"{stack.base}/v1/images/edits",
            data={"prompt": "x"},
            files={"image": ("a.png", image)},
            headers={"Idempotency-Key": name},
            timeout=30,
        )

    name = f"edit-{os.urandom(8).hex()}"
    first = send(PNG)
    kept = list((stack.data_dir / "images").glob("*/*"))

    again, other = send(PNG), send(JPEG)

    assert again.json()["task_id"] == first.json()["task_id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert list((stack.data_dir / "images").glob("*/*")) == kept
    assert len(list((stack.data_dir / "images").glob("*"))) == len({path.parent for path in kept})


# -- variations


def test_a_variation_has_no_prompt(stack: Stack) -> None:
    answer = edit(stack, ("image", PNG), to="variations", prompt="x")

    assert answer.status_code == 503  # no server of that kind is configured here
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_unavailable", "model")
    assert "makes variations with dall-e-2" in error["message"]
    assert "it needs compatible" in error["message"]


def test_few_models_make_variations(stack: Stack) -> None:
    _, named, message = refused(edit(stack, ("image", PNG), to="variations", model="gpt-image-2"))

    assert named == "model"
    assert message == "gpt-image-2 makes no variations; those that do: dall-e-2."


# -- around it


@pytest.mark.parametrize("what", ["edits", "variations"])
def test_nothing_is_got_there(stack: Stack, what: str) -> None:
    assert stack.get(f"/v1/images/{what}").status_code == 405


def test_nobody_gets_what_a_task_starts_from(stack: Stack) -> None:
    task_id = edit(stack, ("image", PNG), ("mask", mask())).json()["task_id"]

    for name in ("input-0.png", "mask.png"):
        assert stack.get(f"/files/{task_id}/{name}").status_code == 403
    stack.complete(task_id)
    url = stack.get(f"/v1/tasks/{task_id}").json()["data"][0]["url"]
    assert requests.get(url, timeout=10).ok
    assert requests.get(url.replace("/0.png", "/input-0.png"), timeout=10).status_code == 403


def test_nothing_of_an_upload_is_told(stack: Stack) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "MARKED-CONTENT")
    marked = encoded(Image.new("RGB", (64, 64)), pnginfo=text)
    name = "MARKED-NAME.png"
    url = f"{stack.base}/v1/images/edits"

    answers = [
        stack.http.post(
            url, data={"prompt": "MARKED-PROMPT"}, files={"image": (name, data)}, timeout=30
        )
        for data in (marked, marked[:-60], b"MARKED-CONTENT")
    ]
    answers.append(edit_json(stack, image_url="https://MARKED-HOST.invalid/MARKED-PATH"))
    answers.append(edit_json(stack, images=[{"MARKED-KEY": 1}]))

    assert [answer.status_code for answer in answers] == [202, 400, 400, 400, 400]
    assert not any("MARKED" in answer.text for answer in answers[1:])
    assert "MARKED" not in stack.log.read_text()


def test_models_say_what_they_take(stack: Stack) -> None:
    image = stack.get("/v1/models/gpt-image-2").json()["image"]

    assert image["operations"] == ["generation", "edit"]
    assert image["edits"] == {
        "max_images": 16,
        "mask": True,
        "formats": ["png", "jpeg", "webp"],
        "square": False,
        "max_bytes": None,
        "parameters": ["quality", "output_format", "output_compression", "background", "user"],
    }
    assert image["variations"] is None
    assert stack.get("/v1/models/flux-pro").json()["image"]["edits"] is None


def test_an_edit_costs_one_round_trip(stack: Stack) -> None:
    edit(stack, ("image", PNG))
    before = stack.commands()

    edit(stack, ("image", PNG))

    spent = {
        name: count - before.get(name, 0)
        for name, count in stack.commands().items()
        if count != before.get(name, 0)
    }
    assert spent.pop("fcall") == 1
    assert not {name for name in spent if name in ("get", "hgetall", "set")}
