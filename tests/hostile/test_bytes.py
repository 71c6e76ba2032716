"""What is hardly HTTP, or hardly JSON: an error in JSON or a closed connection, never a second
request that nobody sent, never a crash, never a hang."""

from __future__ import annotations

import gzip
import json
import time

import pytest

from tests.api.conftest import Stack
from tests.hostile.wire import Answer, exchange

BODY = b'{"model":"flux-pro","prompt":"x"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
# Served as a request of its own, it would be answered with 401.
SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
MODELS = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"


def post(stack: Stack, headers: bytes, body: bytes) -> bytes:
    start = f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}"
    return start.encode() + b"\r\nContent-Type: application/json\r\n" + headers + b"\r\n" + body


def sound(answers: list[Answer]) -> list[int]:
    """The statuses of answers that are as they must be, whatever was asked."""
    for answer in answers:
        assert answer.status < 500 or answer.status in (501, 505), answer
        if answer.status != 100:
            assert answer.headers["content-type"] == "application/json", answer
            assert (answer.status < 400) != ("error" in answer.json())
        assert len(answer.body) < 100_000
        assert not [name for name in answer.headers if "leak" in name]
    return [answer.status for answer in answers]


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"Content-Length: 4\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Length: 40\r\n",
        *(
            b"Content-Length: %s\r\n" % v
            for v in (b"4, 4", b"+4", b"-4", b"0x4", b"1_0", b"\xb2", b"")
        ),
    ],
    ids=ascii,
)
def test_where_a_body_ends_is_never_in_doubt(stack: Stack, headers: bytes) -> None:
    answers = exchange(stack.base, post(stack, headers, CHUNKS + SMUGGLED))

    assert sound(answers) == [400]


@pytest.mark.parametrize(
    ("headers", "body", "statuses"),
    [
        (LENGTH, BODY, [202]),
        (b"Transfer-Encoding: chunked\r\n", CHUNKS, [202]),
        (b"Content-Length: 4\r\n", BODY + SMUGGLED, [400, 400]),
        (b"Content_Length: 4\r\n", BODY + SMUGGLED, [400, 400]),
        (b"Content-Length: %d\r\n" % (len(BODY) + len(SMUGGLED)), BODY, [400]),
        (b"Content-Length: " + b"9" * 30 + b"\r\n", BODY, [413]),
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\n" + BODY, [400]),
        (b"Transfer-Encoding: chunked\r\n", b"-1\r\n{}\r\n0\r\n\r\n", [400]),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nab\r\n{}\r\n0\r\n\r\n", [400]),
        (b"Transfer-Encoding: chunked\r\n", b"0x" + CHUNKS, [400]),
        (b"Transfer-Encoding: chunked\r\n", b"F" * 18 + b"\r\n" + BODY, [400]),
        (b"Transfer-Encoding: chunked\r\n", CHUNKS.replace(b"\r\n", b"\n"), [400]),
        (b"Transfer-Encoding: chunked\r\n", CHUNKS[:-2] + b"Authorization: x\r\n\r\n", [400]),
        (b"Expect: 100-continue\r\n" + LENGTH, BODY, [100, 202]),
        (b"Expect: 100-continue\r\nContent-Length: 2000000\r\n", b"", [100, 413]),
        (b"Expect: a-miracle\r\n" + LENGTH, BODY, [400]),
        (b"Content-Type: text/plain\r\n" + LENGTH, BODY, [400]),
        (b"Content-Encoding: gzip\r\nContent-Length: 3\r\n", b"\x1f\x8b\x08", [400]),
    ],
    ids=ascii,
)
def test_a_body_is_taken_as_it_was_announced_or_not_at_all(
    stack: Stack, headers: bytes, body: bytes, statuses: list[int]
) -> None:
    assert sound(exchange(stack.base, post(stack, headers, body))) == statuses


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/v1/tasks/x", 404), ("GET", "/v1/models", 200), ("PUT", "/v1/images/edits/1", 401)],
)
def test_a_body_that_nobody_reads_is_no_request(
    stack: Stack, method: str, target: str, status: int
) -> None:
    key = f"Authorization: Bearer {stack.key}\r\n" if status == 404 else ""
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\n{key}Content-Length: {len(SMUGGLED)}\r\n\r\n"
    answers = exchange(stack.base, head.encode() + SMUGGLED + MODELS + b"\r\n")

    assert sound(answers) == [status, 200]


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (b"", []),
        (b"GARBAGE\r\n\r\n", [400]),
        (b"\r\n" * 50, [400]),
        (b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03\x7f" + b"\0" * 180, []),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + MODELS + b"\r\n", [400]),
        (b"GET /v1/models\r\n\r\n", [400]),
        (b"GET /v1/models HTTP/9.9\r\nHost: x\r\n\r\n", [400]),
        (b"GET  /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (b"GET x:80 HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
        (b"TRACE /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", [405]),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
        (MODELS.replace(b"\r\n", b"\n") + b"\n", [400]),
        (MODELS.replace(b"\r\n", b"\r") + b"\r", []),
        (MODELS + b"Host: y\r\n\r\n", [400]),
        (MODELS + b" X: folded\r\n\r\n", [400]),
        (MODELS + b"X\r\n\r\n", [400]),
        (MODELS + b"Bad Header: y\r\n\r\n", [400]),
        (MODELS + b"X: a\x00b\r\n\r\n", [400]),
        (MODELS + b"X: a\rX-Leak: b\r\n\r\n", [400]),
        (MODELS + b"X: " + b"y" * 100_000 + b"\r\n\r\n", [431]),
        (MODELS + b"".join(b"X-%d: y\r\n" % i for i in range(101)) + b"\r\n", [431]),
        (MODELS + b"".join(b"X-%d: y\r\n" % i for i in range(100_000)) + b"\r\n", [431]),
        (b"GET /v1/" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", [414]),
        (b"GET /v1/models?" + b"a&" * 500_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", [414]),
        (MODELS + b"Upgrade: h2c\r\nConnection: Upgrade\r\nHTTP2-Settings: AAMA\r\n\r\n", [200]),
        (MODELS + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", [400]),
        (MODELS + b"Range: bytes=" + b"0-1," * 1000 + b"\r\n\r\n", [200]),
        (MODELS + b"If-None-Match: " + b'"a",' * 1500 + b"\r\n\r\n", [200]),
        (MODELS + b"Cookie: " + b"a=b;" * 1500 + b"\r\n\r\n", [200]),
        (MODELS + b"X-Request-ID: a\r\n\r\n" + SMUGGLED, [200, 401]),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_what_is_hardly_http_is_answered_in_json_too(
    stack: Stack, request_: bytes, statuses: list[int]
) -> None:
    answers = exchange(stack.base, request_)

    # Whoever is still sending when it is refused may lose the answer with the connection.
    assert sound(answers) == statuses or (len(request_) > 500_000 and not answers)


@pytest.mark.parametrize(
    "value",
    [b"a%0d%0aX-Leak: 1", b"a\xe5\x98\x8d\xe5\x98\x8aX-Leak: 1", b"\xff", b"a\tb", b"x" * 129],
)
@pytest.mark.parametrize(
    "name", [b"X-Request-ID", b"Idempotency-Key", b"Prefer", b"Host", b"Origin"]
)
def test_nothing_that_is_repeated_can_add_a_header(stack: Stack, name: bytes, value: bytes) -> None:
    request = post(stack, LENGTH + name + b": " + value + b"\r\n", BODY)
    if name == b"Host":
        request = request.replace(b"Host: x\r\n", b"", 1)
    (answer,) = exchange(stack.base, request)

    sound([answer])
    headers = "".join(answer.headers.values()).encode("latin-1")
    assert value not in headers and b"\xff" not in headers


@pytest.mark.parametrize("host", [b'a b<c>"', b"", b"x:99999999", b"\xff\xfe", b"x/../y", b"[::1"])
def test_no_host_breaks_the_addresses_of_images(stack: Stack, host: bytes) -> None:
    task_id = stack.submit()
    stack.complete(task_id)
    head = b"GET /v1/tasks/%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n"
    answers = exchange(stack.base, head % (task_id.encode(), host, stack.key.encode()))

    assert sound(answers) in ([200], [400])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"prompt": "x", "a": ' + b'[{"b": ' * 100_000 + b"1" + b"}]" * 100_000 + b"}", 400),
        (b"[" * 999_999, 400),
        (b'{"prompt": "' + b"x" * 999_000 + b'"}', 400),
        (b'{"prompt": "' + b"\\ud800" * 160_000 + b'"}', 400),
        (b'{"model": "' + b"x" * 900_000 + b'", "prompt": "x"}', 400),
        (b'{"' + b"x" * 900_000 + b'": 1, "prompt": "x", "model": "flux-pro"}', 202),
        (json.dumps({f"{i}": i for i in range(60_000)}).encode(), 400),
        (json.dumps({f"{i}": "y" for i in range(50_000)} | json.loads(BODY)).encode(), 202),
        (b'{"prompt": "x", "n": 1e' + b"9" * 100_000 + b"}", 400),
        (b'{"prompt": "x", "seed": ' + b"9" * 4_000 + b"}", 400),
        (b'{"prompt": "x", "seed": -0.0, "n": 1.0000000000000000000001}', 400),
        (b'{"prompt": "x", "n": true}', 400),
        (b'{"prompt": {"$ref": "#"}, "model": ["flux-pro"]}', 400),
        (b'\xef\xbb\xbf{"prompt": "x"}', 400),
        (b'{"prompt": "\xed\xa0\x80"}', 400),
        (b'{"prompt": "\xc0\xae"}', 400),
        (b'{"prompt": "x\x00"}', 400),
        (b'{"model": "flux-pro", "prompt": "x\\u0000"}', 400),
        (b'{"model": "flux-pro", "prompt": "x\\ud800"}', 400),
        (gzip.compress(b" " * 10_000_000, mtime=0), 400),
        (BODY[:-1] + b" " * (999_999 - len(BODY)) + b"}", 202),
        (BODY[:-1] + b" " * (1_000_001 - len(BODY)) + b"}", 413),
    ],
    ids=lambda value: ascii(value)[:50],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
def test_no_body_costs_much_or_gets_a_long_answer(
    stack: Stack, body: bytes, status: int, chunked: bool
) -> None:
    begun = time.monotonic()
    if chunked:
        parts = [body[at : at + 60_000] for at in range(0, len(body), 60_000)]
        sent = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        answers = exchange(stack.base, post(stack, b"Transfer-Encoding: chunked\r\n", sent))
    else:
        answers = exchange(stack.base, post(stack, b"Content-Length: %d\r\n" % len(body), body))

    assert sound(answers) == [status]
    assert len(answers[0].body) < 5_000
    assert time.monotonic() - begun < 3  # it takes some tens of milliseconds
