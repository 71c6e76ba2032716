"""Every command of the README, run as a reader would, in a checkout of their own."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import requests

from common.catalog import Catalog
from tests.docs.conftest import Checkout
from tests.docs.documents import blocks, commands, read

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
    "darkroom generate": "snow-1.png\nsnow-2.png\nsummer.png\n",
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
    "tasks list": "imgtask_",
    "tasks show": "queue",
    "/v1/usage": '"object":"usage"',
    "/readyz": '"status":"ready"',
}

SHELL = [b for b in blocks(README, "sh") if not set(commands(b)) <= set(NOT_RUN)]


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize("block", SHELL, ids=[commands(block)[-1][:40] for block in SHELL])
def test_the_commands_do_what_is_said_of_them(checkout: Checkout, block: str) -> None:
    status, said = checkout.run(block, not_run=NOT_RUN, serves=SERVE)

    assert status == 0, said
    promised = [promise for part, promise in PROMISED.items() if part in block]
    assert [promise for promise in promised if promise not in said] == [], said


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
