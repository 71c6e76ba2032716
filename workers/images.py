"""Checks the bytes a provider sent, and makes of them the picture that is kept.

Nothing a provider sends is trusted: format, size and completeness are established by decoding.
The encoded picture is kept as it came, with prompt and model added as metadata; only a picture
larger than what was asked for is scaled and encoded anew, and so is one cut out of a grid.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass, field

from PIL import Image

from common.errors import BadAnswer
from common.pictures import BadPicture, Format, ImageLimits, decode, format_of
from common.task import ImageRequest
from workers.providers.base import MaskForm

__all__ = ["VerifiedImage", "mask_in", "verify"]


@dataclass(frozen=True, slots=True)
class VerifiedImage:
    """A picture that decodes completely. Width and height in pixels."""

    data: bytes = field(repr=False)
    format: Format
    width: int
    height: int
    sha256: str


def verify(
    data: bytes, request: ImageRequest, limits: ImageLimits, *, quarter: int | None = None
) -> VerifiedImage:
    """Decode `data` to the last pixel and bring it to what `request` asked for.

    With `quarter` (0 to 3, in reading order) only that part of a grid of two by two is kept.
    A picture of the right shape that is larger than asked is scaled down; any other size is kept,
    and told. Raises BadAnswer (billed: the provider did deliver) when the bytes are no PNG, JPEG
    or WebP, are cut off or corrupt, or are beyond `limits`.
    """
    try:
        picture = decode(io.BytesIO(data), limits)
    except BadPicture as reason:
        raise _unusable(str(reason)) from reason
    fmt = format_of(picture)
    wanted = request.pixels
    kept = picture if quarter is None else picture.crop(_box(picture.size, quarter))
    if _is_larger_of_same_shape(kept.size, wanted):
        kept = kept.resize(wanted, Image.Resampling.LANCZOS)
    if kept is not picture:
        data = _encode(kept, fmt)
    if fmt == "png":
        data = _with_texts(data, {"prompt": request.prompt, "model": request.model})
    return VerifiedImage(data, fmt, *kept.size, hashlib.sha256(data).hexdigest())


def mask_in(form: MaskForm, data: bytes, limits: ImageLimits) -> bytes:
    """A PNG that marks what `data`, a mask, does by being fully transparent, in the form wanted.

    Nothing of the mask's colours is left, so that it is small whatever was painted there. Raises
    BadPicture.
    """
    alpha = decode(io.BytesIO(data), limits).convert("RGBA").getchannel("A")
    if form == "black":
        mask = alpha.point([0] + [255] * 255)
    else:
        mask = Image.new("RGBA", alpha.size)
        mask.putalpha(alpha)
    return _encode(mask, "png")


def _unusable(what: str) -> BadAnswer:
    return BadAnswer(f"The picture that the provider sent {what}.", billed="yes")


def _box(size: tuple[int, int], quarter: int) -> tuple[int, int, int, int]:
    """A quarter's edges. All four are of one size: of odd sides the middle line is left out."""
    width, height = size[0] // 2, size[1] // 2
    if not width or not height:
        raise _unusable("is too small to hold four")
    down, across = divmod(quarter, 2)
    left, top = across * (size[0] - width), down * (size[1] - height)
    return left, top, left + width, top + height


def _is_larger_of_same_shape(have: tuple[int, int], want: tuple[int, int]) -> bool:
    return have != want and have[0] >= want[0] and have[0] * want[1] == have[1] * want[0]


def _encode(picture: Image.Image, fmt: str) -> bytes:
    buffer = io.BytesIO()
    options = {"png": {"compress_level": 1}, "jpeg": {"quality": 95}, "webp": {"quality": 95}}[fmt]
    picture.save(buffer, fmt.upper(), **options)
    return buffer.getvalue()


def _with_texts(png: bytes, texts: dict[str, str]) -> bytes:
    """Insert iTXt chunks behind the header: a thousandth of the cost of encoding anew.

    PNG specification, 11.3.3.4 iTXt: keyword, two flags (not compressed), language, translated
    keyword, text in UTF-8; 5.3: a chunk is length, type, data, CRC of type and data.
    """
    header = 8 + 25  # signature and IHDR, which must come first
    if png[header + 4 :].startswith(b"iTXt" + next(iter(texts)).encode() + b"\0"):
        return png  # ours already: a picture that is verified again stays what it was
    chunks = bytearray()
    for keyword, text in texts.items():
        data = b"iTXt" + keyword.encode() + b"\0\0\0\0\0" + text.encode("utf-8")
        chunks += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return png[:header] + bytes(chunks) + png[header:]
