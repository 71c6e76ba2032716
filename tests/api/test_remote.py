"""Images at addresses that callers name: what is visited, and what never is."""

from __future__ import annotations

import gzip
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

import common.transport
from api.remote import CannotFetch, Remote
from common.transport import tls_context
from tests.api.conftest import Stack, picture
from tests.contracts.scripted import Reply, Scripted

PNG = picture()
MOST = 1_000_000

# The canary's own address and port, in every spelling that some reader of URLs or some resolver
# takes for it, and other addresses that are nobody's business.
SPELLINGS = [
    "https://127.0.0.1:{port}/x",
    "https://127.0.0.1.:{port}/x",
    "https://127.1:{port}/x",
    "https://127.0.1:{port}/x",
    "https://127.000.000.001:{port}/x",
    "https://127.0.0.01:{port}/x",
    "https://0177.0.0.1:{port}/x",
    "https://0x7f.0.0.1:{port}/x",
    "https://0x7f.1:{port}/x",
    "https://0x7f000001:{port}/x",
    "https://0X7F000001:{port}/x",
    "https://2130706433:{port}/x",
    "https://017700000001:{port}/x",
    "https://127.8.8.8:{port}/x",
    "https://127.255.255.254:{port}/x",
    "https://0:{port}/x",
    "https://0.0.0.0:{port}/x",
    "https://00000000:{port}/x",
    "https://[::1]:{port}/x",
    "https://[0:0:0:0:0:0:0:1]:{port}/x",
    "https://[0000:0000:0000:0000:0000:0000:0000:0001]:{port}/x",
    "https://[::]:{port}/x",
    "https://[::ffff:127.0.0.1]:{port}/x",
    "https://[::ffff:7f00:1]:{port}/x",
    "https://[0:0:0:0:0:ffff:127.0.0.1]:{port}/x",
    "https://[::127.0.0.1]:{port}/x",
    "https://[::7f00:1]:{port}/x",
    "https://[64:ff9b::127.0.0.1]:{port}/x",
    "https://[64:ff9b::7f00:1]:{port}/x",
    "https://[64:ff9b:1::7f00:1]:{port}/x",
    "https://[2002:7f00:1::]:{port}/x",
    "https://[2001:0:7f00:1::]:{port}/x",
    "https://[fe80::1%25lo]:{port}/x",
    "https://localhost:{port}/x",
    "https://LOCALHOST:{port}/x",
    "https://localhost.:{port}/x",
    "https://localhost.localdomain:{port}/x",
    "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/x",
    "https://①②⑦.⓪.⓪.①:{port}/x",
    "https://127。0。0。1:{port}/x",
    "https://\uff11\uff12\uff17.0.0.1:{port}/x",
    "https://%31%32%37.0.0.1:{port}/x",
    "https://127.0.0.1%00.example.com:{port}/x",
    "https://example.com@127.0.0.1:{port}/x",
    "https://example.com:443@127.0.0.1:{port}/x",
    "https://127.0.0.1:{port}\\@example.com/x",
    "https://example.com\\@127.0.0.1:{port}/x",
    "https://example.com#@127.0.0.1:{port}/x@",
    "https://127.0.0.1:{port}#.example.com/x",
    "https://127.0.0.1:{port}?.example.com/x",
    "https:127.0.0.1:{port}/x",
    "https:/127.0.0.1:{port}/x",
    "https:///127.0.0.1:{port}/x",
    "https:////127.0.0.1:{port}/x",
    "https:\\\\127.0.0.1:{port}/x",
    " https://127.0.0.1:{port}/x",
    "https://127.0.0.1:{port} /x",
    "https://127.0.0.1\t:{port}/x",
    "https://127.0\n.0.1:{port}/x",
    "http://127.0.0.1:{port}/x",
    "http://localhost:{port}/x",
    "HTTP://127.0.0.1:{port}/x",
    "//127.0.0.1:{port}/x",
    "127.0.0.1:{port}/x",
    "ftp://127.0.0.1:{port}/x",
    "gopher://127.0.0.1:{port}/x",
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "unix:///run/docker.sock",
    "jar:https://127.0.0.1:{port}!/x",
    "javascript:fetch('https://127.0.0.1:{port}/x')",
    "https://169.254.169.254/latest/meta-data/",
    "https://[fd00:ec2::254]/latest/meta-data/",
    "https://10.0.0.1/x",
    "https://172.16.0.1/x",
    "https://192.168.0.1/x",
    "https://100.64.0.1/x",
    "https://192.0.0.1/x",
    "https://198.18.0.1/x",
    "https://224.0.0.1/x",
    "https://255.255.255.255/x",
    "https://240.0.0.1/x",
    "https://[fc00::1]/x",
    "https://[fec0::1]/x",
    "https://[ff02::1]/x",
    "https://[::1",
    "https://127.0.0.1:99999/x",
    "https://127.0.0.1:-1/x",
    "https://127.0.0.1:x/x",
    "https://",
    "https://.",
    "https://" + "a" * 9000,
]


class Canary:
    """Listens on every address of this machine, and notes whoever comes."""

    def __init__(self) -> None:
        self.visits = 0
        self._socket = socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64
        )
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.visits += 1
            connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    canary = Canary()
    yield canary
    canary.close()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_leads_into_the_private_network(
    stack: Stack, canary: Canary, spelling: str
) -> None:
    """Over the running front end, with the resolver of this machine."""
    url = spelling.format(port=canary.port)

    answer = stack.http.post(
        f"{stack.base}/v1/images/edits", json={"prompt": "x", "images": [url]}, timeout=20
    )

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "images[0]")
    assert error["message"].startswith("images[0] ")
    assert "127" not in error["message"] and "localhost" not in error["message"]
    assert canary.visits == 0


def test_the_canary_would_have_sung(canary: Canary) -> None:
    before = canary.visits
    for host in ("127.0.0.1", "127.8.8.8", "::1"):
        with socket.create_connection((host, canary.port), timeout=5) as connection:
            connection.recv(1)
    assert canary.visits == before + 3
    canary.visits = before


def test_a_mask_is_fetched_no_differently(stack: Stack, canary: Canary) -> None:
    answer = stack.http.post(
        f"{stack.base}/v1/images/edits",
        data={"prompt": "x", "mask_url": f"https://127.0.0.1:{canary.port}/x"},
        files={"image": ("a.png", PNG)},
        timeout=20,
    )

    assert answer.json()["error"]["param"] == "mask_url"
    assert canary.visits == 0


# -- an Internet of our own: names and addresses are made up, the connections are real

PUBLIC, OTHER = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


class Internet:
    """Names and what they stand for, one answer after the other; public addresses and the port of
    this machine that is behind them."""

    def __init__(self) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self.visited: list[str] = []
        self.ports: dict[str, int] = {}

    def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        answers = self.names.get(host) or [[host]]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in answer]

    def create_connection(self, where: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        self.visited.append(where[0])
        return socket.create_connection(("127.0.0.1", self.ports[where[0]]), timeout=5)


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Internet:
    internet = Internet()
    real = socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **options: Any) -> Any:
        looked = real if host == "127.0.0.1" else internet.getaddrinfo
        return looked(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(common.transport, "create_connection", internet.create_connection)
    return internet


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(
    internet: Internet,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scripted]:
    """`pictures.example` and `other.example`, with a certificate that is trusted."""
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    tls_context.cache_clear()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("pictures.example", "other.example").configure_cert(tls)
    server = Scripted(Reply(PNG))
    server.wrap(tls)
    internet.names = {"pictures.example": [[PUBLIC]], "other.example": [[OTHER]]}
    internet.ports = {PUBLIC: server.port, OTHER: server.port}
    yield server
    server.close()
    tls_context.cache_clear()


URL = "https://pictures.example/fox.png"


def fetch(url: str = URL, *, seconds: float = 5) -> bytes:
    return Remote(max_bytes=MOST).fetch(url, deadline=time.monotonic() + seconds)


def why_not(url: str = URL, *, seconds: float = 5) -> str:
    with pytest.raises(CannotFetch) as caught:
        fetch(url, seconds=seconds)
    return str(caught.value)


def to(location: str, status: int = 302) -> Reply:
    return Reply(status=status, headers={"Location": location})


def test_a_public_image_is_fetched(server: Scripted) -> None:
    assert fetch() == PNG
    assert fetch("https://pictures.example:8443/fox.png?size=1") == PNG

    first, second = server.seen
    assert (first.method, first.path, second.path) == ("GET", "/fox.png", "/fox.png?size=1")
    assert not {"authorization", "cookie", "referer"} & set(first.headers)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_few_redirects_are_followed(server: Scripted, internet: Internet, status: int) -> None:
    server.reset(
        to("/second", status),
        to("https://other.example/third", status),
        to("//pictures.example/fourth", status),
        Reply(PNG),
    )

    assert fetch() == PNG
    assert [seen.path for seen in server.seen] == ["/fox.png", "/second", "/third", "/fourth"]
    assert set(internet.visited) == {PUBLIC, OTHER}


def test_no_more_than_three(server: Scripted) -> None:
    server.reset(to("/again"))

    assert why_not() == "is more than 3 redirects away"
    assert len(server.seen) == 4


@pytest.mark.parametrize("hop", [1, 2, 3])
@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:10.0.0.1]/x",
        "https://inside.example/x",
        "//127.0.0.1/x",
        "http://pictures.example/x",
        "http://127.0.0.1/x",
        "https://ada:secret@pictures.example/x",
        "file:///etc/passwd",
        "https://[::1",
    ],
)
def test_no_redirect_leads_there_either(
    server: Scripted, internet: Internet, location: str, hop: int
) -> None:
    internet.names["inside.example"] = [["10.1.2.3"]]
    server.reset(*[to(f"/{at}") for at in range(1, hop)], to(location), Reply(PNG))

    why_not()

    assert len(server.seen) == hop
    assert set(internet.visited) == {PUBLIC}


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.8"],
        ["::1"],
        ["fd12::1"],
        ["::ffff:192.168.1.1"],
        ["64:ff9b::a00:1"],
        ["169.254.169.254"],
        [PUBLIC, "127.0.0.1"],
        ["127.0.0.1", PUBLIC],
        [PUBLIC, OTHER, "fe80::1"],
    ],
)
def test_a_name_that_stands_for_a_private_address_is_not_visited(
    server: Scripted, internet: Internet, addresses: list[str]
) -> None:
    internet.names["pictures.example"] = [addresses]

    assert why_not() == "could not be fetched: its host is not known or not public"
    assert internet.visited == []


def test_a_name_that_nobody_knows_is_told_no_differently(
    internet: Internet, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    assert why_not() == "could not be fetched: its host is not known or not public"


def test_a_name_is_looked_up_once_and_its_address_visited(
    server: Scripted, internet: Internet
) -> None:
    """DNS rebinding: the second answer, which would be for the connection, is a private address."""
    internet.names["pictures.example"] = [[PUBLIC], ["127.0.0.1"]]

    assert fetch() == PNG
    assert internet.asked == ["pictures.example"]
    assert internet.visited == [PUBLIC]


def test_a_name_that_changed_is_looked_at_again_at_a_redirect(
    server: Scripted, internet: Internet
) -> None:
    internet.names["other.example"] = [["127.0.0.1"]]
    server.reset(to("https://other.example/x"), Reply(PNG))

    why_not()

    assert internet.asked == ["pictures.example", "other.example"]
    assert internet.visited == [PUBLIC]


def test_a_proxy_of_the_environment_does_not_look_names_up_for_us(
    server: Scripted, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert fetch() == PNG


def test_a_certificate_of_somebody_else_is_not_trusted(
    server: Scripted, internet: Internet
) -> None:
    internet.names["third.example"] = [[PUBLIC]]

    assert why_not("https://third.example/x") == (
        "could not be fetched: no trusted TLS connection could be made"
    )
    assert server.seen == []


@pytest.mark.parametrize("status", [201, 204, 400, 401, 403, 404, 410, 418, 429, 500, 503])
def test_an_answer_without_an_image_is_told(server: Scripted, status: int) -> None:
    server.reset(Reply(b"" if status < 300 else b"no", status))

    told = "sent nothing" if status < 300 else f"answered {status}"
    assert why_not() == f"could not be fetched: its host {told}"


def test_what_is_too_large_is_not_read_to_its_end(server: Scripted) -> None:
    server.reset(Reply(b"x" * (MOST + 1)))

    assert why_not() == f"is larger than {MOST} bytes"


def test_what_unfolds_to_too_much_is_too_large(server: Scripted) -> None:
    server.reset(Reply(gzip.compress(b"\0" * 50 * MOST), headers={"Content-Encoding": "gzip"}))

    assert why_not() == f"is larger than {MOST} bytes"


def drip(pause: float) -> Callable[[BaseHTTPRequestHandler], None]:
    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(pause)  # the pace of a server that keeps its clients waiting

    return act


def test_one_deadline_is_for_all_of_it(server: Scripted) -> None:
    server.reset(Reply(act=drip(0.05)))
    started = time.monotonic()

    assert why_not(seconds=0.5) == "could not be fetched: the time was up"
    assert time.monotonic() - started < 2


def test_redirects_do_not_lengthen_the_deadline(server: Scripted) -> None:
    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.3)  # the pace of the server
        handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")

    server.reset(Reply(act=slowly))

    assert why_not(seconds=0.5) == "could not be fetched: the time was up"
    assert len(server.seen) == 2
