"""The examples that the documents show are those that the server knows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import requests

from common.catalog import Catalog
from tests.docs.conftest import Checkout
from tests.docs.documents import blocks, read

API, PROVIDERS = read("ops/API.md"), read("ops/PROVIDERS.md")


def test_the_python_example_gets_a_picture(checkout: Checkout) -> None:
    (example,) = blocks(API, "python")
    code = example.replace("127.0.0.1:8000", checkout.address.removeprefix("http://"))

    printed = "".join(checkout.start(sys.executable, "-c", code).communicate(timeout=60))

    picture = requests.get(printed.strip(), timeout=10)
    assert picture.headers["Content-Type"] == "image/png"


def test_the_pending_task_that_is_shown_is_what_is_answered(checkout: Checkout) -> None:
    (shown,) = blocks(API, "json")

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
    rows = [row for row in PROVIDERS.splitlines() if row.startswith("| `")]

    said = {
        name: "not available yet" not in row
        for row in rows
        for name in (model["id"] for model in models)
        if f"`{name}`" in row.split("|")[1]
    }

    assert said == {model["id"]: model["image"]["available"] for model in models}


def test_the_example_of_a_catalog_of_ones_own_is_one(tmp_path: Path) -> None:
    (example,) = blocks(PROVIDERS, "toml")
    (tmp_path / "models.toml").write_text(example)

    catalog = Catalog.load(str(tmp_path / "models.toml"))

    assert catalog.get("dall-e-2") is None
    model = catalog.get("qwen-image")
    assert model is not None
    assert [(route.provider, route.cap) for route in model.routes] == [("compatible", 2)]
    assert all(model.size_rule.admits(*map(int, s.split("x"))) for s in model.sizes)
    assert len(list(catalog)) == len(list(Catalog.load()))
