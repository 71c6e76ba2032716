"""What the contract suite has to know of each provider: one entry of CASES."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from common.catalog import Route
from common.task import ImageRequest

__all__ = ["CASES", "PNG", "Case"]

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
IMAGES_PATH = "/images/generations"


@dataclass(frozen=True)
class Case:
    """How to reach a provider in the sandbox, what to ask of it, and how it answers."""

    sandbox_path: str
    documents: str  # its name in examples.json, and the stem of its file in openapi/
    submit_path: str
    route: Route
    request: ImageRequest
    accepts: Callable[[str], Any]  # base URL -> the answer to a submit that succeeds
    key_header: str
    has_jobs: bool  # answers a submit with a job, not with pictures
    variants: tuple[tuple[ImageRequest, Route], ...]  # further requests that must be well formed
    newer: dict[str, Any] = field(default_factory=dict)  # request fields younger than the document


def _openai() -> Case:
    route = Route("openai", "gpt-image-2", quality={"standard": "medium", "hd": "high"})
    return Case(
        sandbox_path="/openai/v1",
        documents="openai",
        submit_path=IMAGES_PATH,
        route=route,
        request=ImageRequest("dall-e-3", "a red fox"),
        accepts=lambda _: {
            "created": 1764000000,
            "data": [{"b64_json": base64.b64encode(PNG).decode()}],
        },
        key_header="authorization",
        has_jobs=False,
        variants=(
            (ImageRequest("dall-e-3", "x", quality="hd", style="vivid", user="a@b.example"), route),
            (
                ImageRequest("dall-e-2", "x", size="256x256", seed=4, negative_prompt="blur"),
                Route(
                    "openai",
                    "gpt-image-2",
                    quality={"standard": "low"},
                    upstream_size="1024x1024",
                ),
            ),
            (
                ImageRequest(
                    "gpt-image-2",
                    "x",
                    quality="high",
                    size="auto",
                    background="transparent",
                    output_format="webp",
                    output_compression=80,
                    moderation="low",
                    response_format="b64_json",
                ),
                Route("openai", "gpt-image-2"),
            ),
        ),
        newer={"safety_identifier": {"type": "string", "maxLength": 64}},
    )


def _bfl() -> Case:
    route = Route("bfl", "flux-pro-1.1")
    wide = ImageRequest("flux-pro", "a red fox", size="1344x768")
    every_field = ImageRequest(
        "flux-pro",
        "x",
        size="1440x960",
        quality="hd",
        seed=7,
        negative_prompt="blur",
        output_format="webp",
        user="a@b.example",
        moderation="low",
    )
    others = (
        "flux-dev", "flux-pro-1.1-ultra", "flux-kontext-pro", "flux-kontext-max", "flux-2-pro",
        "flux-2-max", "flux-2-flex", "flux-2-klein-4b", "flux-2-klein-9b",
    )  # fmt: skip
    return Case(
        sandbox_path="/bfl",
        documents="black-forest-labs",
        submit_path=f"/v1/{route.model}",
        route=route,
        request=ImageRequest("flux-pro", "a red fox"),
        accepts=lambda base: {
            "id": "job-1",
            "polling_url": f"{base}/v1/get_result?id=job-1",
            "cost": 4.0,
        },
        key_header="x-key",
        has_jobs=True,
        variants=(
            (wide, route),
            (every_field, route),
            *((wide, Route("bfl", model)) for model in others),
        ),
    )


CASES = {"openai": _openai(), "bfl": _bfl()}
