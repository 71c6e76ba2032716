"""`GET /v1/models`: what is on offer, what can be used, what is best."""

from __future__ import annotations

from typing import Any

import pytest

from api.models import make_blueprint
from api.openapi import make_app
from api.recent import RecentOutcomes
from common.catalog import Catalog
from common.errors import StoreUnavailable
from common.store import Outcomes, Shut
from tests.api.conftest import Stack

MODES = {
    "dall-e-3": ("inline", "est quality"),
    "dall-e-2": ("inline", "heaper"),
    "flux-pro": ("task", "hotorealistic"),
    "flux-schnell": ("inline", "fast"),
    "midjourney": ("task", "rtistic"),
    "ideogram-v3": ("task", "text"),
    "stable-diffusion-3": ("inline", "pen source"),
}

FLUX_2 = ("flux-2-pro", "flux-2-max", "flux-2-flex", "flux-2-klein-9b", "flux-2-klein-4b")
KONTEXT = ("flux-kontext-pro", "flux-kontext-max")
OF_OPENAI = (
    *("dall-e-3", "dall-e-2", "gpt-image-2", "gpt-image-2.5-flare", "gpt-image-2.5-sunburst"),
    *("gpt-image-2.6-flare", "gpt-image-2.6-sunburst"),
)
OF_BFL = ("flux-pro", *FLUX_2, *KONTEXT, "flux-pro-1.1-ultra")
EVERY = [model.id for model in Catalog.load()]
USABLE = [model for model in EVERY if model in (*OF_OPENAI, *OF_BFL)]


def listed(stack: Stack, query: str = "") -> list[dict[str, Any]]:
    body = stack.get(f"/v1/models{query}").json()
    assert body["object"] == "list"
    return list(body["data"])


def ids(stack: Stack, query: str = "") -> list[str]:
    return [model["id"] for model in listed(stack, query)]


def test_the_seven_models_are_listed_as_they_are(stack: Stack) -> None:
    """S42-S49"""
    models = {model["id"]: model for model in listed(stack)}

    assert set(MODES) <= set(models)
    for model_id, (mode, strength) in MODES.items():
        model = models[model_id]
        assert (model["object"], model["image"]["mode"]) == ("model", mode)
        assert strength in model["image"]["description"]
        assert model["image"]["max_n"] <= 4
        assert model["image"]["default_size"] in model["image"]["sizes"]
        assert isinstance(model["created"], int) and model["owned_by"]


def test_the_sizes_are_those_that_were_ordered(stack: Stack) -> None:
    """S10-S16"""
    for model in listed(stack):
        sizes = model["image"]["sizes"]
        if model["id"] == "dall-e-3":
            assert sizes == ["1024x1024", "1792x1024", "1024x1792"]
        else:
            assert {"512x512", "1024x1024"} <= set(sizes)


def test_quality_and_style_are_for_dall_e_3(stack: Stack) -> None:
    """S17, S18, S20"""
    images = {model["id"]: model["image"] for model in listed(stack)}

    assert images["dall-e-3"]["qualities"] == ["standard", "hd"]
    assert images["dall-e-3"]["styles"] == ["vivid", "natural"]
    others = [image for model_id, image in images.items() if model_id != "dall-e-3"]
    assert not any({"standard", "hd"} & set(image["qualities"]) for image in others)
    assert not any(image["styles"] for image in others)
    ordered = [images[model_id] for model_id in MODES if model_id != "dall-e-3"]
    assert not any(image["qualities"] for image in ordered)


def test_only_models_with_a_configured_provider_are_available(stack: Stack) -> None:
    available = [m["id"] for m in listed(stack) if m["image"]["available"]]

    assert available == USABLE


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?category=image", EVERY),
        ("?category=video", []),
        ("?provider=openai", list(OF_OPENAI)),
        ("?provider=nobody", []),
        ("?provider=bfl&recommended_for=image", list(OF_BFL)),
        ("?category=video&recommended_for=image", []),
        ("?unknown=1", EVERY),
    ],
)
def test_filters_filter(stack: Stack, query: str, expected: list[str]) -> None:
    assert ids(stack, query) == expected


def test_every_recommended_model_can_be_used(stack: Stack) -> None:
    """S1, S2"""
    recommended = listed(stack, "?recommended_for=image")

    assert {model["id"] for model in recommended} == set(USABLE)
    for rank, model in enumerate(recommended, 1):
        assert model["image"]["available"]
        assert model["image"]["recommendation"]["preferred_rank"] == rank
        assert stack.post({"model": model["id"], "prompt": "x"}).status_code == 202


def test_nothing_else_than_images_can_be_recommended(stack: Stack) -> None:
    answer = stack.get("/v1/models?recommended_for=video")

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "recommended_for"


def test_a_model_can_be_retrieved(stack: Stack) -> None:
    assert stack.get("/v1/models/flux-pro").json() in listed(stack)


@pytest.mark.parametrize("model_id", ["flux_pro", "%00", "x" * 3000, "FLUX-PRO"])
def test_an_unknown_model_is_not_found(stack: Stack, model_id: str) -> None:
    answer = stack.get(f"/v1/models/{model_id}")

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "model_not_found")
    if "lux" in model_id.lower():
        assert error["did_you_mean"] == "flux-pro"


class FakeStore:
    """Counts what a store would tell; None stands for a Redis that is away."""

    def __init__(self, outcomes: dict[str, Outcomes] | None) -> None:
        self.told = outcomes
        self.asked = 0

    def outcomes(self) -> dict[str, Outcomes]:
        self.asked += 1
        if self.told is None:
            raise StoreUnavailable("away")
        return self.told

    def routes(self) -> dict[str, Shut]:
        return {}


def rank(told: dict[str, Outcomes] | None) -> list[dict[str, Any]]:
    app = make_app("0")
    recent = RecentOutcomes(FakeStore(told))  # type: ignore[arg-type]
    app.register_api(make_blueprint(Catalog.load(), {"openai", "bfl"}, recent))
    answer = app.test_client().get("/v1/models?recommended_for=image")
    return list(answer.get_json()["data"])


def test_the_best_come_first_and_those_with_few_samples_last() -> None:
    """S1"""
    data = rank(
        {
            "dall-e-3": Outcomes(succeeded=4, failed=0, mean_seconds=1.0),
            "dall-e-2": Outcomes(succeeded=8, failed=2, mean_seconds=4.25),
            "flux-pro": Outcomes(succeeded=99, failed=1, mean_seconds=7.0),
        }
    )

    assert [model["id"] for model in data[:3]] == ["flux-pro", "dall-e-2", "dall-e-3"]
    assert {model["id"] for model in data} == set(USABLE)
    recommendations = [model["image"]["recommendation"] for model in data[:3]]
    assert [r["success_rate_24h"] for r in recommendations] == [0.99, 0.8, None]
    assert [r["status"] for r in recommendations] == ["ready", "ready", "insufficient_samples"]
    assert [r["sample_count_24h"] for r in recommendations] == [100, 10, 4]
    assert all(isinstance(r["updated_at"], int) for r in recommendations)
    assert [model["image"]["typical_seconds"] for model in data[:3]] == [7.0, 4.2, 12]


def test_without_any_count_the_order_is_that_of_the_catalog() -> None:
    data = rank(None)

    assert [model["id"] for model in data] == USABLE
    assert {model["image"]["recommendation"]["status"] for model in data} == {
        "insufficient_samples"
    }


def test_counts_are_remembered_for_seconds_and_outlive_an_outage() -> None:
    now = [1000.0]
    store = FakeStore({"dall-e-3": Outcomes(succeeded=5)})
    recent = RecentOutcomes(store, clock=lambda: now[0])  # type: ignore[arg-type]
    model = Catalog.load().get("dall-e-3")
    assert model is not None

    assert [recent.of(model).succeeded for _ in range(9)] == [5] * 9
    assert store.asked == 1
    now[0] += 6
    store.told = None
    assert recent.of(model).succeeded == 5
    assert (store.asked, recent.updated_at) == (2, 1000)


def test_real_outcomes_are_counted(stack: Stack) -> None:
    for _ in range(2):
        stack.complete(stack.submit(model="dall-e-2"))

    told = stack.store.outcomes()["dall-e-2"]
    assert told.succeeded >= 2 and told.mean_seconds is not None
