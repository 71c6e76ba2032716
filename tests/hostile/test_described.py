"""Schemathesis against the running front end: whatever is sent, what is answered is described."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.api.conftest import Stack, environment
from tests.hostile.tenants import Tenant
from tests.hostile.worker import working

CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = 40  # for each operation, of each phase


def test_every_answer_is_as_the_document_says(stack: Stack, thorough: int, tmp_path: Path) -> None:
    tenant = Tenant.new(stack, "schemathesis")
    tenant.fill()
    told = tenant.submit(webhook_url="https://shop.example.com/hooks/images")
    stack.complete(told)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    options = ["--max-examples", str(EXAMPLES * thorough), "--no-color"]
    with working(stack):
        done = subprocess.run(
            [*command, f"{stack.base}/openapi.json", *options],
            cwd=tmp_path,
            env=environment(
                DARKROOM_KEY=tenant.key,
                DARKROOM_ADMIN_KEY=stack.keys.create("operator", admin=True)[1],
                DARKROOM_IMAGE=tenant.links()[0],
                DARKROOM_TASK=told,
            ),
            capture_output=True,
            text=True,
            check=False,
        )

    stack.redis.delete("darkroom:routes")  # which may be paused

    assert done.returncode == 0, done.stdout + done.stderr
