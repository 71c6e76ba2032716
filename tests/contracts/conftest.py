"""The sandbox as a process of its own, scripted servers, and adapters that talk to either."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from common.catalog import Route
from common.errors import ProviderError
from common.settings import ProviderAccess
from common.task import ImageRequest
from tests.contracts.cases import CASES, Case
from tests.contracts.scripted import Reply, Scripted
from workers.providers import make_providers
from workers.providers.base import Image, Job, Order, Outcome, Pictures, Provider

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = REPOSITORY.parent / "shared" / "providers"
KEY = "sk-proj-0123456789abcdefghij"


@dataclass(frozen=True)
class Buyer:
    """An adapter at work, with what the suite knows of its provider."""

    name: str
    case: Case
    provider: Provider

    def submit(
        self,
        prompt: str = "",
        *,
        count: int = 1,
        first: int = 0,
        timeout: float = 10,
        request: ImageRequest | None = None,
        route: Route | None = None,
        key: str = "",
        images: tuple[Image, ...] = (),
        mask: Image | None = None,
    ) -> Outcome:
        asked = request or self.case.request
        return self.provider.submit(
            Order(
                replace(asked, prompt=prompt or asked.prompt),
                route or self.case.route,
                count=count,
                first=first,
                key=key or f"imgtask_{uuid.uuid4().hex}/{first}",
                images=images,
                mask=mask,
            ),
            timeout=timeout,
        )

    def finish(self, outcome: Outcome, *, timeout: float = 10) -> Pictures:
        """Poll until there are pictures, or the provider says that there will be none."""
        ends = time.monotonic() + timeout
        while isinstance(outcome, Job):
            assert time.monotonic() < ends, f"the job never ended: {outcome}"
            time.sleep(0.02)  # the pace of polling, which is the caller's
            outcome = self.provider.poll(outcome, timeout=ends - time.monotonic())
        return outcome


Connect = Callable[..., Buyer]


@pytest.fixture
def connect() -> Connect:
    """Make an adapter: connect(name, base_url, key=…, max_image_bytes=…, sandbox=…, file=…)."""

    def make(
        name: str,
        base_url: str,
        key: str = KEY,
        max_image_bytes: int = 50_000_000,
        sandbox: bool = False,
        file: str = "",
    ) -> Buyer:
        access = {name: ProviderAccess(base_url, SecretStr(key), sandbox, file)}
        made = make_providers(access, concurrency=8, max_image_bytes=max_image_bytes)
        return Buyer(name, CASES[name], made[name])

    return make


class Sandbox:
    """The running sandbox, and what it says it has sold."""

    def __init__(self, url: str) -> None:
        self.url = url

    def purchases(self, prompt: str) -> int:
        sold = requests.get(f"{self.url}/_sandbox/purchases", timeout=5).json()["purchases"]
        return sum(entry["prompt"] == prompt for entry in sold)

    def calls(self, provider: str) -> dict[str, int]:
        counts = requests.get(f"{self.url}/_sandbox/calls", timeout=5).json()["calls"]
        return dict(counts[provider])


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@contextmanager
def running_sandbox() -> Iterator[Sandbox]:
    """A sandbox of one's own, to which nobody else sends anything."""
    environment = os.environ | {"SANDBOX_PORT": "0", "SANDBOX_SPEED": "50"}
    command = [sys.executable, "-m", "ops.sandbox"]
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "listening on http" in line, f"the sandbox did not start: {line!r}"
        running = Sandbox(line.split()[-1])
        orders = [{"picture": "plain"}, {"provider": "midjourney", "delay": 0.1}]
        requests.post(f"{running.url}/_sandbox/faults", json=orders, timeout=5).raise_for_status()
        yield running
        process.terminate()


@pytest.fixture(params=sorted(CASES))
def name(request: pytest.FixtureRequest) -> str:
    """Each provider in turn."""
    return str(request.param)


@pytest.fixture
def buyer(connect: Connect, sandbox: Sandbox, name: str) -> Buyer:
    """Each provider in turn, as the sandbox plays it."""
    return connect(name, sandbox.url + CASES[name].sandbox_path, sandbox=True)


@pytest.fixture
def prompt() -> str:
    """A prompt nobody else uses, to find its purchases by."""
    return f"a fox {uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def idle_servers() -> Iterator[list[Scripted]]:
    """Scripted servers that no test is using: stopping one takes longer than most tests."""
    servers: list[Scripted] = []
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def serve(idle_servers: list[Scripted]) -> Iterator[Callable[..., Scripted]]:
    """Have a scripted server: serve(Reply(…), …)."""
    taken: list[Scripted] = []

    def start(*replies: Reply) -> Scripted:
        server = idle_servers.pop() if idle_servers else Scripted()
        server.reset(*replies)
        taken.append(server)
        return server

    yield start
    idle_servers.extend(taken)


@pytest.fixture
def dead_url() -> str:
    """Where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


def places(result: Pictures) -> list[bytes | type[ProviderError]]:
    """What is in each place of a call: the bytes of a picture, or the kind of error."""
    return [
        type(place) if isinstance(place, ProviderError) else place.data for place in result.pictures
    ]


def read_document(path: str) -> Any:
    """One of the shared documents on the providers' protocols."""
    file = DOCUMENTS / path
    if not file.exists():
        problem = f"{file} is missing: the provider documents belong beside the repository"
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    return json.loads(file.read_text("utf-8"))
