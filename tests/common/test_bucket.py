"""The image store over a bucket of a real S3 server; and what is asked of Google and Azure."""

from __future__ import annotations

import datetime
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import obstore
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from common.bucket import Redirect
from common.errors import ConfigurationError, StoreUnavailable
from common.storage import ImageStorage
from common.task import new_task_id
from tests.object_store import (
    BUCKET,
    READER,
    SECRET,
    ObjectStore,
    needs_object_store,
    running_object_store,
)
from tests.processes import until

HOUR = datetime.timedelta(hours=1)
URL = f"s3://{BUCKET}/darkroom"

Open = Callable[..., ImageStorage]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_object_store(tmp_path_factory.mktemp("objects")) as server:
        yield server


@pytest.fixture
def open_(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the bucket, in an environment that differs as is said."""

    def open_(url: str = URL, redirect: Redirect = "on", **environment: str) -> ImageStorage:
        for name, value in (server.settings | environment).items():
            monkeypatch.setenv(name, value)
        return ImageStorage.open(url, redirect=redirect)

    return open_


def address(storage: ImageStorage, name: str, method: Any = "GET", seconds: int = 60) -> str:
    url = storage.address(name, method, seconds)
    assert url is not None
    return url


@needs_object_store
def test_a_bucket_keeps_and_deletes(open_: Open) -> None:
    storage, task = open_(), new_task_id()
    storage.put(f"{task}/0.png", b"a longer picture")
    storage.put(f"{task}/0.png", b"picture")
    storage.put(f"{task}/1.png", b"another")

    assert storage.get(f"{task}/0.png") == b"picture"
    assert storage.get(f"{task}/2.png") is None
    storage.delete(f"{task}/0.png", f"{task}/2.png")
    assert storage.get(f"{task}/0.png") is None
    assert storage.get(f"{task}/1.png") == b"another"
    assert storage.has_room(10**18)


@needs_object_store
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_the_bucket_serves_a_picture_as_we_would(open_: Open, kind: str) -> None:
    storage, task = open_(), new_task_id()
    name, data = f"{task}/0.{kind}", b"picture" * 2_000_000  # so much would go in parts
    storage.put(name, data)
    url = address(storage, name)

    whole = requests.get(url, timeout=10)
    part = requests.get(url, headers={"Range": "bytes=7-13"}, timeout=10)
    same = requests.get(url, headers={"If-None-Match": whole.headers["ETag"]}, timeout=10)
    head = requests.head(address(storage, name, "HEAD"), timeout=10)

    assert (whole.status_code, whole.content) == (200, data)
    assert whole.headers["Content-Type"] == f"image/{kind}"
    assert whole.headers["Content-Disposition"] == f'inline; filename="{task}-0.{kind}"'
    assert whole.headers["Cache-Control"] == "private, max-age=300, immutable"
    assert "-" not in whole.headers["ETag"]  # which is how those made of parts are told
    assert (part.status_code, part.content) == (206, b"picture")
    assert same.status_code == 304
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(data)))


@needs_object_store
def test_an_address_opens_that_picture_for_that_long(open_: Open) -> None:
    storage, task = open_(), new_task_id()
    for name in (f"{task}/0.png", f"{task}/1.png"):
        storage.put(name, b"picture")
    url, short = (address(storage, f"{task}/0.png", seconds=seconds) for seconds in (60, 1))
    expires = parse_qs(urlsplit(url).query)["X-Amz-Expires"]

    changed = [
        url.replace("0.png", "1.png"),
        url.replace("X-Amz-Expires=60", "X-Amz-Expires=61"),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.partition("?")[0],
    ]

    assert expires == ["60"]
    assert [requests.get(other, timeout=10).status_code for other in changed] == [403] * 4
    assert requests.put(url, data=b"theirs", timeout=10).status_code == 403
    assert requests.delete(url, timeout=10).status_code == 403
    until(lambda: requests.get(short, timeout=10).status_code == 403, "expired", 10)
    assert requests.get(url, timeout=10).content == b"picture"


@needs_object_store
@pytest.mark.parametrize(
    ("redirect", "tls", "leads"),
    [
        ("auto", False, False),
        ("auto", True, True),
        ("on", False, True),
        ("on", True, True),
        ("off", True, False),
    ],
)
def test_where_an_address_leads_is_a_setting(
    open_: Open, server: ObjectStore, redirect: Redirect, tls: bool, leads: bool
) -> None:
    endpoint = "https://objects.example" if tls else server.endpoint
    storage = open_(redirect=redirect, AWS_ENDPOINT_URL=endpoint)

    assert bool(storage.address("a/0.png", "GET", 60)) == leads
    assert storage.origin() == (endpoint if leads else "")


@needs_object_store
def test_only_what_tasks_have_stored_is_deleted_by_age(open_: Open) -> None:
    storage, others = open_(f"s3://{BUCKET}/aged"), open_(f"s3://{BUCKET}")
    tasks = [new_task_id() for _ in range(3)]
    for task in tasks:
        storage.put(f"{task}/0.png", b"picture")
        storage.put(f"{task}/1.png", b"picture")
    others.put("aged/holidays/beach.png", b"not ours")
    others.put("letter.png", b"not ours")

    assert storage.delete_older_than(HOUR) == 0
    assert storage.delete_older_than(-HOUR) == 6
    assert [storage.get(f"{task}/{n}.png") for task in tasks for n in range(2)] == [None] * 6
    assert others.get("aged/holidays/beach.png") == others.get("letter.png") == b"not ours"


@needs_object_store
def test_what_a_task_has_stored_goes_together(open_: Open) -> None:
    storage, task, young = open_(f"s3://{BUCKET}/together"), new_task_id(), new_task_id()
    storage.put(f"{task}/input-0.png", b"picture")
    stored = time.time()
    until(lambda: time.time() > stored + 2.5)  # a bucket counts whole seconds
    for name in (f"{task}/0.png", f"{task}/0.png.256.webp", f"{young}/0.png"):
        storage.put(name, b"picture")

    age = datetime.timedelta(seconds=time.time() - stored - 1.2)

    assert storage.delete_older_than(age) == 3
    assert storage.get(f"{young}/0.png") == b"picture"


@needs_object_store
def test_more_than_a_page_is_deleted(open_: Open, server: ObjectStore) -> None:
    storage, bucket = open_(f"s3://{BUCKET}/pages"), server.bucket()
    tasks = [new_task_id() for _ in range(350)]
    names = [f"pages/{task}/{n}.png" for task in tasks for n in range(3)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: obstore.put(bucket, name, b"picture"), names))

    assert storage.delete_older_than(-HOUR) == 1050
    assert not [meta for page in obstore.list(bucket, "pages") for meta in page]


# -- at the start


@needs_object_store
def test_a_bucket_that_can_be_used_is_left_as_it_was(open_: Open) -> None:
    storage = open_(f"s3://{BUCKET}/checked")

    storage.check()

    assert storage.delete_older_than(-HOUR) == 0


@needs_object_store
@pytest.mark.parametrize(
    ("url", "environment", "reason"),
    [
        (URL, {"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        (URL, {"AWS_ACCESS_KEY_ID": "nobody"}, "InvalidAccessKeyId"),
        (URL, {"AWS_ACCESS_KEY_ID": READER}, "AccessDenied"),
        ("s3://nothing/darkroom", {"AWS_ACCESS_KEY_ID": READER}, "AccessDenied|NoSuchBucket"),
        ("s3://nothing/darkroom", {}, "NoSuchBucket"),
    ],
)
def test_a_bucket_that_refuses_us_is_named(
    open_: Open, url: str, environment: dict[str, str], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^STORAGE_URL: {url}: .*({reason})") as caught:
        open_(url, **environment).check()

    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert SECRET not in str(caught.value)


def test_a_bucket_that_cannot_be_reached_is_no_reason_not_to_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = ObjectStore(Path("/nonexistent"))
    for name, value in absent.settings.items():
        monkeypatch.setenv(name, value)
    storage = ImageStorage.open(URL)

    storage.check()

    with pytest.raises(StoreUnavailable):
        storage.put("a/0.png", b"picture")


# -- Google and Azure, of which no server comes as a package: what they are asked, and no more


class Listener(http.server.ThreadingHTTPServer):
    """Says yes to everything, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.got = 200  # the status of what is asked for


_DELETED = b"""--batch\r
Content-Type: application/http\r
Content-ID: 0\r
\r
HTTP/1.1 202 Accepted\r
x-ms-delete-type-permanent: true\r
\r
--batch--\r
"""


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Listener

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(201)

    def do_GET(self) -> None:
        self._answer(self.server.got, b"picture")

    def do_DELETE(self) -> None:
        self._answer(404 if self.path.endswith("missing") else 204)

    def do_POST(self) -> None:
        """Of Azure: delete all that is named in the body, here one."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(202, _DELETED, "multipart/mixed; boundary=batch")

    def _answer(self, status: int, body: bytes = b"", kind: str = "image/png") -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, urlsplit(self.path).path, headers))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", kind)
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 12:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield listener
        finally:
            listener.shutdown()
            thread.join(10)


@pytest.fixture
def google(listener: Listener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Listener:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    account = {
        "type": "service_account",
        "private_key": pem.decode(),
        "private_key_id": "1",
        "client_email": "darkroom@project.iam.gserviceaccount.com",
        "gcs_base_url": listener.url,
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    return listener


@pytest.fixture
def azure(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> Listener:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", listener.url)
    return listener


def test_without_the_right_to_list_a_bucket_cannot_be_used(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ObjectStore(Path("/nonexistent")).settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", listener.url)
    listener.got = 403

    with pytest.raises(ConfigurationError, match=r"^STORAGE_URL: .* GET .* 403 Forbidden"):
        ImageStorage.open(URL).check()

    assert [method for method, _, _ in listener.asked] == ["GET"]


def test_google_is_told_what_a_picture_is_and_signs(google: Listener) -> None:
    storage = ImageStorage.open("gs://pictures/darkroom", redirect="on")

    storage.check()
    storage.put("task/0.png", b"picture")
    assert storage.get("task/0.png") == b"picture"
    url = urlsplit(address(storage, "task/0.png", seconds=60))

    method, path, headers = google.asked[-2]
    assert (method, unquote(path)) == ("PUT", "/pictures/darkroom/task/0.png")
    assert headers["content-type"] == "image/png"
    assert headers["content-disposition"] == 'inline; filename="task-0.png"'
    assert headers["cache-control"] == "private, max-age=300, immutable"
    assert url.path == "/pictures/darkroom/task/0.png"
    assert parse_qs(url.query)["X-Goog-Expires"] == ["60"]


def test_google_deletes_the_others_when_one_is_not_there(google: Listener) -> None:
    ImageStorage.open("gs://pictures").delete("missing", *map(str, range(30)), "missing")

    deleted = {path for method, path, _ in google.asked if method == "DELETE"}
    assert {f"/pictures/{number}" for number in range(30)} <= deleted


def test_azure_is_told_what_a_picture_is_and_signs(
    azure: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    storage = ImageStorage.open("az://pictures/darkroom", redirect="on")

    storage.check()
    storage.put("task/0.png", b"picture")
    assert storage.get("task/0.png") == b"picture"
    before = datetime.datetime.now(datetime.UTC)
    url = urlsplit(address(storage, "task/0.png", seconds=60))

    method, path, headers = azure.asked[-2]
    assert method == "PUT" and path.endswith("/pictures/darkroom/task/0.png")
    assert headers["x-ms-blob-content-type"] == "image/png"
    assert headers["x-ms-blob-content-disposition"] == 'inline; filename="task-0.png"'
    assert headers["x-ms-blob-cache-control"] == "private, max-age=300, immutable"
    signed = parse_qs(url.query)
    head = parse_qs(urlsplit(address(storage, "task/0.png", "HEAD")).query)
    ends = datetime.datetime.fromisoformat(signed["se"][0])
    assert signed["sp"] == head["sp"] == ["r"]
    assert 58 <= (ends - before).total_seconds() <= 61


def test_credentials_that_cannot_sign_stop_the_start_where_addresses_lead_on(
    azure: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2023-11-03&sig=abc")

    ImageStorage.open("az://pictures", redirect="off").check()
    with pytest.raises(ConfigurationError, match=r"^STORAGE_REDIRECT: .*; STORAGE_REDIRECT=off"):
        ImageStorage.open("az://pictures", redirect="on").check()
