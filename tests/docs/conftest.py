"""A checkout as a reader's, with everything running, for the commands of the documents."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import requests

from common.connection import connect
from common.keys import KeyStore
from tests.docs.documents import ROOT, commands
from tests.processes import free_port, until

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

    def connected(self) -> Checkout:
        """As for somebody who has set REDIS_URL."""
        return replace(self, environment=self.environment | {"REDIS_URL": self.redis_url})

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

    @property
    def task(self) -> str:
        """The id of a new task."""
        answer = requests.post(
            f"{self.address}/v1/images/generations",
            json={"model": "flux-pro", "prompt": "a red apple"},
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=10,
        )
        return str(answer.json()["task_id"])

    def script(self, block: str, not_run: Container[str] = ()) -> str:
        """The block with what really is in place of what only stands for it, without the commands
        that are not to be run."""
        stand_ins = {
            "127.0.0.1:8000": self.address.removeprefix("http://"),
            "redis://redis.example:6379/0": self.redis_url,
            "s3://pictures/darkroom": (self.directory / "data" / "images").as_uri(),
            "OPENAI_API_KEY=sk-...": (
                f"SANDBOX_URL=http://127.0.0.1:{self.environment['SANDBOX_PORT']}"
            ),
            "key_0123456789abcdef": self.key_to_revoke,
            "imgtask_0123456789abcdef0123456789abcdef": self.task,
        }
        kept = block
        for command in commands(block):
            if command in not_run:
                kept = kept.replace(command, "", 1)
        for stand_in, real in stand_ins.items():
            kept = kept.replace(stand_in, real)
        return PRELUDE + kept

    def run(
        self, block: str, *, not_run: Container[str] = (), serves: tuple[str, ...] = ()
    ) -> tuple[int, str]:
        """The exit code of a block and what it said. One that ends with `serves` is stopped once it
        says that it is ready."""
        process = self.start("bash", "-c", self.script(block, not_run))
        try:
            if serves and commands(block)[-1].endswith(serves):
                said = _until_ready(process)
            else:
                said = "".join(process.communicate(timeout=180))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return process.returncode, said

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


def _until_ready(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if "ready." in line:
            process.terminate()
            break
    return said + "".join(process.communicate(timeout=30))


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
