"""Every setting of the system: one frozen object, read once from the environment or `.env`.

Entry points call `load_settings`; nothing else reads the environment. `python -m common.settings`
prints `ops/env.example`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, StringConstraints, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.errors import ConfigurationError
from common.redis_url import RedisUrl

__all__ = [
    "PROVIDERS_BY_OPERATION",
    "PROVIDER_NAMES",
    "ProviderAccess",
    "Settings",
    "env_example",
    "load_settings",
]

_HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+(/\S*)?$")]
_OptionalHttpUrl = Annotated[str, StringConstraints(pattern=r"^(https?://[^\s/]+(/\S*)?)?$")]
_Numbers = Annotated[str, StringConstraints(pattern=r"^(\d+(\.\d+)?(,\d+(\.\d+)?)*)?$")]
_SECRETS = Path("/run/secrets")
_Port = Annotated[int, Field(ge=1, le=65535)]


@dataclass(frozen=True, slots=True)
class ProviderAccess:
    """Where a provider answers and the credential for it. `sandbox` when no real one is asked.

    `file`: path of what its adapter needs beside; empty when there is nothing.
    """

    base_url: str
    key: SecretStr
    sandbox: bool = False
    file: str = ""


@dataclass(frozen=True, slots=True)
class _Where:
    """The settings that hold a provider's credential, if it has one, its address and the file for
    its adapter, if that wants one; and its path in the sandbox."""

    key: str
    url: str
    sandbox_path: str
    file: str = ""


# A provider is configured when its key is set, or an address of its own; where there is no default
# address, only by the address.
_PROVIDERS = {
    "openai": _Where("openai_api_key", "openai_base_url", "/openai/v1"),
    "bfl": _Where("bfl_api_key", "bfl_base_url", "/bfl"),
    "replicate": _Where("replicate_api_token", "replicate_base_url", "/replicate/v1"),
    "fal": _Where("fal_key", "fal_queue_url", "/fal"),
    "together": _Where("together_api_key", "together_base_url", "/together/v1"),
    "huggingface": _Where("hf_token", "hf_base_url", "/huggingface"),
    "stability": _Where("stability_api_key", "stability_base_url", "/stability"),
    "ideogram": _Where("ideogram_api_key", "ideogram_base_url", "/ideogram"),
    "gemini": _Where("gemini_api_key", "gemini_base_url", "/gemini/v1beta"),
    "midjourney": _Where("midjourney_proxy_secret", "midjourney_proxy_url", "/midjourney"),
    "a1111": _Where("a1111_auth", "a1111_url", "/a1111"),
    "compatible": _Where("compatible_api_key", "compatible_base_url", "/compatible/v1"),
    "comfyui": _Where("", "comfyui_url", "/comfyui", file="comfyui_workflow"),
}
PROVIDER_NAMES = tuple(_PROVIDERS)
"""Every provider that settings can configure, and so every one that a route can name."""
PROVIDERS_BY_OPERATION: Mapping[str, tuple[str, ...]] = {
    "edit": ("openai", "bfl", "stability", "ideogram", "gemini", "a1111", "compatible"),
    "variation": ("compatible",),
}
"""Those that can do more than make a picture from words."""


class Settings(BaseSettings):
    """One attribute per variable; the variable is its name in capitals."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        env_file_encoding="utf-8",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    # -- Where things are
    port: _Port = Field(8000, description="Port of the HTTP API.")
    host: str = Field(
        "127.0.0.1", description="Address the API listens on; 0.0.0.0 for all interfaces."
    )
    public_url: _OptionalHttpUrl = Field(
        "",
        description="How clients reach the API, for the image URLs in answers and webhooks. "
        "Empty: taken from each request; of a webhook, from its submit.",
    )
    flower_port: _Port = Field(5555, description="Port of Flower, the view on the workers.")
    flower_address: str = Field(
        "127.0.0.1",
        description="Address Flower listens on. Any but the machine's own needs FLOWER_BASIC_AUTH.",
    )
    flower_basic_auth: SecretStr = Field(
        SecretStr(""),
        description="Who may see Flower, as user:password; several with commas between. Empty: "
        "whoever reaches it.",
    )
    flower_read_only: bool = Field(
        True, description="Flower only shows. false: it may end tasks and stop workers as well."
    )
    redis_url: str = Field(
        "",
        description="Redis or Valkey that all processes share: redis://user:password@host:6379/0, "
        "or sentinel://host:26379,host:26379/service/0; rediss:// and sentinels:// for TLS, with "
        "?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE. Empty: ops/run starts an embedded "
        "one.",
    )
    data_dir: Path = Field(
        Path("data"), description="Directory of the embedded Valkey, the images and the first key."
    )
    storage_url: Annotated[str, StringConstraints(pattern=r"^((s3|gs|az)://\S+|file:///\S*)?$")] = (
        Field(
            "",
            description="Where images are kept: s3://bucket/prefix, gs://…, az://…, file:///path. "
            "Empty: DATA_DIR/images. Needs to be the same for every web and worker.",
        )
    )
    storage_redirect: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Addresses of images lead on to the bucket, by presigned addresses of a few "
        "minutes. auto: if the bucket answers under https; on: always; off: the front end passes "
        "the images through, as for a bucket that clients cannot reach. Of no account for a "
        "directory.",
    )
    disk_reserve_mb: int = Field(
        200,
        ge=0,
        description="New tasks are refused while less is free, in megabytes, where the images go. "
        "Of no account for a bucket.",
    )

    # -- Who may ask
    bootstrap_api_key: SecretStr = Field(
        SecretStr(""),
        description="The first API key, of the form sk-…; ops/run makes one when empty.",
    )
    signing_secret: SecretStr = Field(
        SecretStr(""),
        description="Signs image URLs; the same for every web and worker. Empty: a random one, "
        "kept in Redis and shared by all.",
    )

    metrics_token: SecretStr = Field(
        SecretStr(""),
        description="What Prometheus sends to read /metrics, as Authorization: Bearer. Empty: "
        "/metrics answers requests of the machine itself, and no other.",
    )

    # -- Providers
    sandbox: Literal["auto", "on", "off"] = Field(
        "auto",
        description="The built-in provider sandbox. auto: used while no provider is configured; "
        "on: for every provider; off: never.",
    )
    sandbox_port: _Port = Field(8790, description="Port of the sandbox.")
    sandbox_url: _OptionalHttpUrl = Field(
        "", description="Where the sandbox answers, if it does not run under ops/run."
    )
    openai_api_key: SecretStr = Field(SecretStr(""), description="Key of the OpenAI account.")
    openai_base_url: _HttpUrl = Field(
        "https://api.openai.com/v1",
        description="OpenAI's API, or a proxy in front of it; setting it configures the provider, "
        "with or without a key.",
    )
    bfl_api_key: SecretStr = Field(
        SecretStr(""), description="Key of the Black Forest Labs account."
    )
    bfl_base_url: _HttpUrl = Field("https://api.bfl.ai", description="Black Forest Labs API.")
    replicate_api_token: SecretStr = Field(
        SecretStr(""), description="Token of the Replicate account."
    )
    replicate_base_url: _HttpUrl = Field(
        "https://api.replicate.com/v1", description="Replicate API."
    )
    fal_key: SecretStr = Field(SecretStr(""), description="Key of the fal account.")
    fal_queue_url: _HttpUrl = Field("https://queue.fal.run", description="fal's queue API.")
    together_api_key: SecretStr = Field(
        SecretStr(""), description="Key of the Together AI account."
    )
    together_base_url: _HttpUrl = Field(
        "https://api.together.ai/v1", description="Together AI API."
    )
    hf_token: SecretStr = Field(
        SecretStr(""), description="Token of the Hugging Face account, with access to inference."
    )
    hf_base_url: _HttpUrl = Field(
        "https://router.huggingface.co/hf-inference", description="Hugging Face inference API."
    )
    stability_api_key: SecretStr = Field(
        SecretStr(""), description="Key of the Stability AI account."
    )
    stability_base_url: _HttpUrl = Field(
        "https://api.stability.ai", description="Stability AI API."
    )
    ideogram_api_key: SecretStr = Field(SecretStr(""), description="Key of the Ideogram account.")
    ideogram_base_url: _HttpUrl = Field("https://api.ideogram.ai", description="Ideogram API.")
    gemini_api_key: SecretStr = Field(
        SecretStr(""), description="Key of the Google account for the Gemini API."
    )
    gemini_base_url: _HttpUrl = Field(
        "https://generativelanguage.googleapis.com/v1beta", description="Gemini API."
    )
    midjourney_proxy_url: _OptionalHttpUrl = Field(
        "",
        description="A midjourney-proxy, such as http://localhost:8080; setting it configures the "
        "provider.",
    )
    midjourney_proxy_secret: SecretStr = Field(
        SecretStr(""), description="The midjourney-proxy's mj-api-secret, if it asks for one."
    )
    a1111_url: _OptionalHttpUrl = Field(
        "",
        description="A server with the API of AUTOMATIC1111's Stable Diffusion web UI, such as "
        "http://localhost:7860; setting it configures the provider.",
    )
    a1111_auth: SecretStr = Field(
        SecretStr(""),
        description="user:password of that server, if it was started with --api-auth.",
    )
    compatible_base_url: _OptionalHttpUrl = Field(
        "",
        description="A server that speaks OpenAI's Images API, such as http://localhost:8080/v1 of "
        "LocalAI, vLLM-Omni or SGLang, or an aggregator; setting it configures the provider.",
    )
    compatible_api_key: SecretStr = Field(
        SecretStr(""), description="The key for that server, if it asks for one."
    )
    catalog_file: str = Field(
        "",
        description="A TOML file with models of your own, in the form of common/catalog.toml: they "
        "are added to those there, or take the place of one of the same name. Needs to be the same "
        "for every web and worker.",
    )
    comfyui_url: _OptionalHttpUrl = Field(
        "",
        description="A ComfyUI, such as http://localhost:8188; setting it configures the provider.",
    )
    comfyui_workflow: str = Field(
        "",
        description="File with the workflow that ComfyUI runs, in API format, and in it %prompt%, "
        "%seed% and %count%. Empty: text to image with SDXL.",
    )

    # -- Tasks and workers
    retention_hours: float = Field(
        24, gt=0, le=24 * 365, description="Hours that a finished task and its images are kept."
    )
    workers: int = Field(1, ge=1, le=64, description="Worker processes that ops/run starts.")
    worker_pool: Literal["threads", "gevent"] = Field(
        "threads", description="threads up to some hundred calls at a time, gevent for thousands."
    )
    worker_concurrency: int = Field(
        500, ge=1, le=20000, description="Generations that one worker process handles at a time."
    )
    worker_queues: str = Field(
        "",
        description="Comma-separated queues that this worker serves, such as images.bfl. "
        "Empty: all.",
    )
    web_processes: int = Field(1, ge=1, le=64, description="Processes of the HTTP front end.")
    lease_seconds: float = Field(
        30,
        ge=1,
        le=600,
        description="After a worker's death its tasks are taken up by another this much later.",
    )
    doubt_seconds: float = Field(
        30,
        ge=0,
        le=3600,
        description="A late answer to a call whose worker was lost is waited for so long, where "
        "the provider cannot be asked about it.",
    )
    on_unknown: Annotated[
        str, StringConstraints(pattern=r"^(fail|retry)(,[^,=\s]+=(fail|retry))*$")
    ] = Field(
        "fail",
        description="What becomes of a call whose outcome cannot be learned. fail: the task ends "
        "as outcome_unknown; retry: it is sent again, and may be paid twice. For single providers "
        "or routes: fail,comfyui=retry,openai/gpt-image-2=retry.",
    )
    route_shut_seconds: float = Field(
        300,
        ge=1,
        le=86400,
        description="A provider whose account has no credit, or that refuses our key, is left "
        "alone for this long.",
    )
    queue_limit: int = Field(
        100_000,
        ge=0,
        le=100_000_000,
        description="So many tasks may wait for a provider; further ones are refused with 429. "
        "0: any number.",
    )
    breaker_failures: int = Field(
        5, ge=1, le=1000, description="So many failures of a route in a row shut it for a while."
    )
    breaker_seconds: float = Field(
        30,
        ge=0.1,
        le=3600,
        description="For how long; twice as long each further time, twenty times at most.",
    )
    sweep_seconds: float = Field(
        1, ge=0.1, le=60, description="Seconds between two looks for tasks that are due."
    )
    rehint_seconds: float = Field(
        10,
        ge=1,
        le=600,
        description="A task whose message may be lost is announced again after this; one that has "
        "come up from its caller's line after 10 s, whatever this says.",
    )
    stall_seconds: float = Field(
        60,
        ge=0,
        le=3600,
        description="A worker that lives and has not taken work for so long, although it could "
        "have, is ended and started again. 0: never.",
    )
    shutdown_seconds: float = Field(
        180,
        ge=1,
        le=3600,
        description="How long ops/run lets a worker finish its provider calls when it stops.",
    )
    max_image_bytes: int = Field(
        50_000_000,
        ge=1000,
        description="Largest picture accepted from a provider or a caller, in bytes.",
    )
    max_image_pixels: int = Field(
        64_000_000,
        ge=4096,
        description="Largest picture accepted from a provider or a caller, in pixels.",
    )

    # -- Webhooks
    webhook_timeout_seconds: float = Field(
        15, ge=0.5, le=60, description="How long the receiver of a webhook may take to answer."
    )
    webhook_waits: _Numbers = Field(
        "5,300,1800,7200,18000,36000,36000",
        description="Seconds between the tries to deliver a webhook. The last try comes when nine "
        "tenths of RETENTION_HOURS are over, at the latest.",
    )
    webhook_private_targets: bool = Field(
        False,
        description="Webhooks may go to private addresses and by http as well. For development: "
        "whoever has an API key can then have requests sent into your network.",
    )

    # -- Logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe events that are logged."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="console for people, json for machines."
    )

    # -- Traces
    otel_exporter_otlp_endpoint: _OptionalHttpUrl = Field(
        "",
        description="Where traces of tasks go, by OTLP over HTTP: http://localhost:4318. Needs the "
        "packages that ops/python ops/environment.py otel brings. Empty: none are made.",
    )
    otel_exporter_otlp_headers: SecretStr = Field(
        SecretStr(""),
        description="Headers for it, such as a key: name=value, several with commas between.",
    )

    @field_validator("redis_url")
    @classmethod
    def _usable_redis_url(cls, url: str) -> str:
        if url:
            RedisUrl.parse(url)
        return url

    @field_validator("bootstrap_api_key")
    @classmethod
    def _usable_key(cls, key: SecretStr) -> SecretStr:
        text = key.get_secret_value()
        if text and not (
            text.startswith("sk-") and len(text) >= 20 and text.isascii() and text.isprintable()
        ):
            raise ValueError("must start with sk- and have at least 20 characters")
        return key

    @field_validator("flower_basic_auth")
    @classmethod
    def _users_and_passwords(cls, auth: SecretStr) -> SecretStr:
        text = auth.get_secret_value()
        if text and not all(re.fullmatch(r"[^:]+:.+", part) for part in text.split(",")):
            raise ValueError("must be of the form user:password, several with commas between")
        return auth

    @field_validator("a1111_auth")
    @classmethod
    def _user_and_password(cls, auth: SecretStr) -> SecretStr:
        user, colon, password = auth.get_secret_value().partition(":")
        if auth.get_secret_value() and not (user and colon and password):
            raise ValueError("must be of the form user:password")
        return auth

    def providers(self) -> Mapping[str, ProviderAccess]:
        """The providers that can be used, by name; empty when none is configured."""
        configured = {}
        for name, where in _PROVIDERS.items():
            url = getattr(self, where.url)
            key = getattr(self, where.key) if where.key else SecretStr("")
            file = getattr(self, where.file) if where.file else ""
            if url and (key.get_secret_value() or where.url in self.model_fields_set):
                configured[name] = ProviderAccess(url.rstrip("/"), key, file=file)
        if self.sandbox == "off" or (
            self.sandbox == "auto" and (configured or not self.sandbox_url)
        ):
            return configured
        root = (self.sandbox_url or f"http://127.0.0.1:{self.sandbox_port}").rstrip("/")
        return {
            name: ProviderAccess(root + where.sandbox_path, SecretStr("sandbox"), sandbox=True)
            for name, where in _PROVIDERS.items()
        }

    @property
    def webhook_wait_seconds(self) -> tuple[float, ...]:
        """WEBHOOK_WAITS as numbers."""
        return tuple(float(wait) for wait in self.webhook_waits.split(",") if wait)

    def retries_unknown(self, route: str) -> bool:
        """Whether ON_UNKNOWN wants a call of `route`, provider/upstream model, sent again."""
        otherwise, *rules = self.on_unknown.split(",")
        said = dict(rule.rsplit("=", 1) for rule in rules)
        return said.get(route, said.get(route.partition("/")[0], otherwise)) == "retry"

    @property
    def shared_redis_url(self) -> str:
        """REDIS_URL for a process that cannot do without. Raises ConfigurationError when unset."""
        if not self.redis_url:
            raise ConfigurationError(
                "REDIS_URL: needed, such as redis://localhost:6379/0; ops/run brings its own"
            )
        return self.redis_url

    @property
    def wants_sandbox(self) -> bool:
        """Whether a launcher should start the sandbox for these settings."""
        if self.sandbox_url or self.sandbox == "off":
            return False
        return self.sandbox == "on" or not self.providers()

    @property
    def images_url(self) -> str:
        """The image store as a URL."""
        return self.storage_url or (self.data_dir.resolve() / "images").as_uri()


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment, `.env` and `/run/secrets`; `overrides` win over all.

    A file of `/run/secrets`, where Docker and Podman put secrets, has the name of its setting, such
    as `redis_url`; the environment and `.env` win over it.

    Raises ConfigurationError with one line per bad variable, naming it.
    """
    secrets: dict[str, Any] = {"_secrets_dir": _SECRETS} if _SECRETS.is_dir() else {}
    try:
        return Settings(**secrets, **overrides)
    except ValidationError as error:
        raise ConfigurationError("\n".join(map(_complaint, error.errors()))) from None


def _complaint(error: Any) -> str:
    name = str(error["loc"][0]).upper()
    if error["type"] == "extra_forbidden":
        known = [field.upper() for field in Settings.model_fields]
        near = difflib.get_close_matches(name, known, n=1)
        return f"{name}: no such setting in .env" + (f"; did you mean {near[0]}?" if near else "")
    return f"{name}: {error['msg']}"


def env_example() -> str:
    """The text of `ops/env.example`: every variable with its meaning and default."""
    lines = [
        "# Every setting of Darkroom, with its default. Copy to .env and change what you need,",
        "# or set them in the environment, which wins, or as files such as /run/secrets/redis_url.",
        "# Made by: python -m common.settings",
    ]
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        choices = (
            getattr(field.annotation, "__args__", ()) if "Literal" in str(field.annotation) else ()
        )
        values = f" One of: {', '.join(choices)}." if choices else ""
        lines += ["", f"# {field.description}{values}", f"#{name.upper()}={default}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(env_example(), end="")  # noqa: T201 - its purpose
