"""The commands of DEPLOYING.md that need neither a container engine nor a cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.settings import load_settings
from tests.docs.documents import ROOT, blocks, read

TEXT = read("ops/DEPLOYING.md")


def test_the_commands_make_what_the_files_want(tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    leave_out = shutil.ignore_patterns("secrets", "__pycache__")
    for name in ("k8s", "redis"):
        shutil.copytree(ROOT / "ops" / name, tmp_path / "ops" / name, ignore=leave_out)
    said = ""
    for block in blocks(TEXT, "sh"):
        done = subprocess.run(
            ["sh", "-euc", block],
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout

    compose = yaml.safe_load(read("ops/compose.yaml"))
    for name, secret in compose["secrets"].items():
        assert (tmp_path / "ops" / secret["file"]).is_file()
        assert name in said.split()
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert list(yaml.safe_load_all((tmp_path / "darkroom.yaml").read_text()))


def test_the_addresses_of_redis_are_ones_that_can_be_used() -> None:
    urls = re.findall(r"^REDIS_URL=(\S+)$", TEXT, re.MULTILINE)

    assert [load_settings(redis_url=url).redis_url for url in urls] == urls
    assert [url.partition(":")[0] for url in urls] == ["rediss", "sentinel"]


def test_the_unit_of_systemd_is_the_procfile_s() -> None:
    (unit,) = blocks(TEXT, "ini")
    said = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)

    assert f"worker: {said['ExecStart'].partition('/bin/')[2]}" in read("Procfile")
    assert f"TimeoutStopSec={said['TimeoutStopSec']}" in read("Procfile")
    assert said["Restart"] == "always"
