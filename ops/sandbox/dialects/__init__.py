"""The providers the sandbox speaks for. A new one is a module here and a line in DIALECTS."""

from collections.abc import Callable

from flask import Blueprint

from ops.sandbox.dialects import (
    a1111,
    bfl,
    comfyui,
    fal,
    gemini,
    huggingface,
    ideogram,
    midjourney,
    openai,
    replicate,
    stability,
    together,
)
from ops.sandbox.dialects.base import Desk

DIALECTS: dict[str, Callable[[Desk], Blueprint]] = {
    "openai": openai.make_blueprint,
    "bfl": bfl.make_blueprint,
    "replicate": replicate.make_blueprint,
    "fal": fal.make_blueprint,
    "together": together.make_blueprint,
    "huggingface": huggingface.make_blueprint,
    "stability": stability.make_blueprint,
    "midjourney": midjourney.make_blueprint,
    "ideogram": ideogram.make_blueprint,
    "gemini": gemini.make_blueprint,
    "a1111": a1111.make_blueprint,
    "compatible": openai.make_blueprint,
    "comfyui": comfyui.make_blueprint,
}
"""By provider, which is also the first part of the path it is served under."""
