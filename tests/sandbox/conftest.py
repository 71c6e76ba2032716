"""Runs the provider sandbox as its users do; reads the providers' published documents."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests

ROOT = Path(__file__).resolve().parents[2]
PROVIDERS = ROOT.parent / "shared" / "providers"
FLUX = {"prompt": "a fox", "width": 256, "height": 256, "output_format": "png"}


@dataclass
class Sandbox:
    """A running sandbox, and the calls tests make most."""

    url: str
    process: subprocess.Popen[str]
    http: requests.Session

    def generate(self, *, key: str = "sk-test", timeout: float = 20, **body: Any) -> Any:
        body = {"model": "gpt-image-2", "prompt": "a fox"} | body
        return self.http.post(
            f"{self.url}/openai/v1/images/generations",
            json=body,
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout,
        )

    def submit(self, model: str = "flux-pro-1.1", *, key: str = "k", **body: Any) -> Any:
        body = body if "prompt" in body and len(body) > 1 else FLUX | body
        return self.http.post(
            f"{self.url}/bfl/v1/{model}", json=body, headers={"x-key": key}, timeout=20
        )

    def poll(self, url: str, *, key: str = "k") -> Any:
        return self.http.get(url, headers={"x-key": key}, timeout=20)

    def result(self, **body: Any) -> dict[str, Any]:
        """What polling says in the end."""
        url = self.submit(**body).json()["polling_url"]
        return self.until(lambda: self.poll(url).json(), lambda state: state["status"] != "Pending")

    def picture(self, **body: Any) -> Any:
        return self.http.get(
            self.result(**body)["result"]["sample"], timeout=20, allow_redirects=False
        )

    def fault(self, *orders: dict[str, Any]) -> Any:
        return self.http.post(f"{self.url}/_sandbox/faults", json=list(orders), timeout=20)

    def purchases(self) -> list[dict[str, Any]]:
        found = self.http.get(f"{self.url}/_sandbox/purchases", timeout=20)
        return list(found.json()["purchases"])

    def calls(self, provider: str) -> dict[str, int]:
        found = self.http.get(f"{self.url}/_sandbox/calls", timeout=20)
        return dict(found.json()["calls"][provider])

    def clear(self) -> None:
        for what in ("purchases", "calls", "faults"):
            self.http.delete(f"{self.url}/_sandbox/{what}", timeout=20)

    @staticmethod
    def until(ask: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
        """Ask until the answer is as wanted, 20 seconds at most."""
        ends = time.monotonic() + 20
        while not wanted(answer := ask()):
            assert time.monotonic() < ends, f"still {answer!r}"
            time.sleep(0.01)
        return answer


def _start(**environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ops.sandbox"],
        cwd=ROOT,
        env=os.environ | {"SANDBOX_PORT": "0"} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[..., Sandbox]]:
    """Start a sandbox with these variables; it is stopped at the end."""
    started: list[Sandbox] = []

    def start(**environ: str) -> Sandbox:
        process = _start(**environ)
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.fullmatch(r"sandbox listening on (http://\S+)\n", line)
        assert url, (line, process.communicate())
        started.append(Sandbox(url[1], process, requests.Session()))
        return started[-1]

    yield start
    for sandbox in started:
        sandbox.http.close()
        sandbox.process.kill()
        sandbox.process.communicate()


@pytest.fixture(scope="session")
def refused() -> Callable[..., tuple[int, str]]:
    """Start a sandbox that cannot run: its exit code and what it said."""

    def start(**environ: str) -> tuple[int, str]:
        process = _start(**environ)
        _, said = process.communicate(timeout=20)
        return process.returncode, said

    return start


@pytest.fixture(scope="session")
def _shared(launch: Callable[..., Sandbox]) -> Sandbox:
    return launch(SANDBOX_SPEED="50")


@pytest.fixture
def sandbox(_shared: Sandbox) -> Iterator[Sandbox]:
    """A sandbox 50 times as quick as the providers, with cheap pictures and nothing bought."""
    _shared.clear()
    _shared.fault({"picture": "plain"})
    yield _shared
    _shared.clear()


@dataclass
class Documents:
    """The providers' published descriptions of their own answers."""

    folder: Path

    def check(self, document: str, schema: str, body: Any) -> None:
        """Fail unless the body is what the document says; `schema` is a component's name."""
        rules = _rules(self.folder / "openapi" / document)
        root = {"$ref": f"#/components/schemas/{schema}", "components": rules}
        # Without jsonschema.validate's check of the rules themselves, which takes far longer.
        jsonschema.Draft202012Validator(root).validate(body)

    def examples(self, provider: str) -> list[dict[str, Any]]:
        """The sample requests of one provider."""
        found = json.loads((self.folder / "examples.json").read_text())["examples"]
        return [
            sample
            for sample in found
            if sample["provider"] == provider and sample["kind"] == "request"
        ]

    def schemas(self, document: str) -> Any:
        """The components of a document, by name."""
        return json.loads((self.folder / "openapi" / document).read_text())["components"]["schemas"]

    def paths(self, document: str) -> list[str]:
        return list(json.loads((self.folder / "openapi" / document).read_text())["paths"])


@pytest.fixture(scope="session")
def documents() -> Documents:
    if not PROVIDERS.is_dir():
        message = f"the providers' documents are not at {PROVIDERS}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    return Documents(PROVIDERS)


@cache
def _rules(document: Path) -> Any:
    rules = _without_nullable(json.loads(document.read_text())["components"])
    if document.name == "openai.json":
        # The list of sizes is older than the models that choose their own.
        del rules["schemas"]["ImagesResponse"]["properties"]["size"]["enum"]
    return rules


def _without_nullable(node: Any) -> Any:
    """Say in JSON Schema what OpenAPI 3.0 says with `nullable`."""
    if isinstance(node, list):
        return [_without_nullable(part) for part in node]
    if not isinstance(node, dict):
        return node
    rest = {name: _without_nullable(part) for name, part in node.items() if name != "nullable"}
    return {"anyOf": [rest, {"type": "null"}]} if node.get("nullable") is True else rest
