"""The image APIs this gateway can buy from. A new one is a module here and a line in PROVIDERS."""

from __future__ import annotations

from collections.abc import Mapping

from common.settings import ProviderAccess
from workers.providers.a1111 import Automatic1111
from workers.providers.base import Provider
from workers.providers.bfl import BlackForestLabs
from workers.providers.comfyui import ComfyUI
from workers.providers.fal import Fal
from workers.providers.gemini import Gemini
from workers.providers.http import Http
from workers.providers.huggingface import HuggingFace
from workers.providers.ideogram import Ideogram
from workers.providers.midjourney import Midjourney
from workers.providers.openai import Compatible, OpenAI
from workers.providers.replicate import Replicate
from workers.providers.stability import Stability
from workers.providers.together import Together

__all__ = ["PROVIDERS", "make_providers"]

PROVIDERS: dict[str, type[Provider]] = {
    "openai": OpenAI,
    "bfl": BlackForestLabs,
    "replicate": Replicate,
    "fal": Fal,
    "together": Together,
    "huggingface": HuggingFace,
    "stability": Stability,
    "midjourney": Midjourney,
    "ideogram": Ideogram,
    "gemini": Gemini,
    "a1111": Automatic1111,
    "compatible": Compatible,
    "comfyui": ComfyUI,
}
"""Every adapter, by the name that routes of the catalog call it."""


def make_providers(
    access: Mapping[str, ProviderAccess], *, concurrency: int, max_image_bytes: int
) -> dict[str, Provider]:
    """The adapters for `access`, by name. `concurrency`: how many calls each makes at a time.

    Raises ConfigurationError for a key that cannot be sent, and for a file that is of no use.
    """
    return {
        name: PROVIDERS[name](
            Http(
                name,
                provider_access,
                auth=PROVIDERS[name].auth,
                concurrency=concurrency,
                max_image_bytes=max_image_bytes,
            ),
            provider_access.file,
        )
        for name, provider_access in access.items()
    }
