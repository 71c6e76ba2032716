"""What all adapters leave to `workers.providers.http`: money, time, and hostile addresses."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from common.errors import (
    BadAnswer,
    ConfigurationError,
    JobLost,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Unavailable,
)
from common.settings import ProviderAccess
from tests.contracts.cases import CASES, PNG
from tests.contracts.conftest import KEY, REPOSITORY, Connect
from tests.contracts.scripted import Reply, Scripted
from workers.providers.base import Job, Pictures
from workers.providers.http import Http

Serve = Callable[..., Scripted]
Handler = BaseHTTPRequestHandler


def client(base_url: str, *, max_image_bytes: int = 1000, sandbox: bool = False) -> Http:
    return Http(
        "acme",
        ProviderAccess(base_url, SecretStr(KEY), sandbox),
        auth=("x-key", ""),
        concurrency=4,
        max_image_bytes=max_image_bytes,
    )


def soon(seconds: float = 5) -> float:
    return time.monotonic() + seconds


# -- Time and size


def say(text: bytes) -> Callable[[Handler], None]:
    def act(handler: Handler) -> None:
        handler.wfile.write(text)

    return act


def drip(text: bytes, pause: float = 0.05) -> Callable[[Handler], None]:
    def act(handler: Handler) -> None:
        for byte in text:
            handler.wfile.write(bytes([byte]))
            time.sleep(pause)

    return act


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X-Header: never ends\r\n" * 40,
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b" " * 500,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 100,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b" " * 500,
    ],
    ids=["headers", "length", "chunks", "until_closed"],
)
def test_no_dripping_answer_outlasts_the_deadline(serve: Serve, text: bytes) -> None:
    server = serve(Reply(act=drip(text)))
    started = time.monotonic()

    with pytest.raises(OutcomeUnknown):
        client(server.url).post("/buy", {}, deadline=soon(0.6))

    assert time.monotonic() - started == pytest.approx(0.6, abs=0.5)


def test_an_answer_that_stalls_midway_does_not_get_its_time_again(serve: Serve) -> None:
    given_up = threading.Event()

    def act(handler: Handler) -> None:
        drip(b"HTTP/1.1 200 OK\r\n")(handler)  # takes 0.85 seconds
        given_up.wait(5)

    server = serve(Reply(act=act))
    started = time.monotonic()

    with pytest.raises(OutcomeUnknown):
        client(server.url).post("/buy", {}, deadline=soon(1))

    assert time.monotonic() - started == pytest.approx(1, abs=0.4)
    given_up.set()


def test_an_answer_within_the_deadline_may_drip(serve: Serve) -> None:
    text = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}'
    server = serve(Reply(act=drip(text, 0.005)))

    assert client(server.url).post("/buy", {}, deadline=soon()).json() == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 999999 what\r\n\r\n",
    ],
    ids=["nothing", "length", "chunk", "chunk_size", "encoding", "ssh", "status"],
)
def test_half_an_answer_leaves_a_purchase_unknown_and_a_question_open(
    serve: Serve, text: bytes
) -> None:
    server = serve(Reply(act=say(text)))

    with pytest.raises(OutcomeUnknown):
        client(server.url).post("/buy", {}, deadline=soon())
    with pytest.raises(Unavailable):
        client(server.url).get("/ask", deadline=soon())
    with pytest.raises(Unavailable):
        client(server.url).download(f"{server.url}/picture", deadline=soon())
    assert len(server.seen) == 3


def test_an_answer_that_breaks_off_in_its_head_is_no_picture(serve: Serve) -> None:
    server = serve(Reply(act=say(b"HTTP/1.1 200 OK\r\nContent-Le")))

    with pytest.raises(Unavailable):
        client(server.url).download(f"{server.url}/picture", deadline=soon())


def test_the_status_of_an_error_counts_though_its_body_breaks_off(serve: Serve) -> None:
    head = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 1000\r\n\r\n{"
    server = serve(Reply(act=say(head)))

    assert client(server.url).post("/buy", {}, deadline=soon()).status == 401


def endless(status: int, length: str) -> Callable[[Handler], None]:
    def act(handler: Handler) -> None:
        handler.wfile.write(f"HTTP/1.1 {status} So\r\n{length}\r\n\r\n".encode())
        while True:
            handler.wfile.write(b"x" * 65_536)

    return act


@pytest.mark.parametrize("length", ["Connection: close", "Content-Length: 99999999999"])
def test_reads_no_more_than_there_may_be(serve: Serve, length: str) -> None:
    server = serve(Reply(act=endless(200, length)))

    with pytest.raises(BadAnswer) as caught:
        client(server.url).post("/buy", {}, deadline=soon(), pictures=2)
    assert caught.value.billed == "yes"
    with pytest.raises(BadAnswer, match="1000 bytes"):
        client(server.url).download(f"{server.url}/picture", deadline=soon())
    with pytest.raises(Unavailable):
        client(server.url).get("/ask", deadline=soon())


@pytest.mark.parametrize("status", [302, 400, 500])
def test_reads_no_endless_error_either(serve: Serve, status: int) -> None:
    server = serve(Reply(act=endless(status, "Connection: close")))

    answer = client(server.url).post("/buy", {}, deadline=soon())

    assert (answer.status, len(answer.body) < 200_000) == (status, True)


# -- Connections


def test_keeps_a_connection_but_not_an_old_one(serve: Serve) -> None:
    server = serve(Reply({}))
    api = client(server.url)

    api.post("/buy", {}, deadline=soon())
    api.post("/buy", {}, deadline=soon())
    assert server.connections == 1

    time.sleep(2.1)  # its age is what matters
    api.post("/buy", {}, deadline=soon())
    assert server.connections == 2


def test_many_calls_go_out_at_once(serve: Serve) -> None:
    everybody_is_here = threading.Barrier(12, timeout=5)

    def act(handler: Handler) -> None:
        everybody_is_here.wait()
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server = serve(Reply(act=act))
    api = client(server.url)
    answers: list[int] = []

    def buy() -> None:
        answers.append(api.post("/buy", {}, deadline=soon()).status)

    threads = [threading.Thread(target=buy) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [200] * 12  # three times the connections that are kept


def test_a_call_that_waits_for_its_answer_takes_little_memory() -> None:
    number = 20
    with socket.create_server(("127.0.0.1", 0), backlog=number) as server:
        api = client(f"http://127.0.0.1:{server.getsockname()[1]}")

        def buy() -> None:
            with pytest.raises(OutcomeUnknown):
                api.post("/buy", {"prompt": "a fox"}, deadline=soon(30))

        def wait_for(number: int) -> tuple[list[threading.Thread], list[socket.socket]]:
            threads = [threading.Thread(target=buy) for _ in range(number)]
            for thread in threads:
                thread.start()
            callers = [server.accept()[0] for _ in threads]
            for caller in callers:
                heard = b""
                while b"a fox" not in heard:
                    heard += caller.recv(10_000)
            return threads, callers

        first = wait_for(1)  # what is made but once is there
        tracemalloc.start()
        try:
            others = wait_for(number)
            taken = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        for threads, callers in (first, others):
            for caller in callers:
                caller.close()
            for thread in threads:
                thread.join()

    assert taken / number < 13_000  # a buffer for the answer alone is 8 kB


def test_remembers_no_cookies(serve: Serve) -> None:
    server = serve(Reply({}, headers={"Set-Cookie": "who=ada; Path=/"}))
    api = client(server.url)

    api.post("/buy", {}, deadline=soon())
    api.post("/buy", {}, deadline=soon())

    assert "cookie" not in server.seen[1].headers


def test_takes_no_credential_from_netrc(
    connect: Connect, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve()
    server.replies = [Reply(CASES[name].accepts(server.url))]

    connect(name, server.url, key="").submit()

    assert not {"authorization", "x-key"} & set(server.seen[0].headers)


@pytest.mark.parametrize("key", ["sk-line\nbreak", " sk-blank", "sk-ключ"])
def test_a_key_that_no_header_can_carry_stops_the_start(connect: Connect, key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connect("openai", "http://provider.example", key=key)

    assert "openai" in str(caught.value)
    assert key.strip() not in str(caught.value)


def test_goes_through_the_proxy_of_the_environment(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(Reply({"via": "proxy"}))
    monkeypatch.setenv("http_proxy", proxy.url)

    answer = client("http://provider.invalid/v1").post("/buy", {}, deadline=soon())

    assert answer.json() == {"via": "proxy"}
    assert proxy.seen[0].path == "http://provider.invalid/v1/buy"


def test_needs_no_proxy_for_its_own_machine(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server, proxy = serve(Reply({"via": "nobody"})), serve(Reply({"via": "proxy"}))
    monkeypatch.setenv("http_proxy", proxy.url)

    assert client(server.url).post("/buy", {}, deadline=soon()).json() == {"via": "nobody"}


def test_knows_what_a_broken_proxy_has_passed_on(
    serve: Serve, dead_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buy(scheme: str, proxy: str) -> None:
        monkeypatch.setenv(f"{scheme}_proxy", proxy)
        client(f"{scheme}://provider.invalid").post("/buy", {}, deadline=soon())

    for proxy in (dead_url, serve(Reply(status=403)).url):
        with pytest.raises(Unavailable):
            buy("https", proxy)

    with pytest.raises(Unavailable):
        buy("http", dead_url)
    with pytest.raises(OutcomeUnknown):
        buy("http", serve(Reply(act=lambda _: None)).url)


# -- TLS

_ASK = """
import pathlib, sys, time
from pydantic import SecretStr
from common.errors import ProviderError
from common.settings import ProviderAccess
from workers.providers.http import Http
from common.transport import tls_context

access = ProviderAccess(sys.argv[1], SecretStr("k"))
for _ in range(3):
    api = Http("acme", access, auth=("x-key", ""), concurrency=4, max_image_bytes=1000)
    try:
        print(api.post("/buy", {}, deadline=time.monotonic() + 5).status)
    except ProviderError as error:
        print(type(error).__name__, error)
    pathlib.Path(sys.argv[2]).unlink(missing_ok=True)  # nothing may need to load it again
print(tls_context().cert_store_stats()["x509"])
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(
    ("trusted", "host", "says"),
    [
        (True, "localhost", "200"),
        (True, "127.0.0.1", "Unavailable"),  # the certificate is for another name
        (False, "localhost", "Unavailable"),
    ],
)
def test_talks_to_proven_servers_only_and_loads_certificates_once(
    authority: trustme.CA, tmp_path: Path, trusted: bool, host: str, says: str
) -> None:
    authorities = tmp_path / "authorities.pem"
    authority.cert_pem.write_to_path(authorities)
    server = Scripted(Reply({}))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    server.wrap(tls)
    environment = os.environ | ({"SSL_CERT_FILE": str(authorities)} if trusted else {})
    try:
        result = subprocess.run(
            # The copy made above, by name: SSL_CERT_FILE may be the system's own bundle.
            [sys.executable, "-c", _ASK, f"https://{host}:{server.port}", str(authorities)],
            cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
    finally:
        server.close()

    *lines, known = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [says] * 3
    assert len(server.seen) == (3 if says == "200" else 0)
    assert "TLS" in result.stdout or says == "200"
    # Other authorities than those asked for must not slip in.
    assert known == "1" or not trusted


def test_a_server_that_does_not_speak_tls_has_sold_nothing(serve: Serve) -> None:
    server = serve(Reply({}))

    with pytest.raises(Unavailable, match="TLS"):
        client(f"https://127.0.0.1:{server.port}").post("/buy", {}, deadline=soon())


def test_a_tls_handshake_that_never_ends_has_sold_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = client(f"https://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(Unavailable):
            api.post("/buy", {}, deadline=soon(0.6))

    assert time.monotonic() - started == pytest.approx(0.6, abs=0.5)


# -- Hostile addresses


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x",
        "https://127.1/x",
        "https://2130706433/x",
        "https://0x7f000001/x",
        "https://localhost/x",
        "https://10.1.2.3/x",
        "https://100.64.0.1/x",
        "https://169.254.169.254/latest/meta-data/",
        "https://192.168.0.1/x",
        "https://0.0.0.0/x",
        "https://224.0.0.1/x",
        "https://240.0.0.1/x",
        "https://[::1]/x",
        "https://[::]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[::ffff:7f00:1]/x",
        "https://[fe80::1]/x",
        "https://[fd00::1]/x",
        "https://[fec0::1]/x",
        "https://[64:ff9b::7f00:1]/x",
        "https://[2002:7f00:1::]/x",
        "https://[ff02::1]/x",
        "http://1.1.1.1/x",
        "http://provider.example/x",
        "https://provider.example:8443/x",
        "https://ada:secret@provider.example/x",
        "https://provider.example@127.0.0.1/x",
        "https://127.0.0.1\\@provider.example/x",
        "ftp://provider.example/x",
        "file:///etc/passwd",
        "gopher://provider.example/x",
        "javascript:alert(1)",
        "//provider.example/x",
        "/etc/passwd",
        "https://",
        "https:///x",
        "https://[::1/x",
        "https://provider.example:99999/x",
        "https://provider.example:x/",
        "http://\x00/",
        "",
    ],
)
def test_visits_nothing_private_though_every_host_is_allowed(url: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        client("https://api.acme.example").download(url, hosts=("*",), deadline=soon())

    assert caught.value.billed == "yes"
    assert not url or url not in caught.value.message


@pytest.mark.parametrize(
    ("url", "admitted"),
    [
        ("https://acme.example/x", True),
        ("https://a.b.acme.example/x", True),
        ("https://A.ACME.Example/x", True),
        ("https://a.acme.example:443/x", True),
        ("https://one.cdn.example/x", True),
        ("https://evilacme.example/x", False),
        ("https://acme.example.evil.example/x", False),
        ("https://two.cdn.example/x", False),
        ("https://sub.one.cdn.example/x", False),
        ("http://a.acme.example/x", False),
        ("http://127.0.0.1:8123/x", True),  # the configured server itself
        ("https://127.0.0.1:8123/x", False),
        ("http://127.0.0.1:8124/x", False),
        ("http://127.0.0.1/x", False),
        ("http://ada@127.0.0.1:8123/x", False),
        ("http://localhost:8123/x", False),
    ],
)
def test_admits_the_hosts_of_the_provider_only(url: str, admitted: bool) -> None:
    api = client("http://127.0.0.1:8123/v1")

    assert api.admits(url, hosts=(".acme.example", "one.cdn.example")) is admitted


def test_a_picture_may_lie_behind_a_few_redirects(serve: Serve) -> None:
    server = serve(
        Reply(status=302, headers={"Location": "/second"}),
        Reply(status=307, headers={"Location": "third?x=1"}),
        Reply(PNG),
    )

    assert client(server.url).download(f"{server.url}/first", deadline=soon()) == PNG
    assert [seen.path for seen in server.seen] == ["/first", "/second", "/third?x=1"]
    assert not any("x-key" in seen.headers for seen in server.seen)


def test_follows_no_chain_of_redirects_for_ever(serve: Serve) -> None:
    server = serve(Reply(status=302, headers={"Location": "/again"}))

    with pytest.raises(BadAnswer, match="redirects"):
        client(server.url).download(f"{server.url}/first", deadline=soon())

    assert len(server.seen) == 4


def test_a_redirect_to_what_is_no_url_is_a_bad_answer(serve: Serve) -> None:
    server = serve(Reply(status=302, headers={"Location": "https://[::1"}))

    with pytest.raises(BadAnswer, match="no URL") as caught:
        client(server.url).download(f"{server.url}/x", hosts=("*",), deadline=soon())

    assert caught.value.billed == "yes"
    assert client(server.url).absolute("https://[::1") == "https://[::1"


def test_is_not_redirected_to_a_neighbour(serve: Serve) -> None:
    canary = serve(Reply(PNG))
    server = serve(Reply(status=302, headers={"Location": f"{canary.url}/private"}))

    with pytest.raises(BadAnswer):
        client(server.url).download(f"{server.url}/x", hosts=("*",), deadline=soon())

    assert canary.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_takes_its_key_along_no_redirect(serve: Serve, status: int) -> None:
    canary = serve(Reply({"status": "Ready"}))
    server = serve(Reply({}, status, {"Location": f"{canary.url}/steal"}))
    api = client(server.url)

    assert api.post("/buy", {}, deadline=soon()).status == status
    with pytest.raises(Unavailable):
        api.get("/ask", deadline=soon())

    assert canary.connections == 0
    assert len(server.seen) == 2


def test_a_foreign_polling_address_is_never_asked(connect: Connect, serve: Serve) -> None:
    canary, server = serve(Reply({"status": "Pending"})), serve()
    server.replies = [
        Reply({"id": "a/b?c", "polling_url": f"{canary.url}/v1/get_result?id=a"}),
        Reply({"id": "a/b?c", "status": "Pending"}),
    ]
    buyer = connect("bfl", server.url)

    outcome = buyer.provider.poll(_job(buyer.submit()), timeout=5)

    assert isinstance(outcome, Job)
    assert canary.connections == 0
    assert server.seen[1].path == "/v1/get_result?id=a%2Fb%3Fc"
    assert server.seen[1].headers["x-key"] == KEY


def test_a_foreign_picture_address_is_never_visited(connect: Connect, serve: Serve) -> None:
    canary = serve(Reply(PNG))
    result = {"sample": f"{canary.url}/x.png"}
    server = serve(Reply({"id": "1"}), Reply({"status": "Ready", "result": result}))
    buyer = connect("bfl", server.url)

    with pytest.raises(BadAnswer):
        buyer.finish(buyer.submit())

    assert canary.connections == 0


# -- What polls mean


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 422, 500, 502, 503])
def test_no_trouble_with_a_poll_ends_work_that_is_paid_for(
    connect: Connect, serve: Serve, status: int
) -> None:
    server = serve(Reply({"detail": "no"}, status))

    with pytest.raises(Unavailable) as caught:
        connect("bfl", server.url).provider.poll(Job("1"), timeout=5)

    assert caught.value.retryable


def test_a_poll_hears_how_long_to_wait(connect: Connect, serve: Serve) -> None:
    server = serve(Reply({}, 429, {"Retry-After": "3"}))

    with pytest.raises(RateLimited) as caught:
        connect("bfl", server.url).provider.poll(Job("1"), timeout=5)

    assert caught.value.retry_after == 3


@pytest.mark.parametrize("answer", [Reply({"status": "Task not found"}), Reply({}, 404)])
def test_a_job_may_take_a_moment_to_be_known(connect: Connect, serve: Serve, answer: Reply) -> None:
    pending = Reply({"status": "Pending", "progress": 0.5})
    ready = Reply({"status": "Ready", "result": {"sample": "http://x"}})
    server = serve(Reply({"id": "1", "cost": 4}), answer, answer, pending, *[answer] * 5, ready)
    buyer = connect("bfl", server.url)
    outcome = buyer.submit()

    for _ in range(8):
        assert isinstance(outcome, Job)
        outcome = buyer.provider.poll(outcome, timeout=5)

    assert isinstance(outcome, Job)
    assert (outcome.progress, outcome.usage["cost_usd"]) == (50, 0.04)


def test_a_job_that_stays_unknown_is_lost(connect: Connect, serve: Serve) -> None:
    server = serve(Reply({"id": "1"}), Reply({"status": "Task not found"}))
    buyer = connect("bfl", server.url)

    with pytest.raises(JobLost):
        buyer.finish(buyer.submit())

    assert len(server.seen) == 1 + 6


@pytest.mark.parametrize(
    "body",
    [
        {"status": 5, "result": 7, "details": "x"},
        {"status": "Ready", "result": {"sample": None}},
        {"status": "Ready", "result": None},
        {"status": "Error", "details": [1, {}], "result": {"error": KEY}},
        {"status": "Content Moderated", "details": {"Moderation Reasons": [None, 7, KEY]}},
        {"status": "Pending", "progress": "half", "cost": "much"},
        {"status": "Pending", "progress": 1e9, "cost": None},
        [],
    ],
)
def test_no_answer_to_a_poll_breaks_the_adapter(
    connect: Connect, serve: Serve, body: object
) -> None:
    server = serve(Reply(body))

    try:
        outcome = connect("bfl", server.url).provider.poll(Job("1"), timeout=5)
    except ProviderError as error:
        assert KEY not in error.message
    else:
        assert isinstance(outcome, Job)
        assert outcome.progress is None


def _job(outcome: Pictures | Job) -> Job:
    assert isinstance(outcome, Job)
    return outcome
