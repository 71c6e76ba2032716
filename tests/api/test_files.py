"""Finished images under their signed addresses."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import requests
from PIL import Image

from common.file_signer import FileSigner
from tests.api.conftest import Stack, picture
from tests.valkey import Valkey

DATA = picture(640, 320)


@pytest.fixture(scope="module")
def url(stack: Stack) -> str:
    task_id = stack.submit()
    stack.complete(task_id, DATA)
    return str(stack.get(f"/v1/tasks/{task_id}").json()["data"][0]["url"])


def get(url: str, **headers: str) -> requests.Response:
    return requests.get(url, headers=headers, timeout=10)


def changed(url: str, **query: str) -> str:
    parts = urlsplit(url)
    return parts._replace(query=urlencode(dict(parse_qsl(parts.query)) | query)).geturl()


def test_an_image_loads_without_a_key_and_cannot_do_harm(url: str) -> None:
    answer = get(url)

    assert (answer.status_code, answer.content) == (200, DATA)
    headers = answer.headers
    assert headers["Content-Type"] == "image/png"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert headers["Content-Disposition"].startswith('inline; filename="imgtask_')
    assert headers["Cache-Control"].startswith("private, max-age=863")
    assert int(headers["Content-Length"]) == len(DATA)


def test_a_part_of_an_image_can_be_had(url: str) -> None:
    first, last = get(url, Range="bytes=0-9"), get(url, Range="bytes=-5")

    assert (first.status_code, first.content) == (206, DATA[:10])
    assert first.headers["Content-Range"] == f"bytes 0-9/{len(DATA)}"
    assert (last.status_code, last.content) == (206, DATA[-5:])


def test_a_part_beyond_the_end_is_refused_in_json(url: str) -> None:
    answer = get(url, Range=f"bytes={len(DATA) + 1}-")

    assert answer.status_code == 416
    assert answer.json()["error"]["code"] == "range_not_satisfiable"
    assert answer.headers["Content-Range"] == f"bytes */{len(DATA)}"


def test_an_image_is_not_sent_twice(url: str) -> None:
    etag = get(url).headers["ETag"]

    same = get(url, **{"If-None-Match": etag})
    assert (same.status_code, same.content) == (304, b"")
    assert get(url + "&thumbnail=64").headers["ETag"] != etag


def test_head_tells_about_an_image(url: str) -> None:
    answer = requests.head(url, timeout=10)

    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["Content-Length"]) == len(DATA)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("side", [64, 256])
def test_a_thumbnail_is_the_image_made_small(stack: Stack, kind: str, side: int) -> None:
    task_id = stack.submit()
    stack.complete(task_id, picture(640, 320, kind))
    url = stack.get(f"/v1/tasks/{task_id}").json()["data"][0]["url"]

    answer = get(f"{url}&thumbnail={side}")

    assert answer.headers["Content-Type"] == "image/webp"
    assert answer.headers["Content-Disposition"] == f'inline; filename="{task_id}-0.{side}.webp"'
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.size, image.format) == ((side, side // 2), "WEBP")
        red, green, blue = image.convert("RGB").getpixel((side // 2, side // 4))
        assert red > 180 and green < 20 and blue < 20


@pytest.mark.parametrize(("side", "files"), [(256, 2), (512, 2), (64, 1), (257, 1)])
def test_a_thumbnail_that_is_asked_for_often_is_made_once(
    stack: Stack, side: int, files: int
) -> None:
    task_id = stack.submit()
    stack.complete(task_id, DATA)
    url = stack.get(f"/v1/tasks/{task_id}").json()["data"][0]["url"]

    first = get(f"{url}&thumbnail={side}").content
    stored = list((stack.data_dir / "images" / task_id).iterdir())
    for path in stored:
        if path.suffix == ".webp":  # whoever reads it again, reads this
            path.write_bytes(b"kept")

    assert len(stored) == files
    assert get(f"{url}&thumbnail={side}").content == (b"kept" if files == 2 else first)


def test_a_kept_thumbnail_has_no_address_of_its_own(stack: Stack, url: str) -> None:
    name = urlsplit(url).path.removeprefix("/files/")
    get(f"{url}&thumbnail=256")
    assert (stack.data_dir / "images" / f"{name}.256.webp").exists()

    kept = signer(stack).path(f"{name}.256.webp", int(time.time()) + 100)

    assert get(stack.base + kept).status_code == 404


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_a_thumbnail_looks_like_its_image_whatever_that_is_made_of(stack: Stack, mode: str) -> None:
    grey = 255 if mode == "1" else 200
    if mode == "I;16":
        image = Image.new(mode, (64, 64), grey * 256)
    else:
        image = Image.new("L", (64, 64), grey).convert(mode)
    out = io.BytesIO()
    image.save(out, "png")
    task_id = stack.submit()
    stack.complete(task_id, out.getvalue())
    url = stack.get(f"/v1/tasks/{task_id}").json()["data"][0]["url"]

    with Image.open(io.BytesIO(get(f"{url}&thumbnail=32").content)) as small:
        seen = small.convert("L").getpixel((16, 16))

    assert abs(seen - grey) <= 4


def test_an_image_can_be_saved(url: str) -> None:
    saved, shown = get(url + "&download=1"), get(url)

    assert saved.headers["Content-Disposition"].startswith('attachment; filename="imgtask_')
    assert shown.headers["Content-Disposition"].startswith("inline")
    assert saved.content == shown.content
    answer = get(url + "&download=yes")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "download")


@pytest.mark.parametrize("side", ["0", "15", "1025", "-64", "x", "", "9" * 30])
def test_a_thumbnail_of_no_sensible_size_is_refused(url: str, side: str) -> None:
    answer = get(changed(url, thumbnail=side) if side else url + "&thumbnail=")

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "thumbnail"


def test_a_changed_address_is_forbidden(stack: Stack, url: str) -> None:
    query = dict(parse_qsl(urlsplit(url).query))
    signature = query["signature"]
    flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
    other = stack.submit()
    stack.complete(other, picture())
    path = urlsplit(url).path
    forbidden = [
        changed(url, expires=str(int(query["expires"]) + 1)),
        changed(url, expires="0" + query["expires"]),
        changed(url, expires="x"),
        changed(url, signature=flipped),
        changed(url, signature=signature[:-1]),
        changed(url, signature=""),
        changed(url, signature="\xe9"),
        url.partition("?")[0],
        url.replace("0.png", "1.png"),
        url.replace("0.png", "0.jpeg"),
        url.replace(path, f"/files/{other}/0.png"),
        url.replace(path, "/files/..%5C..%5Cetc/passwd"),
    ]

    for address in forbidden:
        answer = get(address)
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            403,
            "invalid_signature",
        ), address


@pytest.mark.parametrize("path", ["..%2F..%2Fetc/passwd", "../../etc/passwd", "a/b/c", "a", ""])
def test_no_path_leads_out_of_the_store(stack: Stack, url: str, path: str) -> None:
    query = urlsplit(url).query

    assert get(f"{stack.base}/files/{path}?{query}").status_code in (403, 404)


def signer(stack: Stack) -> FileSigner:
    return FileSigner(stack.redis)  # finds the secret that the front end has made


def test_an_expired_address_is_forbidden(stack: Stack, url: str) -> None:
    name = urlsplit(url).path.removeprefix("/files/")
    alive = signer(stack).path(name, int(time.time()) + 100)
    expired = signer(stack).path(name, int(time.time()) - 1)

    assert get(stack.base + alive).status_code == 200
    answer = get(stack.base + expired)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "invalid_signature")


@pytest.mark.parametrize("file", ["9.png", "0.gif", "x.png", "0.png.html"])
def test_what_is_signed_but_not_there_is_not_found(stack: Stack, url: str, file: str) -> None:
    task_id = urlsplit(url).path.split("/")[2]
    path = signer(stack).path(f"{task_id}/{file}", int(time.time()) + 100)

    answer = get(stack.base + path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_given_secret_is_used_and_nothing_else_verifies(stack: Stack) -> None:
    ours, theirs = FileSigner(stack.redis, "one secret"), FileSigner(stack.redis, "another")
    query = dict(parse_qsl(urlsplit(ours.path("a/0.png", 5)).query))

    assert ours.verifies("a/0.png", "5", query["signature"])
    assert not theirs.verifies("a/0.png", "5", query["signature"])


def test_a_front_end_that_starts_while_redis_is_full_knows_the_secret(valkey: Valkey) -> None:
    path = FileSigner(valkey.redis).path("name", 1)

    with valkey.full():
        assert FileSigner(valkey.redis).path("name", 1) == path


def test_one_asks_for_the_secret_when_a_crowd_needs_it(valkey: Valkey) -> None:
    signer = FileSigner(valkey.redis)
    valkey.redis.config_resetstat()
    with ThreadPoolExecutor(50) as crowd:
        paths = set(crowd.map(lambda _: signer.path("name", 1), range(50)))

    commands = valkey.commands()
    assert len(paths) == 1
    assert commands["get"] + commands["set"] == 3
