"""Establishes by decoding what the bytes of a picture are: names and headers prove nothing."""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Literal

from PIL import Image

from common.errors import DarkroomError

__all__ = ["BadPicture", "Format", "ImageLimits", "decode", "format_of"]

Format = Literal["png", "jpeg", "webp"]

_FORMATS: dict[str, Format] = {
    "PNG": "png",
    "JPEG": "jpeg",
    "WEBP": "webp",
    "MPO": "jpeg",  # a JPEG with more pictures behind it, as telephones write them
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest picture that is accepted: encoded bytes, and pixels once decoded."""

    bytes: int
    pixels: int


class BadPicture(DarkroomError):
    """No picture that is accepted. The text says why, to go on after a name: "is an animation"."""


def decode(file: BinaryIO, limits: ImageLimits) -> Image.Image:
    """The picture in `file`, decoded to its last pixel: a truncated one opens without complaint.

    Keeps the processor busy and takes several bytes of memory for each pixel. Raises BadPicture
    when it is no PNG, JPEG or WebP, is cut off or corrupt, animated, or beyond `limits`.
    """
    if file.seek(0, 2) > limits.bytes:
        raise BadPicture(f"is larger than {limits.bytes} bytes")
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture: Image.Image = Image.open(file, formats=["PNG", "JPEG", "WEBP"])
            if picture.width * picture.height > limits.pixels:
                raise BadPicture(f"has more than {limits.pixels} pixels")
            if getattr(picture, "n_frames", 1) != 1 and picture.format != "MPO":
                raise BadPicture("is an animation")
            picture.load()
    except (
        OSError,
        SyntaxError,
        ValueError,
        IndexError,
        struct.error,
        zlib.error,
        MemoryError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise BadPicture("cannot be decoded") from error
    return picture


def format_of(picture: Image.Image) -> Format:
    """The format of a picture that `decode` returned."""
    return _FORMATS[str(picture.format)]
