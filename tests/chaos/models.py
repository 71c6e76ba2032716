"""The models of the chaos suite: beside the shipped ones, one for each provider alone."""

from __future__ import annotations

from common.settings import PROVIDER_NAMES

__all__ = ["ONLY", "catalog"]

ONLY = {provider: f"only-{provider}" for provider in PROVIDER_NAMES}
"""The model that a provider alone serves, by the provider. What goes wrong there is not put right
by another; and the deadline is short."""

DEADLINE = 90  # seconds

_UPSTREAM = {
    "a1111": "default",
    "bfl": "flux-pro-1.1",
    "comfyui": "default",
    "compatible": "dall-e-2",
    "fal": "fal-ai/flux/schnell",
    "gemini": "gemini-3.1-flash-image",
    "huggingface": "black-forest-labs/FLUX.1-schnell",
    "ideogram": "ideogram-v3",
    "midjourney": "v7",
    "openai": "gpt-image-2",
    "replicate": "black-forest-labs/flux-schnell",
    "stability": "sd3.5-large",
    "together": "black-forest-labs/FLUX.1-schnell",
}


def catalog() -> str:
    """What CATALOG_FILE is to hold."""
    models = [_model(ONLY[name], name, _UPSTREAM[name], deadline=DEADLINE) for name in ONLY]
    # One account of a midjourney-proxy does three jobs at a time, which is less than the load asks
    # for; all else is as shipped.
    models.append(_model("midjourney", "midjourney", "v7", deadline=1800, cap=12))
    return "\n".join(models)


def _model(name: str, provider: str, upstream: str, *, deadline: int, cap: int = 0) -> str:
    return f"""
[{name}]
owned_by = "{provider}"
mode = "task"
description = "Of {provider}, and of nobody else."
sizes = ["512x512", "1024x1024"]
default_size = "1024x1024"
max_n = 4
max_prompt_characters = 4000
parameters = ["seed", "negative_prompt"]
typical_seconds = 10
deadline_seconds = {deadline}
created = 1700000000

[[{name}.routes]]
provider = "{provider}"
model = "{upstream}"
cap = {cap}
"""
