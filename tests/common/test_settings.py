"""Settings: read once, complete, and helpful when they are wrong."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from common.errors import ConfigurationError
from common.settings import Settings, env_example, load_settings
from workers.providers import PROVIDERS

ROOT = Path(__file__).resolve().parents[2]
FIELDS = list(Settings.model_fields)
EVERY = set(PROVIDERS)
SECRETS = [n for n, f in Settings.model_fields.items() if f.annotation is SecretStr]


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in FIELDS:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_everything_has_a_default() -> None:
    settings = load_settings()

    assert settings.port == 8000
    assert settings.sandbox == "auto"


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PORT=1111\nFLOWER_PORT=2222\n")
    monkeypatch.setenv("PORT", "3333")

    settings = load_settings()

    assert (settings.port, settings.flower_port) == (3333, 2222)


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")

    assert load_settings().port == 8000


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_settings().port = 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("FLOWER_PORT", "-1"),
        ("SANDBOX_PORT", "1.5"),
        ("PUBLIC_URL", "example.com"),
        ("PUBLIC_URL", "ftp://example.com"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "http://localhost"),
        ("STORAGE_URL", "/var/images"),
        ("STORAGE_URL", "file://relative"),
        ("STORAGE_URL", "http://bucket"),
        ("BOOTSTRAP_API_KEY", "short"),
        ("BOOTSTRAP_API_KEY", "pk-0123456789abcdef0123"),
        ("BOOTSTRAP_API_KEY", "sk-0123456789abcdef é"),
        ("A1111_URL", "localhost:7860"),
        ("A1111_AUTH", "password"),
        ("A1111_AUTH", ":password"),
        ("A1111_AUTH", "user:"),
        ("SANDBOX", "yes"),
        ("SANDBOX_URL", "localhost"),
        ("OPENAI_BASE_URL", "api.openai.com"),
        ("BFL_BASE_URL", "https://"),
        ("COMPATIBLE_BASE_URL", "localhost:8080/v1"),
        ("RETENTION_HOURS", "0"),
        ("RETENTION_HOURS", "10000"),
        ("RETENTION_HOURS", "nan"),
        ("WORKERS", "0"),
        ("WORKER_POOL", "prefork"),
        ("WORKER_CONCURRENCY", "0"),
        ("WORKER_CONCURRENCY", "many"),
        ("WEB_PROCESSES", "0"),
        ("LEASE_SECONDS", "0.1"),
        ("SWEEP_SECONDS", "0"),
        ("REHINT_SECONDS", "0"),
        ("SHUTDOWN_SECONDS", "0"),
        ("MAX_IMAGE_BYTES", "1"),
        ("MAX_IMAGE_PIXELS", "1"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_bad_value_stops_the_start_and_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert re.match(rf"{name}: \S", str(caught.value))


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("LOG_FORMAT", "xml")

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["PORT", "LOG_FORMAT"]


@pytest.mark.parametrize("name", SECRETS)
def test_a_bad_secret_is_not_quoted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name.upper(), "hunter2é")
    try:
        load_settings()
    except ConfigurationError as error:
        assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("written", "meant"), [("OPENAI_KEY", "OPENAI_API_KEY"), ("REDIS_URI", "REDIS_URL")]
)
def test_a_misspelt_name_in_the_file_stops_the_start_with_the_one_that_was_meant(
    written: str, meant: str
) -> None:
    Path(".env").write_text(f"{written}=x\n")

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert str(caught.value) == f"{written}: no such setting in .env; did you mean {meant}?"


def test_a_name_that_resembles_nothing_is_refused_without_a_guess() -> None:
    Path(".env").write_text("QQQQQQ=x\n")

    with pytest.raises(ConfigurationError, match=r"^QQQQQQ: no such setting in \.env$"):
        load_settings()


def test_other_variables_of_the_environment_are_none_of_our_business(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORTS", "x")

    load_settings()


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_is_explained(name: str) -> None:
    description = Settings.model_fields[name].description

    assert description
    assert description.endswith(".")


def test_the_example_file_is_up_to_date() -> None:
    assert (ROOT / "ops" / "env.example").read_text("utf-8") == env_example()


def test_the_example_file_with_every_line_taken_is_the_default() -> None:
    lines = env_example().splitlines()
    Path(".env").write_text(
        "\n".join(line[1:] for line in lines if re.match(r"#[A-Z0-9_]+=", line)), "utf-8"
    )

    assert load_settings() == load_settings(_env_file=None)
    assert sum(bool(re.match(r"#[A-Z0-9_]+=", line)) for line in lines) == len(FIELDS)


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_in_no_representation(name: str) -> None:
    settings = load_settings(**{name: "sk-hunter2:hunter2hunter2"})

    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.providers()}"

    assert "hunter2" not in shown


def test_every_key_and_secret_is_a_secret() -> None:
    private = "key|secret|password|token|auth|headers"
    assert {name for name in FIELDS if re.search(private, name)} == {*SECRETS}


def test_without_a_provider_there_is_none_but_the_sandbox() -> None:
    settings = load_settings()

    assert settings.providers() == {}
    assert settings.wants_sandbox


def test_a_key_configures_its_provider() -> None:
    settings = load_settings(openai_api_key="k")

    providers = settings.providers()

    assert providers.keys() == {"openai"}
    assert providers["openai"].base_url == "https://api.openai.com/v1"
    assert providers["openai"].key.get_secret_value() == "k"
    assert not providers["openai"].sandbox
    assert not settings.wants_sandbox


def test_an_address_configures_its_provider_without_a_key() -> None:
    providers = load_settings(openai_base_url="http://localhost:1/v1/").providers()

    assert providers.keys() == {"openai"}
    assert providers["openai"].base_url == "http://localhost:1/v1"


@pytest.mark.parametrize(
    ("name", "url", "key"),
    [
        ("midjourney", "midjourney_proxy_url", "midjourney_proxy_secret"),
        ("compatible", "compatible_base_url", "compatible_api_key"),
    ],
)
def test_a_provider_without_a_default_address_is_configured_by_its_address_alone(
    name: str, url: str, key: str
) -> None:
    assert load_settings(**{key: "s"}).providers() == {}
    assert load_settings(**{url: ""}).providers() == {}

    providers = load_settings(**{url: "http://mine:8080/v1/"}).providers()
    assert providers.keys() == {name}
    assert providers[name].base_url == "http://mine:8080/v1"
    assert providers[name].key.get_secret_value() == ""
    assert not providers[name].sandbox


def test_a_provider_that_knows_no_key_is_configured_by_its_address_alone() -> None:
    assert load_settings(comfyui_workflow="w.json").providers() == {}

    (access,) = load_settings(comfyui_url="http://10.0.0.7:8188/comfy/").providers().values()
    assert (access.base_url, access.key.get_secret_value()) == ("http://10.0.0.7:8188/comfy", "")


def test_a_file_is_handed_to_its_own_adapter_and_not_to_the_sandbox() -> None:
    options = {"comfyui_url": "http://c", "comfyui_workflow": "w.json", "openai_api_key": "k"}

    real = load_settings(**options).providers()
    played = load_settings(**options, sandbox="on").providers()

    assert {name: access.file for name, access in real.items()} == {
        "comfyui": "w.json",
        "openai": "",
    }
    assert {access.file for access in played.values()} == {""}


@pytest.mark.parametrize(
    ("options", "names", "sandboxed", "wants"),
    [
        ({"sandbox": "auto"}, set(), False, True),
        ({"sandbox": "auto", "bfl_api_key": "k"}, {"bfl"}, False, False),
        ({"sandbox": "auto", "sandbox_url": "http://s"}, EVERY, True, False),
        (
            {"sandbox": "auto", "sandbox_url": "http://s", "bfl_api_key": "k"},
            {"bfl"},
            False,
            False,
        ),
        ({"sandbox": "on"}, EVERY, True, True),
        ({"sandbox": "on", "bfl_api_key": "k"}, EVERY, True, True),
        ({"sandbox": "on", "sandbox_url": "http://s"}, EVERY, True, False),
        ({"sandbox": "off"}, set(), False, False),
        ({"sandbox": "off", "sandbox_url": "http://s"}, set(), False, False),
        ({"sandbox": "off", "bfl_api_key": "k"}, {"bfl"}, False, False),
    ],
)
def test_when_the_sandbox_stands_in_for_providers(
    options: dict[str, str], names: set[str], sandboxed: bool, wants: bool
) -> None:
    settings = load_settings(**options)

    providers = settings.providers()

    assert providers.keys() == names
    assert {access.sandbox for access in providers.values()} <= {sandboxed}
    assert settings.wants_sandbox is wants


def test_a_real_key_is_never_sent_to_the_sandbox() -> None:
    access = load_settings(sandbox="on", openai_api_key="real", sandbox_url="http://s/").providers()

    assert {each.key.get_secret_value() for each in access.values()} == {"sandbox"}
    assert access["openai"].base_url == "http://s/openai/v1"
    assert "sandbox" in {field.name for field in dataclasses.fields(access["openai"])}


def test_images_are_kept_below_the_data_directory_unless_told_otherwise(tmp_path: Path) -> None:
    assert load_settings().images_url == (tmp_path.resolve() / "data/images").as_uri()
    assert load_settings(storage_url="s3://b/p").images_url == "s3://b/p"
