"""Every command of the README, run as a reader would, in a checkout of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from common.catalog import Catalog
from common.connection import connect
from common.keys import KeyStore
from tests.docs.documents import ROOT, blocks, commands, read
from tests.processes import free_port, until

README = read("README.md")

NOT_RUN = {
    "git clone <this repository> darkroom": "the address differs from reader to reader",
    "cd darkroom": "the tests are there already",
    "ops/run": "serves until it is stopped; it is what all other commands here talk to",
    "WORKERS=2 ops/run": "serves until it is stopped; tests/ops/test_run.py starts it so",
    "ops/test": "would start this test again",
}

SERVE = ("-m workers worker",)  # commands that run until stopped; "ready." says that they do

# What a command has to say, by a part of it.
PROMISED = {
    "--prompt": "1024x1024 PNG",
    "?wait=30": '"status":"completed"',
    "Prefer: wait=60": "/files/imgtask_",
    "/v1/models": '"object":"list"',
    "recommended_for=image": '"preferred_rank":1',
    "keys create": "sk-",
    "keys list": "the shop",
    "keys limit": "$/month 40",
    "keys show": "tasks in flight",
    "keys webhook-secret": "whsec_",
    "keys revoke": "revoked",
    "/v1/usage": '"object":"usage"',
    "/readyz": '"status":"ready"',
}

# Making the environment is the business of tests/ops; here it is there.
PRELUDE = f"""
set -euo pipefail
ops/run() {{ {sys.executable} -m ops.launcher "$@"; }}
ops/python() {{ shift 2; exec {sys.executable} "$@"; }}
"""


@dataclass(frozen=True)
class Checkout:
    """A directory as a reader's, with everything running."""

    directory: Path
    environment: dict[str, str]

    @property
    def redis_url(self) -> str:
        return str(json.loads((self.directory / "data" / "run.json").read_text())["redis_url"])

    @property
    def key_to_revoke(self) -> str:
        with contextlib.closing(connect(self.redis_url)) as client:
            return KeyStore(client).create("to be revoked")[0].id

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.environment['PORT']}"

    @property
    def key(self) -> str:
        return (self.directory / "data" / "api_key").read_text().strip()

    def script(self, block: str) -> str:
        """The block with what really is in place of what only stands for it."""
        stand_ins = {
            "127.0.0.1:8000": self.address.removeprefix("http://"),
            "redis://redis.example:6379/0": self.redis_url,
            "s3://pictures/darkroom": (self.directory / "data" / "images").as_uri(),
            "OPENAI_API_KEY=sk-...": (
                f"SANDBOX_URL=http://127.0.0.1:{self.environment['SANDBOX_PORT']}"
            ),
            "key_0123456789abcdef": self.key_to_revoke,
        }
        kept = "\n".join(command for command in commands(block) if command not in NOT_RUN)
        for stand_in, real in stand_ins.items():
            kept = kept.replace(stand_in, real)
        return PRELUDE + kept

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    directory = tmp_path_factory.mktemp("checkout")
    for name in ("api", "common", "ops", "workers", "Procfile"):
        (directory / name).symlink_to(ROOT / name)
    (directory / ".venv").symlink_to(sys.prefix)
    ports = {name: str(free_port()) for name in ("PORT", "FLOWER_PORT", "SANDBOX_PORT")}
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = inherited | ports | {"SANDBOX_SPEED": "50", "PYTHONPATH": str(ROOT)}
    made = Checkout(directory, environment | {"DATA_DIR": "data"})
    log = directory / "log"
    with log.open("w") as stream:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "ops.launcher"],
            cwd=directory,
            env=made.environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(
            lambda: "Ctrl-C stops everything" in log.read_text() or launcher.poll() is not None,
            "everything answers",
            60,
        )
        assert launcher.poll() is None, log.read_text()
        # Drawing takes a second of CPU, and nobody looks at these pictures.
        faults = f"http://127.0.0.1:{ports['SANDBOX_PORT']}/_sandbox/faults"
        requests.post(faults, json={"picture": "plain"}, timeout=10).raise_for_status()
        yield made
    finally:
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(60)


SHELL = [b for b in blocks(README, "sh") if not set(commands(b)) <= set(NOT_RUN)]


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize("block", SHELL, ids=[commands(block)[-1][:40] for block in SHELL])
def test_the_commands_do_what_is_said_of_them(checkout: Checkout, block: str) -> None:
    process = checkout.start("bash", "-c", checkout.script(block))
    try:
        if commands(block)[-1].endswith(SERVE):
            said = _until_ready(process)
        else:
            said = "".join(process.communicate(timeout=180))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    assert process.returncode == 0, said
    promised = [promise for part, promise in PROMISED.items() if part in block]
    assert [promise for promise in promised if promise not in said] == [], said


def _until_ready(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if "ready." in line:
            process.terminate()
            break
    return said + "".join(process.communicate(timeout=30))


def test_the_python_example_gets_a_picture(checkout: Checkout) -> None:
    (example,) = blocks(README, "python")
    code = example.replace("127.0.0.1:8000", checkout.address.removeprefix("http://"))

    printed = "".join(checkout.start(sys.executable, "-c", code).communicate(timeout=60))

    picture = requests.get(printed.strip(), timeout=10)
    assert picture.headers["Content-Type"] == "image/png"


def test_the_pending_task_that_is_shown_is_what_is_answered(checkout: Checkout) -> None:
    (shown,) = blocks(README, "json")

    answer = requests.post(
        f"{checkout.address}/v1/images/generations",
        json={"model": "flux-pro", "prompt": "a red apple"},
        headers={"Authorization": f"Bearer {checkout.key}"},
        timeout=10,
    )

    assert answer.status_code == 202
    body = answer.json()
    assert body.pop("sandbox") is True
    expected = json.loads(shown)
    for name in ("created", "id", "task_id", "poll_url"):
        assert len(str(expected.pop(name))) == len(str(body.pop(name)))
    assert body == expected


def test_the_models_that_are_available_are_those_said_to_be(checkout: Checkout) -> None:
    models = requests.get(f"{checkout.address}/v1/models", timeout=10).json()["data"]
    rows = [row for row in README.splitlines() if row.startswith("| `")]

    said = {
        name: "not available yet" not in row
        for row in rows
        for name in (model["id"] for model in models)
        if f"`{name}`" in row.split("|")[1]
    }

    assert said == {model["id"]: model["image"]["available"] for model in models}


def test_the_example_of_a_catalog_of_ones_own_is_one(tmp_path: Path) -> None:
    (example,) = blocks(README, "toml")
    (tmp_path / "models.toml").write_text(example)

    catalog = Catalog.load(str(tmp_path / "models.toml"))

    assert catalog.get("dall-e-2") is None
    model = catalog.get("qwen-image")
    assert model is not None
    assert [(route.provider, route.cap) for route in model.routes] == [("compatible", 2)]
    assert all(model.size_rule.admits(*map(int, s.split("x"))) for s in model.sizes)
    assert len(list(catalog)) == len(list(Catalog.load()))


def test_every_exception_is_still_in_the_readme() -> None:
    there = {command for block in blocks(README, "sh") for command in commands(block)}

    assert set(NOT_RUN) <= there
    assert [part for part in PROMISED if part not in "".join(SHELL)] == []
