"""The models on offer."""

from __future__ import annotations

import re

import pytest

from common.catalog import Catalog, Model, Route, SizeRule
from workers.providers import PROVIDERS

CATALOG = Catalog.load()
MODELS = list(CATALOG)
NOT_BUILT_YET: set[str] = set()

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)


def test_all_promised_models_are_there_in_their_modes() -> None:
    assert {model.id: model.mode for model in CATALOG} == {
        "dall-e-3": "inline",
        "dall-e-2": "inline",
        "flux-pro": "task",
        "flux-schnell": "inline",
        "midjourney": "task",
        "ideogram-v3": "task",
        "stable-diffusion-3": "inline",
        "gemini-image": "inline",
        "comfyui": "task",
    }


@each_model
def test_a_models_limits_make_sense(model: Model) -> None:
    assert 1 <= model.max_n <= 4
    assert model.max_prompt_characters >= 1000
    assert 0 < model.typical_seconds < model.deadline_seconds
    assert model.created < 1_800_000_000
    assert model.description
    assert model.owned_by


@each_model
def test_a_models_sizes_make_sense(model: Model) -> None:
    assert model.default_size in model.sizes
    assert len(set(model.sizes)) == len(model.sizes)
    for size in model.sizes:
        assert re.fullmatch(r"[1-9]\d*x[1-9]\d*", size)
        assert model.takes_size(size)
        assert all(256 <= int(side) <= 2048 for side in size.split("x"))
    if model.size_rule:
        assert model.size_rule.min % model.size_rule.step == 0
        assert model.size_rule.max % model.size_rule.step == 0
        for size in model.sizes:
            assert model.size_rule.admits(*map(int, size.split("x")))


@each_model
def test_what_a_model_takes_is_something_that_can_be_said(model: Model) -> None:
    sayable = {"quality", "style", "user", "seed", "negative_prompt", "output_format"}
    assert set(model.parameters) <= sayable
    assert bool(model.qualities) <= ("quality" in model.parameters)
    assert bool(model.styles) is ("style" in model.parameters)
    assert bool(model.output_formats) is ("output_format" in model.parameters)
    assert set(model.output_formats) <= {"png", "jpeg", "webp"}


@each_model
def test_every_route_leads_to_a_provider_that_is_built_or_known_not_to_be(model: Model) -> None:
    assert model.routes
    for route in model.routes:
        assert (route.provider in PROVIDERS) != (route.provider in NOT_BUILT_YET)
        assert route.model
        assert set(route.drops) <= set(model.parameters)
        assert set(route.quality) <= {*model.qualities, "standard"}
        if route.upstream_size:
            assert route.upstream_size in model.sizes


def test_every_built_provider_serves_a_model() -> None:
    assert PROVIDERS.keys() <= CATALOG.providers()


@pytest.mark.parametrize("size", ["1024x1024", "512x1440", "256x256", "1440x1440"])
def test_sizes_within_the_rule_are_taken(size: str) -> None:
    assert flux().takes_size(size)


@pytest.mark.parametrize(
    "size",
    [
        *("", "x", "1024", "1024x", "x1024", "1000x1000", "224x1024", "1472x1024", "1024X1024"),
        *("-512x512", "512x512x512", "512 x512", "512.0x512", "1e3x512", "auto", "0x0"),
        "\N{ARABIC-INDIC DIGIT FIVE}\N{ARABIC-INDIC DIGIT ONE}\N{ARABIC-INDIC DIGIT TWO}x512",
    ],
)
def test_other_sizes_are_not(size: str) -> None:
    assert not flux().takes_size(size)


def test_the_first_route_whose_provider_is_configured_is_taken() -> None:
    first, second = Route("a", "m1"), Route("b", "m2")
    model = Model(
        *("id", "owner", "inline", "text", ("1x1",), "1x1", 1, 10, (first, second), 1, 10, 0)
    )

    assert model.route({"b", "a"}) is first
    assert model.route({"b"}) is second
    assert model.route({"c"}) is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [("dalle-3", "dall-e-3"), ("DALL-E-3", "dall-e-3"), ("flux", "flux-pro"), ("sd3", None)],
)
def test_a_misspelt_model_resembles_the_one_that_was_meant(written: str, meant: str | None) -> None:
    near = CATALOG.resembling(written)

    assert len(near) <= 3
    assert meant in [*near, None]


def test_unknown_models_are_not_found() -> None:
    assert CATALOG.get("gpt-5") is None


def test_a_size_rule_holds_for_both_sides() -> None:
    rule = SizeRule(step=32, min=256, max=1024)

    assert rule.admits(256, 1024)
    assert not rule.admits(255, 1024)
    assert not rule.admits(256, 1056)
    assert not rule.admits(256, 1000)


def flux() -> Model:
    model = CATALOG.get("flux-pro")
    assert model is not None
    return model
