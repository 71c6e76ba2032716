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
def test_a_thumbnail_is_the_image_made_small(stack: Stack, kind: str) -> None:
    task_id = stack.submit()
    stack.complete(task_id, picture(640, 320, kind))
    url = stack.get(f"/v1/tasks/{task_id}").json()["data"][0]["url"]
    answer = get(url + "&thumbnail=64")

    assert answer.headers["Content-Type"] == f"image/{kind}"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.size, image.format) == ((64, 32), kind.upper())


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
