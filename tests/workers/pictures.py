"""Pictures as providers send them."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def picture(
    width: int = 64, height: int = 48, kind: str = "PNG", *, noisy: bool = False, **options: Any
) -> bytes:
    """An encoded picture; a noisy one has bytes enough to be cut anywhere."""
    image = Image.new("RGB", (width, height), (200, 30, 30))
    if noisy:
        image = Image.merge("RGB", [Image.effect_noise((width, height), 90) for _ in "RGB"])
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def frames(kind: str) -> bytes:
    """An animation of two frames."""
    first, second = (Image.new("RGB", (64, 48), colour) for colour in ("red", "blue"))
    out = io.BytesIO()
    first.save(out, kind, save_all=True, append_images=[second], duration=100)
    return out.getvalue()
