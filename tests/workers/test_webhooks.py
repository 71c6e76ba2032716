"""Webhooks as they arrive: signed, in time, once where it can be, and nowhere private."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import trustme
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from common.connection import connect
from common.file_signer import FileSigner
from common.outbox import Outbox, WebhookSecrets
from common.storage import ImageStorage
from common.store import TaskStore
from common.task import Task
from common.task_body import TaskBody
from common.webhook import Webhook
from tests.common.webhooks import ended
from tests.contracts.scripted import Reply, Scripted, Seen
from tests.processes import until
from tests.valkey import Valkey, close
from workers.webhooks import Notifier, Post, Receiver, sign

OWNER = "key_a"
MakeNotifier = Callable[..., Notifier]


@pytest.fixture
def serve() -> Iterator[Callable[..., Scripted]]:
    with contextlib.ExitStack() as stack:

        def make(*replies: Reply) -> Scripted:
            server = Scripted(*replies or (Reply(status=204),))
            stack.callback(server.close)
            return server

        yield make


@pytest.fixture
def bodies(valkey: Valkey, tmp_path: Path) -> Callable[[str], TaskBody]:
    signer = FileSigner(valkey.redis, "a secret")
    storage = ImageStorage.open(tmp_path.as_uri())
    return lambda base: TaskBody(signer, storage, lambda: base)


@pytest.fixture
def make_notifier(valkey: Valkey, bodies: Callable[[str], TaskBody]) -> Iterator[MakeNotifier]:
    """Starts notifiers that go anywhere. What they have under way is waited for at the end."""
    with contextlib.ExitStack() as stack:

        def make(*, timeout: float = 5, waits: tuple[float, ...] = (0.05,) * 7) -> Notifier:
            client = connect(valkey.url)
            stack.callback(close, client)
            notifier = Notifier(
                Outbox(client, waits=waits, lease=2 * timeout),
                WebhookSecrets(client),
                bodies,
                Post(timeout=timeout, private=True),
            )
            notifier.start()
            stack.callback(notifier.wait)
            stack.callback(notifier.stop)
            return notifier

        yield make


def hook(store: TaskStore, task_id: str) -> Webhook:
    task = read(store, task_id)
    assert task.webhook is not None
    return task.webhook


def read(store: TaskStore, task_id: str) -> Task:
    task = store.read(task_id)
    assert task is not None
    return task


def settled(store: TaskStore, task_id: str, state: str = "delivered") -> Webhook:
    until(lambda: hook(store, task_id).delivery == state, state)
    return hook(store, task_id)


def signed(seen: Seen) -> dict[str, str]:
    return {name: value for name, value in seen.headers.items() if name.startswith("webhook-")}


# -- What arrives


def test_the_official_library_verifies_it(
    store: TaskStore, valkey: Valkey, make_notifier: MakeNotifier, serve: Callable[..., Scripted]
) -> None:
    receiver = serve()
    task_id = ended(store, url=f"{receiver.url}/hook?token=x")

    make_notifier()
    settled(store, task_id)

    (seen,) = receiver.seen
    (secret,) = WebhookSecrets(valkey.redis).of(OWNER)
    assert Verifier(secret).verify(seen.body, signed(seen)) == json.loads(seen.body)
    assert (seen.method, seen.path) == ("POST", "/hook?token=x")
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["webhook-id"] == f"{task_id}_completed"


def tamper_secret(seen: Seen, secret: str) -> tuple[str, bytes, dict[str, str]]:
    return "whsec_" + "A" * 40, seen.body, signed(seen)


def tamper_body(seen: Seen, secret: str) -> tuple[str, bytes, dict[str, str]]:
    return secret, seen.body.replace(b"completed", b"completes"), signed(seen)


def tamper_time(seen: Seen, secret: str) -> tuple[str, bytes, dict[str, str]]:
    later = str(int(seen.headers["webhook-timestamp"]) + 1)
    return secret, seen.body, signed(seen) | {"webhook-timestamp": later}


def tamper_id(seen: Seen, secret: str) -> tuple[str, bytes, dict[str, str]]:
    return secret, seen.body, signed(seen) | {"webhook-id": "imgtask_0_completed"}


@pytest.mark.parametrize("tamper", [tamper_secret, tamper_body, tamper_time, tamper_id])
def test_the_official_library_refuses_what_was_changed(
    store: TaskStore,
    valkey: Valkey,
    make_notifier: MakeNotifier,
    serve: Callable[..., Scripted],
    tamper: Callable[[Seen, str], tuple[str, bytes, dict[str, str]]],
) -> None:
    receiver = serve()
    task_id = ended(store, url=receiver.url)
    make_notifier()
    settled(store, task_id)
    (seen,) = receiver.seen
    (secret,) = WebhookSecrets(valkey.redis).of(OWNER)

    secret, body, headers = tamper(seen, secret)

    with pytest.raises(WebhookVerificationError):
        Verifier(secret).verify(body, headers)


def test_it_is_signed_as_the_official_library_signs() -> None:
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    at = datetime.datetime.fromtimestamp(1614265330, datetime.UTC)

    ours = sign([secret], "imgtask_0_failed", 1614265330, body)

    assert ours == Verifier(secret).sign("imgtask_0_failed", at, body.decode())


def test_while_a_secret_is_replaced_both_verify(
    store: TaskStore, valkey: Valkey, make_notifier: MakeNotifier, serve: Callable[..., Scripted]
) -> None:
    receiver = serve()
    secrets = WebhookSecrets(valkey.redis)
    secrets.of(OWNER)
    new, old = secrets.rotate(OWNER)

    task_id = ended(store, url=receiver.url)
    make_notifier()
    settled(store, task_id)

    (seen,) = receiver.seen
    assert len(seen.headers["webhook-signature"].split(" ")) == 2
    for secret in (new, old):
        Verifier(secret).verify(seen.body, signed(seen))


@pytest.mark.parametrize("failed", [False, True])
def test_the_body_is_the_one_of_polling(
    store: TaskStore,
    make_notifier: MakeNotifier,
    bodies: Callable[[str], TaskBody],
    serve: Callable[..., Scripted],
    failed: bool,
) -> None:
    receiver = serve()
    task_id = ended(store, url=receiver.url, failed=failed, metadata={"order": "4711"})
    make_notifier()
    settled(store, task_id)

    polled = bodies("https://darkroom.example.com").any(read(store, task_id))
    told = receiver.seen[0].json()
    # What it cannot say of itself: how it was delivered.
    del polled["webhook"]
    polled["timeline"] = [e for e in polled["timeline"] if e["event"] != "notified"]

    assert told == polled
    assert told["status"] == ("failed" if failed else "completed")
    assert told["metadata"] == {"order": "4711"}
    if not failed:
        assert told["data"][0]["url"].startswith("https://darkroom.example.com/files/")


def test_every_try_has_the_same_id_and_body_and_a_fresh_time(
    store: TaskStore, valkey: Valkey, make_notifier: MakeNotifier, serve: Callable[..., Scripted]
) -> None:
    receiver = serve(Reply(status=500), Reply(status=503), Reply(status=200))
    task_id = ended(store, url=receiver.url)

    make_notifier(waits=(1.1, 1.1))
    settled(store, task_id)

    assert [tried.status for tried in hook(store, task_id).tries] == [500, 503, 200]
    assert len({seen.headers["webhook-id"] for seen in receiver.seen}) == 1
    assert len({seen.body for seen in receiver.seen}) == 1
    times = [int(seen.headers["webhook-timestamp"]) for seen in receiver.seen]
    assert times[0] < times[1] < times[2]
    (secret,) = WebhookSecrets(valkey.redis).of(OWNER)
    for seen in receiver.seen:
        Verifier(secret).verify(seen.body, signed(seen))


# -- What receivers do


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(
    store: TaskStore, make_notifier: MakeNotifier, serve: Callable[..., Scripted], status: int
) -> None:
    canary = serve()
    receiver = serve(Reply(status=status, headers={"Location": f"{canary.url}/stolen"}))
    task_id = ended(store, url=receiver.url)

    make_notifier(waits=(0.05,))
    settled(store, task_id, "failed")

    assert [tried.status for tried in hook(store, task_id).tries] == [status, status]
    assert canary.connections == 0


def test_who_is_gone_is_left_alone(
    store: TaskStore, make_notifier: MakeNotifier, serve: Callable[..., Scripted]
) -> None:
    receiver = serve(Reply(status=410))
    task_id = ended(store, url=receiver.url)

    make_notifier()
    settled(store, task_id, "gone")

    assert len(receiver.seen) == 1
    assert hook(store, task_id).next_at is None


@pytest.mark.parametrize("said", ["30", "date"])
def test_a_receiver_that_asks_to_wait_is_left_in_peace(
    store: TaskStore, make_notifier: MakeNotifier, serve: Callable[..., Scripted], said: str
) -> None:
    if said == "date":
        said = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    receiver = serve(Reply(status=503, headers={"Retry-After": said}))
    task_id = ended(store, url=receiver.url)

    make_notifier()
    until(lambda: hook(store, task_id).tries)

    waiting = hook(store, task_id)
    assert waiting.next_at is not None
    assert 28_000 <= waiting.next_at - waiting.tries[0].at <= 32_000


def drip(head: bytes, pause: float = 0.05) -> Callable[[BaseHTTPRequestHandler], None]:
    def act(handler: BaseHTTPRequestHandler) -> None:
        for byte in head:
            handler.wfile.write(bytes([byte]))
            time.sleep(pause)

    return act


@pytest.mark.parametrize(
    "text",
    [b"", b"HTTP/1.1 200 OK\r\n" + b"X-Header: never ends\r\n" * 40],
    ids=["silent", "dripping head"],
)
def test_who_does_not_answer_in_time_is_tried_again(
    store: TaskStore, make_notifier: MakeNotifier, serve: Callable[..., Scripted], text: bytes
) -> None:
    over = threading.Event()

    def act(handler: BaseHTTPRequestHandler) -> None:
        drip(text)(handler)
        over.wait(5)

    task_id = ended(store, url=serve(Reply(act=act)).url)

    make_notifier(timeout=0.6, waits=(100,))
    until(lambda: hook(store, task_id).tries)
    over.set()

    (tried,) = hook(store, task_id).tries
    assert (tried.status, tried.error) == (None, "the time was up")
    assert tried.ms is not None
    assert 500 <= tried.ms <= 1500


def test_who_takes_all_time_for_the_rest_has_got_it(
    store: TaskStore, make_notifier: MakeNotifier, serve: Callable[..., Scripted]
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        drip(b" " * 60)(handler)

    task_id = ended(store, url=serve(Reply(act=act)).url)

    make_notifier(timeout=0.6)
    (tried,) = settled(store, task_id).tries

    assert tried.status == 200
    assert tried.ms is not None
    assert tried.ms <= 1500


def test_little_of_an_endless_answer_is_read(
    store: TaskStore, make_notifier: MakeNotifier, serve: Callable[..., Scripted]
) -> None:
    sent = []

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        for _ in range(2000):
            handler.wfile.write(b" " * 10_000)
            sent.append(10_000)

    task_id = ended(store, url=serve(Reply(act=act)).url)

    make_notifier()
    settled(store, task_id)

    # What the sockets hold is on top; twenty megabytes were there to be had.
    assert sum(sent) < 8_000_000


def test_who_is_not_there_is_tried_again_until_he_is(
    store: TaskStore, make_notifier: MakeNotifier, serve: Callable[..., Scripted]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        task_id = ended(store, url=f"http://127.0.0.1:{nobody.getsockname()[1]}/")
        make_notifier(waits=(0.05, 0.05))
        settled(store, task_id, "failed")

    errors = [tried.error for tried in hook(store, task_id).tries]
    assert errors == ["no connection could be made"] * 3


def test_who_cannot_prove_his_name_is_told_nothing(
    store: TaskStore, make_notifier: MakeNotifier, serve: Callable[..., Scripted]
) -> None:
    receiver = serve()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(tls)
    receiver.wrap(tls)
    task_id = ended(store, url=f"https://localhost:{receiver.port}/")

    make_notifier(waits=())
    (tried,) = settled(store, task_id, "failed").tries

    assert tried.error == "no trusted TLS connection could be made"
    assert receiver.seen == []


def test_a_host_that_hangs_keeps_nobody_else_waiting(
    store: TaskStore, make_notifier: MakeNotifier, serve: Callable[..., Scripted]
) -> None:
    over = threading.Event()
    hung = serve(Reply(act=lambda _: over.wait(20) and None))
    well = serve()
    for _ in range(60):
        ended(store, url=f"http://localhost:{hung.port}/")
    mine = [ended(store, url=well.url) for _ in range(20)]

    make_notifier(timeout=10)

    for task_id in mine:
        settled(store, task_id)
    assert hung.connections <= 8
    assert len(well.seen) == 20
    over.set()
    hung.reset(Reply(status=204))


# -- What workers do


def test_two_workers_deliver_once(
    store: TaskStore, make_notifier: MakeNotifier, serve: Callable[..., Scripted]
) -> None:
    receiver = serve()
    tasks = [ended(store, url=receiver.url) for _ in range(40)]

    make_notifier()
    make_notifier()
    for task_id in tasks:
        settled(store, task_id)

    ids = [seen.headers["webhook-id"] for seen in receiver.seen]
    assert sorted(ids) == sorted(f"{task_id}_completed" for task_id in tasks)


def test_who_stops_ends_what_is_under_way_and_begins_nothing(
    store: TaskStore, make_notifier: MakeNotifier, serve: Callable[..., Scripted]
) -> None:
    answer = threading.Event()

    def act(handler: BaseHTTPRequestHandler) -> None:
        answer.wait(10)
        handler.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    receiver = serve(Reply(act=act))
    first = ended(store, url=receiver.url)
    notifier = make_notifier()
    until(lambda: receiver.seen)

    notifier.stop()
    second = ended(store, url=receiver.url)
    answer.set()
    notifier.wait()

    assert hook(store, first).delivery == "delivered"
    assert hook(store, second).delivery == "pending"
    assert len(receiver.seen) == 1


def test_what_was_delivered_is_written_down_when_redis_is_back(
    store: TaskStore, valkey: Valkey, make_notifier: MakeNotifier, serve: Callable[..., Scripted]
) -> None:
    answer = threading.Event()

    def act(handler: BaseHTTPRequestHandler) -> None:
        answer.wait(10)
        handler.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    receiver = serve(Reply(act=act))
    task_id = ended(store, url=receiver.url)
    make_notifier()
    until(lambda: receiver.seen)

    with valkey.refusing():
        answer.set()
        time.sleep(0.5)  # an outage has a length
        assert hook(store, task_id).delivery == "pending"

    assert len(settled(store, task_id).tries) == 1
    assert len(receiver.seen) == 1


# -- Hostile addresses


CANARY = [
    "https://127.0.0.1:{}/",
    "https://127.1:{}/",
    "https://2130706433:{}/",
    "https://0x7f000001:{}/",
    "https://0177.0.0.1:{}/",
    "https://0.0.0.0:{}/",
    "https://0:{}/",
    "https://localhost:{}/",
    "https://localhost.:{}/",
    "https://[::1]:{}/",
    "https://[::ffff:127.0.0.1]:{}/",
    "https://[::127.0.0.1]:{}/",
    "https://[64:ff9b::7f00:1]:{}/",
    "https://\uff11\uff12\uff17.0.0.1:{}/",
    "https://127\u30020\u30020\u30021:{}/",
    "https://example.com@127.0.0.1:{}/",
    "https://127.0.0.1:{}\\@example.com/",
    "http://127.0.0.1:{}/",
    "http://localhost:{}/",
]


@pytest.mark.parametrize("url", CANARY)
def test_a_private_address_is_not_visited_though_it_is_in_the_record(
    serve: Callable[..., Scripted], url: str
) -> None:
    canary = serve()

    said = Post(timeout=2, private=False)(url.format(canary.port), "127.0.0.1", b"{}", {})

    assert said.status is None
    assert said.error in ("its address cannot be used", "its host is in a private network")
    assert canary.connections == 0


class Names:
    """A name server whose answers change: each look-up of a name gets the next list."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.asked: list[str] = []
        self._answers = answers
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = str(host).partition(".")[0]
        if name not in self._answers:
            return self._real(host, port, *args, **options)
        self.asked.append(host)
        lists = self._answers[name]
        addresses = lists[min(len(self.asked), len(lists)) - 1]
        return [entry for a in addresses for entry in self._real(a, port, type=socket.SOCK_STREAM)]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["64:ff9b::7f00:1"],
        ["1.1.1.1", "127.0.0.1"],
        ["127.0.0.1", "1.1.1.1"],
    ],
    ids=" ".join,
)
def test_a_name_that_leads_to_a_private_address_is_not_visited(
    serve: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    canary = serve()
    monkeypatch.setattr(socket, "getaddrinfo", Names(hooks=[addresses]))
    url = f"https://hooks.example.com:{canary.port}/"

    said = Post(timeout=2, private=False)(url, "hooks.example.com", b"{}", {})

    assert said == Receiver(error="its host is in a private network")
    assert canary.connections == 0


def test_a_name_that_changes_its_answer_is_asked_once_and_held_to_it(
    serve: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: a public address for whoever checks, a private one for whoever connects."""
    canary = serve()
    names = Names(rebind=[["192.88.99.77"], ["127.0.0.1"]])
    monkeypatch.setattr(socket, "getaddrinfo", names)
    url = f"https://rebind.example.com:{canary.port}/"

    said = Post(timeout=0.5, private=False)(url, "rebind.example.com", b"{}", {})

    assert said.status is None
    assert said.error != "its host is in a private network"
    assert names.asked == ["rebind.example.com"]
    assert canary.connections == 0


def test_a_name_is_looked_at_again_on_every_try(
    serve: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = serve()
    names = Names(rebind=[["192.88.99.77"], ["127.0.0.1"]])
    monkeypatch.setattr(socket, "getaddrinfo", names)
    url, post = f"https://rebind.example.com:{canary.port}/", Post(timeout=0.5, private=False)

    errors = [post(url, "rebind.example.com", b"{}", {}).error for _ in range(2)]

    assert errors[1] == "its host is in a private network"
    assert canary.connections == 0


def test_no_proxy_of_the_environment_decides_where_a_name_leads(
    serve: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve()
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    receiver = serve()

    said = Post(timeout=2, private=True)(f"{receiver.url}/", "127.0.0.1", b"{}", {})

    assert said.status == 204
    assert proxy.connections == 0
