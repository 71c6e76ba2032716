"""The models on offer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.catalog import Catalog, Model, Route, SizeRule
from common.errors import ConfigurationError
from common.settings import PROVIDER_NAMES
from workers.providers import PROVIDERS

CATALOG = Catalog.load()
MODELS = list(CATALOG)
NOT_BUILT_YET: set[str] = set()

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)


def test_all_promised_models_are_there_in_their_modes() -> None:
    modes = {model.id: model.mode for model in CATALOG}

    assert dict(list(modes.items())[:8]) == {
        "dall-e-3": "inline",
        "dall-e-2": "inline",
        "flux-pro": "task",
        "flux-schnell": "inline",
        "midjourney": "task",
        "ideogram-v3": "task",
        "stable-diffusion-3": "inline",
        "gemini-image": "inline",
    }
    assert {modes[name] for name in modes if name.startswith("gpt-image-2")} == {"inline"}
    assert {modes[name] for name in modes if name.startswith("flux-2-")} == {"task"}
    assert (modes["sd-webui"], modes["comfyui"]) == ("inline", "task")


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
        assert all(256 <= int(side) <= 3840 for side in size.split("x"))
    if model.size_rule:
        assert model.size_rule.min % model.size_rule.step == 0
        assert model.size_rule.max % model.size_rule.step == 0
        for size in model.sizes:
            for route in model.routes:
                asked = route.upstream_size(size)
                assert model.size_rule.admits(*map(int, asked.split("x")))


@each_model
def test_what_a_model_takes_is_something_that_can_be_said(model: Model) -> None:
    sayable = {"quality", "style", "user", "seed", "negative_prompt", "output_format"}
    sayable |= {"output_compression", "background", "moderation"}
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
        for size, larger in route.upstream_sizes.items():
            assert {size, larger} <= set(model.sizes)
            (width, height), (across, down) = pixels(size), pixels(larger)
            assert width < across
            assert width * down == height * across


def test_a_route_is_limited_where_its_provider_limits_an_account() -> None:
    caps = {(m.id, route.provider): route.cap for m in MODELS for route in m.routes if route.cap}

    assert caps.pop(("flux-kontext-max", "bfl")) == 6
    assert caps.pop(("ideogram-v3", "ideogram")) == 10
    assert caps.pop(("midjourney", "midjourney")) == 3
    assert caps.pop(("sd-webui", "a1111")) == 2
    assert caps.pop(("comfyui", "comfyui")) == 2
    assert {provider for _, provider in caps} == {"bfl"}
    assert set(caps.values()) == {24}


def test_a_route_has_a_price_of_its_own_where_providers_differ() -> None:
    schnell = CATALOG.get("flux-schnell")
    assert schnell is not None

    prices = {route.provider: route.price_per_image_usd for route in schnell.routes}

    assert prices == {"replicate": 0.003, "fal": 0.003, "together": 0.003, "huggingface": 0.0012}


def test_every_built_provider_serves_a_model() -> None:
    assert PROVIDERS.keys() <= CATALOG.providers()


def test_every_built_provider_can_be_configured() -> None:
    assert PROVIDERS.keys() == set(PROVIDER_NAMES)


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


@pytest.mark.parametrize(
    ("model", "size", "taken"),
    [
        ("gpt-image-2", "3840x2160", True),
        ("gpt-image-2", "2880x2880", True),
        ("gpt-image-2", "1360x480", False),  # just too few pixels
        ("gpt-image-2", "1376x480", True),
        ("gpt-image-2", "480x1376", True),
        ("gpt-image-2", "3840x1264", False),  # just too long
        ("gpt-image-2", "3840x1280", True),
        ("gpt-image-2", "2896x2880", False),  # just too many pixels
        ("gpt-image-2", "3856x1600", False),
        ("gpt-image-2", "1000x1000", False),
        ("gpt-image-2", "512x512", True),  # listed, below the rule
        ("gpt-image-2", "512x528", False),
        ("flux-2-pro", "2048x2048", True),
        ("flux-2-pro", "2048x2064", False),
        ("flux-2-pro", "4096x1024", True),
        ("flux-2-pro", "64x64", True),
        ("flux-2-pro", "48x64", False),
    ],
)
def test_a_rule_can_be_about_the_whole_picture(model: str, size: str, taken: bool) -> None:
    found = CATALOG.get(model)

    assert found is not None and found.takes_size(size) is taken


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({}, ""),
        ({"max_ratio": 3}, ", the longer at most 3 times the shorter"),
        ({"min_pixels": 65536}, ", at least 65536 pixels in all"),
        ({"max_pixels": 4194304}, ", at most 4194304 pixels in all"),
        ({"min_pixels": 1, "max_pixels": 9}, ", 1 to 9 pixels in all"),
        (
            {"max_ratio": 2, "max_pixels": 9},
            ", the longer at most 2 times the shorter, at most 9 pixels in all",
        ),
    ],
)
def test_a_rule_can_be_told(limits: dict[str, int], told: str) -> None:
    rule = SizeRule(step=16, min=64, max=4096, **limits)

    assert str(rule) == "sides from 64 to 4096 that are multiples of 16" + told


def test_a_size_rule_holds_for_both_sides() -> None:
    rule = SizeRule(step=32, min=256, max=1024)

    assert rule.admits(256, 1024)
    assert not rule.admits(255, 1024)
    assert not rule.admits(256, 1056)
    assert not rule.admits(256, 1000)


ROUTE = '{ provider = "compatible", model = "Qwen/Qwen-Image" }'
FIELDS = {
    "owned_by": '"alibaba"',
    "mode": '"inline"',
    "description": '"Draws."',
    "sizes": '["512x512", "1024x1024"]',
    "default_size": '"1024x1024"',
    "max_n": "4",
    "max_prompt_characters": "2000",
    "typical_seconds": "20",
    "deadline_seconds": "900",
    "created": "1754265600",
    "routes": f"[{ROUTE}]",
}


def entry(name: str, **fields: str | None) -> str:
    """An entry of a catalog; a field that is None is left out."""
    kept = {field: value for field, value in (FIELDS | fields).items() if value is not None}
    return "\n".join([f"[{name}]", *(f"{field} = {value}" for field, value in kept.items()), ""])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "models.toml"


def test_models_of_ones_own_come_after_the_shipped_ones(own: Path) -> None:
    own.write_text(entry("qwen-image") + entry("'sdxl:v1.0'", routes=f"[{ROUTE}, {ROUTE}]"))

    catalog = Catalog.load(str(own))

    assert [model.id for model in catalog] == [*(m.id for m in MODELS), "qwen-image", "sdxl:v1.0"]
    qwen = catalog.get("qwen-image")
    assert qwen is not None
    assert qwen.routes == (Route("compatible", "Qwen/Qwen-Image"),)
    assert qwen.sizes == ("512x512", "1024x1024")


def test_a_model_of_ones_own_takes_the_place_of_the_shipped_one_of_its_name(own: Path) -> None:
    own.write_text(entry("dall-e-2", max_n="1"))

    catalog = Catalog.load(str(own))

    assert [model.id for model in catalog] == [model.id for model in MODELS]
    model = catalog.get("dall-e-2")
    assert model is not None
    assert (model.max_n, model.owned_by, len(model.routes)) == (1, "alibaba", 1)


def test_a_model_can_be_taken_away(own: Path) -> None:
    own.write_text("[midjourney]\nenabled = false\n" + entry("qwen-image", enabled="false"))

    catalog = Catalog.load(str(own))

    assert [model.id for model in catalog] == [m.id for m in MODELS if m.id != "midjourney"]
    assert "midjourney" not in catalog.providers()
    assert catalog.get("midjourney") is None


def test_an_empty_file_changes_nothing(own: Path) -> None:
    own.write_text("# nothing yet\n")

    assert list(Catalog.load(str(own))) == MODELS


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_n": "5"}, "max_n: Input should be less than or equal to 4"),
        ({"max_n": None}, "max_n: Field required"),
        ({"sizes": "1024"}, "sizes: Input should be a valid tuple"),
        ({"sizes": '["big"]'}, "sizes.0: String should match pattern"),
        ({"default_size": '"640x640"'}, "default_size: it is neither one of sizes nor within"),
        ({"mode": '"slow"'}, "mode: Input should be 'inline' or 'task'"),
        ({"parameters": '["sead"]'}, "parameters.0: Input should be 'quality', 'style'"),
        ({"deadline_seconds": "0"}, "deadline_seconds: Input should be greater than or equal to 1"),
        ({"price_per_image_usd": "-1"}, "price_per_image_usd: Input should be greater than"),
        ({"price_per_image_usd": "nan"}, "price_per_image_usd: Input should be"),
        ({"prise": "1"}, "prise: there is no such field"),
        ({"enabled": '"no"'}, "enabled: it has to be true or false"),
        ({"routes": "[]"}, "routes: there has to be one"),
        ({"routes": "[{ provider = 'bfl' }]"}, "routes.0.model: Field required"),
        (
            {"routes": "[{ provider = 'bfl', model = 'm', cap = -1 }]"},
            "routes.0.cap: Input should be greater than or equal to 0",
        ),
        (
            {"routes": "[{ provider = 'bfl', model = 'm', price = 1 }]"},
            "routes.0.price: there is no such field",
        ),
        (
            {"routes": f"[{ROUTE}, {{ provider = 'opnai', model = 'm' }}]"},
            "routes.1.provider: there is no provider 'opnai'; did you mean openai?",
        ),
        (
            {"routes": "[{ provider = 'xyz', model = 'm' }]"},
            "routes.0.provider: there is no provider 'xyz'; there are openai, bfl, ",
        ),
        ({"size_rule": "{ step = 0, min = 1, max = 9 }"}, "size_rule.step: Input should be"),
        ({"size_rule": "{ step = 8, min = 1 }"}, "size_rule.max: Field required"),
    ],
)
def test_a_mistake_is_named_with_its_file_its_model_and_its_field(
    own: Path, fields: dict[str, str | None], said: str
) -> None:
    own.write_text(entry("right") + entry("wrong", **fields))

    with pytest.raises(ConfigurationError) as caught:
        Catalog.load(str(own))

    assert str(caught.value).startswith(f"CATALOG_FILE: {own}, model wrong: {said}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[x", " is not TOML: "),
        ("x = 5", ", model x: it has to be a table, [x]"),
        ("[midjorney]\nenabled = false", ", model midjorney: there is no such model to take away"),
        (entry("'a/b'"), ", model a/b: id: String should match pattern"),
        (entry("''"), ", model : id: String should match pattern"),
        ("".join(f"['{m.id}']\nenabled = false\n" for m in MODELS), " leaves no model to offer"),
    ],
)
def test_a_file_that_makes_no_sense_is_named(own: Path, text: str, said: str) -> None:
    own.write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        Catalog.load(str(own))

    assert str(caught.value).startswith(f"CATALOG_FILE: {own}{said}")


def test_every_mistake_is_named_at_once(own: Path) -> None:
    own.write_text(entry("one", max_n="0", mode="1") + entry("two", created=None))

    with pytest.raises(ConfigurationError) as caught:
        Catalog.load(str(own))

    named = [re.findall(r", model (\w+): (\w+):", line) for line in str(caught.value).splitlines()]
    assert named == [[("one", "mode")], [("one", "max_n")], [("two", "created")]]


def test_a_file_that_cannot_be_read_is_named(own: Path) -> None:
    with pytest.raises(ConfigurationError) as missing:
        Catalog.load(str(own))
    own.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError) as binary:
        Catalog.load(str(own))

    assert str(missing.value) == f"CATALOG_FILE: {own} cannot be read: No such file or directory"
    assert str(binary.value) == f"CATALOG_FILE: {own} is not UTF-8"


def pixels(size: str) -> tuple[int, int]:
    width, height = size.split("x")
    return int(width), int(height)


def flux() -> Model:
    model = CATALOG.get("flux-pro")
    assert model is not None
    return model
