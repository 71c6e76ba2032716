"""Ten thousand ids and image addresses that are almost right: none opens anything.

They are the same in every run; `--thorough 10` goes on to a hundred thousand.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlsplit

import pytest

from tests.api.conftest import Stack
from tests.hostile.tenants import Tenant, operations
from tests.hostile.wire import Answer, ask_all, exchange, head

EACH = 5000  # ids, and addresses
HEX = "0123456789abcdef"
ODD = [
    *("%00", "%0a", "%0d%0aX-Leak:%201", "%20", "%09", "%2e", "%2f", "%2e%2e%2f", "%252e", "%5c"),
    *("%c0%ae", "%ff", "%d9%a3", "%ef%bc%90", "%e2%80%8b", "%f0%9f%8d%8e", "%ed%a0%80", "%"),
    *("%zz", "%u0030", "..", ".", "/", "//", "/../", "/./", ";", ";x=1", ":", "*", "[0]", "?(x)"),
    *(",", "'", '"', "<b>", "{}", "|", "~", "-", "+", "$", "\\", "@", "!", ".json", "#x", "g", "G"),
]
PREFIXES = [
    *("", "imgtask", "imgtask-", "IMGTASK_", "Imgtask_", "task_", "img_", "key_", "req_", "cgt-"),
    *("imgtask_imgtask_", "darkroom:task:imgtask_", "darkroom:owner:", "0x", "_", "imgtask%5f%5f"),
]


class Mutator:
    """Makes things that are not quite what they were."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self, text: str) -> str:
        """`text` with one to three changes."""
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            text = self.random.choice(self._changes)(self, text)
        return text

    def _replace(self, text: str) -> str:
        at = self._place(text)
        return (
            text[:at] + self.random.choice((self.random.choice(HEX), self._odd())) + text[at + 1 :]
        )

    def _insert(self, text: str) -> str:
        at = self.random.randint(0, len(text))
        return text[:at] + self.random.choice((self.random.choice(HEX), self._odd())) + text[at:]

    def _delete(self, text: str) -> str:
        at = self._place(text)
        return text[:at] + text[at + self.random.randint(1, 4) :]

    def _swap(self, text: str) -> str:
        at, to = sorted((self._place(text), self._place(text)))
        return (
            text[:at] + text[to : to + 1] + text[at + 1 : to] + text[at : at + 1] + text[to + 1 :]
        )

    def _case(self, text: str) -> str:
        at = self._place(text)
        return self.random.choice((text.upper(), text[:at] + text[at:].swapcase()))

    def _prefix(self, text: str) -> str:
        return self.random.choice(PREFIXES) + text.rpartition("_")[2]

    def _length(self, text: str) -> str:
        return self.random.choice(
            (text * 2, text[: self._place(text)], text + "0" * 4000, text * 90)
        )

    def _escape(self, text: str) -> str:
        """The same to whoever unescapes it, once or twice."""
        at = self._place(text)
        return (
            text[:at]
            + "".join(f"%{byte:02x}" for byte in text[at : at + 1].encode())
            + text[at + 1 :]
        )

    def _digits(self, text: str) -> str:
        """Digits of other scripts, which `str.isdigit` takes for digits."""
        zero = self.random.choice((0x0660, 0x0966, 0xFF10, 0x1D7CE))
        return re.sub("[0-9]", lambda digit: quote(chr(zero + int(digit[0]))), text, count=3)

    _changes: tuple[Callable[[Mutator, str], str], ...] = (
        *(_replace, _insert, _delete, _swap) * 3,
        *(_case, _prefix, _length, _escape, _digits),
    )

    def _odd(self) -> str:
        return self.random.choice(ODD)

    def _place(self, text: str) -> int:
        return self.random.randrange(len(text)) if text else 0


def meant(target: str) -> tuple[bytes, list[tuple[str, str]]]:
    """What a server makes of a target: the path unescaped, and the query in any order."""
    path, _, query = target.partition("?")
    return unquote_to_bytes(path.partition("#")[0]).rstrip(b"/"), sorted(parse_qsl(query, True))


@pytest.fixture(scope="module")
def tenants(stack: Stack) -> list[Tenant]:
    tenants = [Tenant.new(stack, name) for name in ("dora", "emil")]
    for tenant in tenants:
        tenant.fill()
    return tenants


def must_be_refused(answer: Answer | None, about: str, *tenants: Tenant) -> None:
    assert answer is not None, f"no answer to {about}"
    assert 400 <= answer.status < 500, f"{answer.status} to {about}"
    assert answer.headers["content-type"] == "application/json", about
    assert answer.json()["error"]["code"], about
    assert "x-leak" not in answer.headers, about
    for tenant in tenants:
        assert tenant.mark.encode() not in answer.body, about


def test_no_id_that_is_almost_right_finds_a_task(
    stack: Stack, tenants: list[Tenant], thorough: int
) -> None:
    stranger, owner = tenants
    mutator = Mutator(seed=1)
    offered = operations(stack, "task")

    def mutants() -> Iterator[tuple[str, bytes]]:
        while True:
            # One's own task under a name that is not its own, and a stranger's under any name.
            tenant = mutator.random.choice(tenants)
            task_id = mutator.random.choice(list(tenant.tasks.values()))
            mutant = mutator.text(task_id)
            operation = mutator.random.choice(offered)
            target = operation.of(mutant)
            same = meant(target)[0] == operation.of(task_id).encode()
            listed = meant(target)[0] in (b"/v1/tasks", b"/v1/models", b"/v1/usage")
            if not (listed or "?" in target or "#" in target) and (tenant is owner or not same):
                key = f"Bearer {stranger.key}"
                yield target, head(operation.method, target, Authorization=key)

    asked = [mutant for mutant, _ in zip(mutants(), range(thorough * EACH), strict=False)]
    for (target, _), answer in zip(asked, ask_all(stack.base, [r for _, r in asked]), strict=True):
        must_be_refused(answer, target, *tenants)


def test_no_address_that_is_almost_right_opens_an_image(
    stack: Stack, tenants: list[Tenant], thorough: int
) -> None:
    links = [link for tenant in tenants for link in tenant.links()]
    mutator = Mutator(seed=2)

    def mutants() -> Iterator[str]:
        for link in links:
            yield from _each_byte_changed(link)
        while True:
            link, other = mutator.random.sample(links, 2)
            yield _mutated(mutator, link, other)

    genuine = {str(meant(link)) for link in links}
    asked: list[str] = []
    for target in mutants():
        if len(asked) == thorough * EACH:
            break
        if str(meant(target)) not in genuine:
            asked.append(target)
    answers = ask_all(stack.base, [head("GET", target) for target in asked])
    for target, answer in zip(asked, answers, strict=True):
        must_be_refused(answer, target, *tenants)


def _each_byte_changed(link: str) -> Iterator[str]:
    """Each byte of the name, the expiry and the signature, made a neighbour and another kind."""
    for at, byte in enumerate(link):
        if at >= len("/files/"):
            for other in {chr(ord(byte) ^ 1), chr(ord(byte) ^ 2), byte.swapcase(), "A", "9"} - {
                byte
            }:
                yield link[:at] + quote(other, safe="") + link[at + 1 :]


def _mutated(mutator: Mutator, link: str, other: str) -> str:
    path, query = urlsplit(link).path, dict(parse_qsl(urlsplit(link).query))
    foreign = dict(parse_qsl(urlsplit(other).query))
    expires, signature = query["expires"], query["signature"]
    later = str(int(expires) + mutator.random.choice((1, 60, 10**9, -1)))

    def text(of: str) -> str:
        return mutator.text(of).replace("#", "%23")

    match mutator.random.randrange(8):
        case 0:
            path = "/files/" + text(path.removeprefix("/files/")).replace("?", "%3f")
        case 1:
            expires = text(expires)
        case 2:
            signature = text(signature)
        case 3:
            expires, signature = signature, expires
        case 4:
            signature = "".join(mutator.random.sample(signature, len(signature)))
        case 5:  # what one reader takes for the first, another takes for the last
            twice = [
                f"expires={expires}&expires={later}&signature={signature}",
                f"expires={later}&expires={expires}&signature={signature}",
                f"expires={expires}&signature={signature}&signature={foreign['signature']}",
                f"expires={expires}&signature={foreign['signature']}&signature={signature}",
                f"expires={expires}&signature={signature}&signature={signature}",
            ]
            return f"{path}?{mutator.random.choice(twice)}"
        case 6:
            name = mutator.random.choice(("expires", "signature"))
            other_name = mutator.random.choice(
                (name.upper(), f"{name}[]", f"{name}%00", f"%20{name}")
            )
            return f"{path}?{urlsplit(link).query.replace(name, other_name)}"
        case 7:
            expires = mutator.random.choice(
                (later, f"%2b{expires}", f"%20{expires}", f"0{expires}")
            )
    return f"{path}?expires={expires}&signature={signature}"


RAW = [b"\x00", b"\x01", b" ", b"\t", b"\x7f", b"\x80", b"\xff", "é".encode(), "٣".encode(), b"\n"]


@pytest.mark.parametrize("raw", RAW, ids=repr)
def test_bytes_that_belong_in_no_address_are_refused(
    stack: Stack, tenants: list[Tenant], raw: bytes
) -> None:
    key = f"Authorization: Bearer {tenants[0].key}".encode()
    task_id = tenants[0].tasks["completed"].encode()
    for target in (
        b"/v1/tasks/" + task_id + raw,
        b"/v1/tasks/" + raw + task_id,
        b"/v1/tasks/" + task_id[:20] + raw + task_id[20:],
        tenants[0].links()[0].encode() + raw,
    ):
        request = b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + key + b"\r\n\r\n"
        answers = exchange(stack.base, request)

        assert len(answers) <= 1
        for answer in answers:
            must_be_refused(answer, ascii(target), *tenants)
