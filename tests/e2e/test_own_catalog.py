"""A catalog of the operator's own: web and workers go by the same one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.api.conftest import ROOT, environment
from tests.stack import running

OWN = """
[fox-painter]
owned_by = "us"
mode = "task"
description = "Foxes."
sizes = ["512x512", "256x128"]
default_size = "256x128"
max_n = 1
max_prompt_characters = 100
typical_seconds = 1
deadline_seconds = 60
created = 1754265600

[[fox-painter.routes]]
provider = "bfl"
model = "flux-2-klein-4b"

[midjourney]
enabled = false
"""


def test_a_model_of_ones_own_is_offered_and_served(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(OWN)

    with running(tmp_path, CATALOG_FILE=str(tmp_path / "models.toml")) as stack:
        offered = {model["id"]: model for model in stack.get("/v1/models").json()["data"]}
        task = stack.finished(stack.submit("a fox", "fox-painter", size=None))
        refused = stack.post({"model": "midjourney", "prompt": "a fox"})

    assert offered["fox-painter"]["image"]["available"]
    assert task["status"] == "completed", task
    assert (task["model"], task["provider"]) == ("fox-painter", "bfl")
    assert task["provider_model"] == "flux-2-klein-4b"
    assert (task["data"][0]["width"], task["data"][0]["height"]) == (256, 128)
    assert "midjourney" not in offered
    assert refused.json()["error"]["code"] == "model_not_found"


def test_a_worker_does_not_start_with_a_mistake_in_it(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(OWN.replace('"bfl"', '"blf"'))
    settings = {"REDIS_URL": "redis://127.0.0.1:1/0", "CATALOG_FILE": tmp_path / "models.toml"}

    ended = subprocess.run(
        [sys.executable, "-m", "workers", "worker"],
        cwd=ROOT,
        env=environment(DATA_DIR=tmp_path, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode != 0
    assert ended.stderr.startswith("CATALOG_FILE: ")
    assert "routes.0.provider: there is no provider 'blf'; did you mean bfl?" in ended.stderr
    assert "Traceback" not in ended.stderr
