"""The image APIs this gateway can buy from. A new one is a module here and a line in PROVIDERS."""

from __future__ import annotations

from collections.abc import Mapping

from common.settings import ProviderAccess
from workers.providers.base import Provider
from workers.providers.bfl import BlackForestLabs
from workers.providers.http import Http
from workers.providers.openai import OpenAI

__all__ = ["PROVIDERS", "make_providers"]

PROVIDERS: dict[str, type[Provider]] = {
    "openai": OpenAI,
    "bfl": BlackForestLabs,
}
"""Every adapter, by the name that routes of the catalog call it."""


def make_providers(
    access: Mapping[str, ProviderAccess], *, concurrency: int, max_image_bytes: int
) -> dict[str, Provider]:
    """The adapters for `access`, by name. `concurrency`: how many calls each makes at a time.

    Raises ConfigurationError for a key that cannot be sent.
    """
    return {
        name: PROVIDERS[name](
            Http(
                name,
                provider_access,
                auth=PROVIDERS[name].auth,
                concurrency=concurrency,
                max_image_bytes=max_image_bytes,
            )
        )
        for name, provider_access in access.items()
    }
