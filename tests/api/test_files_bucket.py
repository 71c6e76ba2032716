"""Finished images whose bytes are in a bucket of a real S3 server."""

from __future__ import annotations

import base64
import io
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from PIL import Image

from common.file_signer import FileSigner
from common.storage import ImageStorage
from tests.api.conftest import Stack, picture, running
from tests.api.test_start import GUNICORN, run
from tests.object_store import ObjectStore, needs_object_store, running_object_store
from tests.processes import free_port, until

pytestmark = needs_object_store

DATA = picture(640, 320)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_object_store(tmp_path_factory.mktemp("objects")) as server:
        yield server


@pytest.fixture(scope="module")
def leading(server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A front end whose addresses lead on to the bucket."""
    settings = server.settings | {"STORAGE_REDIRECT": "on", "BFL_API_KEY": "none"}
    with (
        pytest.MonkeyPatch.context() as ours,
        running(tmp_path_factory.mktemp("leading"), **settings) as stack,
    ):
        for name, value in server.settings.items():
            ours.setenv(name, value)
        stack.storage = ImageStorage.open(settings["STORAGE_URL"])
        yield stack


def completed(stack: Stack, **fields: str) -> str:
    """The address of the image of a task."""
    task_id = stack.submit(**fields)
    stack.complete(task_id, DATA)
    return str(stack.get(f"/v1/tasks/{task_id}").json()["data"][0]["url"])


def get(url: str, **headers: str) -> requests.Response:
    return requests.get(url, headers=headers, timeout=60)


def way(url: str, method: str = "GET") -> requests.Response:
    return requests.request(method, url, timeout=60, allow_redirects=False)


def test_an_address_leads_on_to_the_bucket(leading: Stack, server: ObjectStore) -> None:
    url = completed(leading)

    answer = way(url)
    followed = get(url)

    assert url.startswith(f"{leading.base}/files/imgtask_")
    assert (answer.status_code, answer.content) == (307, b"")
    assert answer.headers["Location"].startswith(f"{server.endpoint}/pictures/darkroom/imgtask_")
    assert parse_qs(urlsplit(answer.headers["Location"]).query)["X-Amz-Expires"] == ["300"]
    assert answer.headers["Cache-Control"] == "private, max-age=150"
    assert (followed.status_code, followed.content) == (200, DATA)
    assert followed.headers["Content-Type"] == "image/png"


def test_what_follows_is_good_for_no_longer_than_our_own_address(leading: Stack) -> None:
    name = urlsplit(completed(leading)).path.removeprefix("/files/")
    signer = FileSigner(leading.redis)
    soon = way(leading.base + signer.path(name, int(time.time()) + 60))
    over = way(leading.base + signer.path(name, int(time.time()) - 1))

    seconds = int(parse_qs(urlsplit(soon.headers["Location"]).query)["X-Amz-Expires"][0])
    assert 50 <= seconds <= 60
    assert soon.headers["Cache-Control"] == f"private, max-age={seconds // 2}"
    assert (over.status_code, over.json()["error"]["code"]) == (403, "invalid_signature")
    assert "Location" not in over.headers


def test_a_changed_address_leads_nowhere(leading: Stack) -> None:
    url = completed(leading)

    for changed in (url[:-1] + ("A" if url[-1] != "A" else "B"), url.replace("0.png", "1.png")):
        answer = way(changed)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "invalid_signature")
        assert "Location" not in answer.headers


def test_parts_and_head_and_what_is_known_already_follow_too(leading: Stack) -> None:
    url = completed(leading)

    part, etag = get(url, Range="bytes=0-9"), get(url).headers["ETag"]
    head = requests.head(url, timeout=60, allow_redirects=True)

    assert (part.status_code, part.content) == (206, DATA[:10])
    assert get(url, **{"If-None-Match": etag}).status_code == 304
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(DATA)))
    assert [answer.status_code for answer in head.history] == [307]


def test_what_is_to_be_saved_and_thumbnails_come_from_us(leading: Stack) -> None:
    url = completed(leading)
    name = urlsplit(url).path.removeprefix("/files/")

    saved, small = way(url + "&download=1"), way(url + "&thumbnail=256")

    assert (saved.status_code, saved.content) == (200, DATA)
    assert saved.headers["Content-Disposition"].startswith("attachment")
    with Image.open(io.BytesIO(small.content)) as image:
        assert image.size == (256, 128)
    assert leading.storage.get(f"{name}.256.webp") == small.content


def test_base64_is_in_the_answer_wherever_the_picture_is(leading: Stack) -> None:
    task_id = leading.submit(response_format="b64_json")
    leading.complete(task_id, DATA)

    (image,) = leading.get(f"/v1/tasks/{task_id}").json()["data"]

    assert base64.b64decode(image["b64_json"]) == DATA


def test_the_page_may_load_pictures_from_the_bucket(leading: Stack, server: ObjectStore) -> None:
    policy = leading.get("/", headers={"Accept": "text/html"}).headers["Content-Security-Policy"]

    assert f"img-src 'self' data: blob: {server.endpoint};" in policy


def connections(port: int) -> int:
    """How many of this machine there are to a port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2] == f"0100007F:{port:04X}" for line in lines)


def test_a_bucket_that_stands_still_holds_nobody_else_up(
    leading: Stack, server: ObjectStore
) -> None:
    url = completed(leading) + "&download=1"
    answers: list[int] = []
    loading = [
        threading.Thread(target=lambda: answers.append(get(url).status_code)) for _ in range(20)
    ]

    server.freeze()
    try:
        before = connections(server.port)
        for thread in loading:
            thread.start()
        until(lambda: connections(server.port) >= before + 9, "they wait for the bucket")
        took = []
        ends = time.monotonic() + 1.5  # once in a second a submit looks at the disk as well
        while (begun := time.monotonic()) < ends:
            task_id = leading.submit()
            assert leading.get(f"/v1/tasks/{task_id}").json()["status"] == "pending"
            took.append(time.monotonic() - begun)
        assert answers == []
    finally:
        server.thaw()
    for thread in loading:
        thread.join(60)

    assert answers == [200] * len(loading)
    assert max(took) < 3


def test_while_the_bucket_is_away_what_needs_it_is_503(leading: Stack, server: ObjectStore) -> None:
    url = completed(leading)
    server.stop()
    try:
        answer = get(url + "&download=1")
        edit = requests.post(
            f"{leading.base}/v1/images/edits",
            headers={"Authorization": f"Bearer {leading.key}"},
            data={"prompt": "the same", "model": "flux-kontext-pro"},
            files={"image": DATA},
            timeout=60,
        )
        task_id = leading.submit()
    finally:
        server.start()

    for refused in (answer, edit):
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"]["code"] == "service_unavailable"
        assert refused.headers["Retry-After"]
    assert leading.get(f"/v1/tasks/{task_id}").json()["status"] == "pending"
    assert get(url + "&download=1").content == DATA
    assert "Traceback" not in leading.log.read_text()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (GUNICORN, 3),
        ([sys.executable, "-m", "workers", "worker"], 2),
        ([sys.executable, "-m", "workers", "beat"], 2),
    ],
    ids=["web", "worker", "beat"],
)
def test_a_bucket_that_refuses_us_stops_the_start(
    server: ObjectStore, tmp_path: Path, command: list[str], status: int
) -> None:
    settings = server.settings | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    port = free_port()
    result = run(command, tmp_path, REDIS_URL="redis://localhost", PORT=port, **settings)

    assert result.returncode == status
    assert "STORAGE_URL: s3://pictures/darkroom: " in result.stderr
    assert "SignatureDoesNotMatch" in result.stderr and "Traceback" not in result.stderr
