"""What becomes of the bytes that a provider sends."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from common.errors import BadAnswer
from common.pictures import ImageLimits
from common.task import ImageRequest
from tests.workers.pictures import frames, picture
from workers.images import VerifiedImage, verify

LIMITS = ImageLimits(bytes=1_000_000, pixels=4_000_000)
REQUEST = ImageRequest("painter", "ein Apfel 🍎, „rot“\n日本語", size="64x48")
KINDS = ["PNG", "JPEG", "WEBP"]


def check(data: bytes, size: str = "64x48", limits: ImageLimits = LIMITS) -> VerifiedImage:
    return verify(data, ImageRequest(REQUEST.model, REQUEST.prompt, size=size), limits)


def refused(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(BadAnswer) as caught:
        check(data, limits=limits)
    assert caught.value.billed == "yes"
    return caught.value.message


def opened(image: VerifiedImage) -> Any:
    found = Image.open(io.BytesIO(image.data))
    found.load()
    return found


def declared(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes do not hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(10_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_picture_is_taken_for_what_it_is(kind: str) -> None:
    data = picture(kind=kind)

    image = check(data)

    assert (image.format, image.width, image.height) == (kind.lower(), 64, 48)
    assert opened(image).format == kind


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_picture_of_the_right_size_is_kept_as_it_came(kind: str) -> None:
    data = picture(kind=kind)

    assert check(data).data == data


def test_the_pixels_of_a_png_are_kept_as_they_came() -> None:
    data = picture(noisy=True)

    assert opened(check(data)).tobytes() == Image.open(io.BytesIO(data)).tobytes()


def test_a_png_tells_its_prompt_and_model() -> None:
    found = opened(check(picture()))

    assert found.text == {"prompt": REQUEST.prompt, "model": "painter"}


@pytest.mark.parametrize("kind", KINDS)
def test_checking_a_checked_picture_changes_nothing(kind: str) -> None:
    once = check(picture(128, 96, kind))

    assert check(once.data) == once
    assert check(once.data).sha256 == once.sha256


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_picture_that_was_cut_off_is_refused(kind: str, kept: float) -> None:
    data = picture(kind=kind, noisy=True)

    assert "cannot be decoded" in refused(data[: int(len(data) * kept)])


def test_a_corrupt_png_is_refused() -> None:
    data = bytearray(picture(noisy=True))
    at = data.index(b"IDAT") + 500
    data[at : at + 20] = bytes(20)

    assert "cannot be decoded" in refused(bytes(data))


@pytest.mark.parametrize("at", range(0, 2000, 97))
def test_whatever_byte_is_wrong_there_is_a_picture_or_a_refusal(at: int) -> None:
    for kind in KINDS:
        data = bytearray(picture(kind=kind, noisy=True))
        data[at % len(data)] ^= 0xFF
        try:
            opened(check(bytes(data)))
        except BadAnswer as error:
            assert error.billed == "yes"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"<!DOCTYPE html><html><body>Gateway timeout</body></html>",
        b'{"error": "expired"}',
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBP",
        b"\xff\xd8\xff",
        picture(kind="GIF"),
        picture(kind="BMP"),
        picture(kind="TIFF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
    ids=lambda data: str(data[:8]),
)
def test_what_is_no_png_jpeg_or_webp_is_refused(data: bytes) -> None:
    assert "cannot be decoded" in refused(data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_refused(kind: str) -> None:
    assert "animation" in refused(frames(kind))


@pytest.mark.parametrize("limit", [64_000_000, 300_000_000])
def test_a_picture_that_would_fill_the_memory_is_refused_unread(limit: int) -> None:
    message = refused(declared(16384, 16384), ImageLimits(1_000_000, limit))

    assert "pixels" in message or "cannot be decoded" in message


def test_a_picture_with_too_many_pixels_is_refused() -> None:
    assert "3071 pixels" in refused(picture(), ImageLimits(1_000_000, 64 * 48 - 1))


def test_a_picture_with_too_many_bytes_is_refused() -> None:
    data = picture()

    assert f"{len(data) - 1} bytes" in refused(data, ImageLimits(len(data) - 1, 4_000_000))
    assert check(data, limits=ImageLimits(len(data), 4_000_000))


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_picture_of_the_right_shape_is_scaled_down(kind: str) -> None:
    image = check(picture(256, 192, kind))

    assert (image.width, image.height) == (64, 48)
    assert opened(image).size == (64, 48)
    assert image.format == kind.lower()


def test_a_png_that_was_scaled_down_tells_its_prompt() -> None:
    assert opened(check(picture(128, 96))).text["prompt"] == REQUEST.prompt


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pictures_of_every_colour_kind_can_be_scaled_down(mode: str) -> None:
    out = io.BytesIO()
    Image.new(mode, (128, 96)).save(out, "PNG")

    assert opened(check(out.getvalue())).size == (64, 48)


def test_transparency_survives_scaling_down() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (128, 96), (255, 0, 0, 0)).save(out, "PNG")

    assert opened(check(out.getvalue())).getpixel((5, 5))[3] == 0


@pytest.mark.parametrize(("width", "height"), [(32, 24), (48, 64), (64, 64), (65, 48), (128, 95)])
def test_any_other_size_is_kept_and_told(width: int, height: int) -> None:
    image = check(picture(width, height))

    assert (image.width, image.height) == (width, height)
    assert opened(image).size == (width, height)


def test_pictures_are_not_in_representations() -> None:
    assert "PNG" not in repr(check(picture()))


def grid(kind: str = "PNG", size: tuple[int, int] = (128, 96)) -> bytes:
    """Four pictures, each of one colour: red, green, blue and white in reading order."""
    image = Image.new("RGB", size, "white")
    width, height = size[0] // 2, size[1] // 2
    for colour, corner in (
        ("red", (0, 0)),
        ("lime", (size[0] - width, 0)),
        ("blue", (0, size[1] - height)),
    ):
        image.paste(colour, (*corner, corner[0] + width, corner[1] + height))
    out = io.BytesIO()
    image.save(out, kind, **({} if kind == "PNG" else {"quality": 95}))
    return out.getvalue()


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quarter", range(4))
def test_a_quarter_of_a_grid_is_a_picture_of_its_own(kind: str, quarter: int) -> None:
    image = verify(grid(kind), REQUEST, LIMITS, quarter=quarter)

    assert (image.format, image.width, image.height) == (kind.lower(), 64, 48)
    found = opened(image)
    assert found.size == (64, 48)
    for at in ((8, 8), (54, 38)):  # lossy formats blur the border
        assert found.convert("RGB").getpixel(at) == pytest.approx(COLOURS[quarter], abs=16)
    if kind == "PNG":
        assert found.info["prompt"] == REQUEST.prompt


@pytest.mark.parametrize("quarter", range(4))
def test_quarters_of_odd_sides_are_all_of_one_size(quarter: int) -> None:
    image = verify(grid(size=(129, 97)), REQUEST, LIMITS, quarter=quarter)

    assert opened(image).size == (64, 48)
    assert opened(image).getcolors() == [(64 * 48, COLOURS[quarter])]


def test_a_quarter_larger_than_asked_is_scaled_down() -> None:
    image = verify(grid(size=(512, 384)), REQUEST, LIMITS, quarter=1)

    assert (image.width, image.height) == opened(image).size == (64, 48)


def test_a_grid_is_held_to_the_limits_as_a_whole() -> None:
    limits = ImageLimits(bytes=1_000_000, pixels=128 * 96 - 1)

    with pytest.raises(BadAnswer, match="pixels"):
        verify(grid(), REQUEST, limits, quarter=0)


def test_nothing_can_be_cut_from_a_line() -> None:
    with pytest.raises(BadAnswer, match="too small"):
        verify(picture(1, 8), REQUEST, LIMITS, quarter=0)
