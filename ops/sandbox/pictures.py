"""Turns a request into the bytes of a picture, sound or flawed."""

import base64
import threading
import zlib
from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from os import cpu_count
from struct import pack

from PIL import Image, ImageOps

CACHE_BYTES = 64 * 1024 * 1024
BOMB_SIDE = 16_384

_HTML = b"<!doctype html><html><body><h1>This is not a picture</h1></body></html>\n"

_Key = tuple[str, int, int, int, str, int, bool, bool]


class BadSource(ValueError):
    """What was sent to start from is no picture."""


@dataclass(frozen=True)
class Sources:
    """The pictures that a call starts from; white in `mask`, of mode L, is made anew."""

    images: tuple[Image.Image, ...]
    mask: Image.Image | None = None

    @property
    def pixels(self) -> int:
        return sum(image.width * image.height for image in self.images)

    def small(self) -> "Sources":
        """The same in little, for whoever has to remember many."""
        images = [image.convert("RGB") for image in self.images]
        for image in images:
            image.thumbnail((256, 256))
        return Sources(tuple(images), self.mask)


@dataclass(frozen=True)
class Picture:
    """The bytes of a picture as they are served, and the type they are announced with."""

    body: bytes
    mime_type: str


class Painter:
    """Draws pictures from prompts and remembers the last ones. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cache: OrderedDict[_Key, bytes] = OrderedDict()
        self._cached_bytes = 0
        # A drawing holds some 100 MB while it is made, and keeps a core busy.
        self._easels = threading.Semaphore(cpu_count() or 1)

    def picture(
        self,
        prompt: str,
        *,
        width: int,
        height: int,
        seed: int,
        output_format: str,
        quality: int = 90,
        transparent: bool = False,
        plain: bool = False,
        grid: bool = False,
        flaws: Container[str] = (),
        sources: Sources | None = None,
    ) -> Picture:
        """The picture for a prompt: the same for the same arguments, in exactly the given size.

        `output_format` is png, jpeg or webp; `quality` (0-100) matters to the latter two. A
        `plain` picture is one flat colour and costs next to nothing. A `grid` shows four pictures
        of half the width and height: those of the seeds from 4 * `seed` on, in reading order (or
        four flat colours). `flaws` are names of faults;
        those that concern the picture itself are honoured. With `sources` their colours show: the
        first of them is seen through what is drawn, or around it where there is a mask, and the
        others along the lower edge.
        """
        mime_type = f"image/{output_format}"
        if "html_image" in flaws:
            return Picture(_HTML, "text/html")
        if "huge_image" in flaws:
            return Picture(_bomb(), "image/png")
        if "wrong_size" in flaws:
            width, height = width // 2, height // 2
        if plain:
            body = _plain(width, height, output_format, grid)
        else:
            key = (prompt, width, height, seed, output_format, quality, transparent, grid)
            body = self._remembered(key) or self._draw(key)
        if sources is not None:
            body = _encode(_over(sources, body), output_format, quality)
        if "truncated_image" in flaws:
            body = body[: len(body) * 6 // 10]
        if "corrupt_image" in flaws:
            body = _corrupt(body)
        return Picture(body, mime_type)

    def _remembered(self, key: _Key) -> bytes | None:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
            return self._cache.get(key)

    def _draw(self, key: _Key) -> bytes:
        # numpy costs a third of the time to start, and plain pictures never need it.
        from ops.sandbox.painting import paint

        prompt, width, height, seed, output_format, quality, transparent, grid = key
        with self._easels:
            if grid:
                four = range(4 * seed, 4 * seed + 4)
                image = _grid([paint(prompt, width // 2, height // 2, seed=s) for s in four])
            else:
                image = paint(prompt, width, height, seed=seed, transparent=transparent)
            body = _encode(image, output_format, quality)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = body
                self._cached_bytes += len(body)
            while self._cached_bytes > CACHE_BYTES:
                _, forgotten = self._cache.popitem(last=False)
                self._cached_bytes -= len(forgotten)
        return body


def read_source(data: bytes) -> Image.Image:
    """A picture that was sent, decoded. Raises BadSource when it is none."""
    try:
        image = Image.open(BytesIO(data), formats=["PNG", "JPEG", "WEBP"])
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise BadSource("not a picture that can be read") from error
    return image


def read_source_in_base64(text: str) -> Image.Image:
    """The same of a picture in base64, with or without `data:` before it. Raises BadSource."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return read_source(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise BadSource("not base64 of a picture that can be read") from error


def clear_in(mask: Image.Image) -> Image.Image | None:
    """White where a mask is fully transparent; None when it has no alpha channel."""
    if not mask.has_transparency_data:
        return None
    return mask.convert("RGBA").getchannel("A").point([255] + [0] * 255)


def _over(sources: Sources, body: bytes) -> Image.Image:
    with Image.open(BytesIO(body)) as file:
        drawn = file.convert("RGB")
    size = drawn.size
    first, *others = (image.convert("RGB") for image in sources.images)
    below = ImageOps.fit(first, size)
    if sources.mask is None:
        result = Image.blend(below, drawn, 0.4)
    else:
        result = Image.composite(drawn, below, ImageOps.fit(sources.mask, size))
    side = max(1, min(size) // 8)
    for number, other in enumerate(others):
        corner = (number * side % size[0], size[1] - side)
        result.paste(ImageOps.fit(other, (side, side)), corner)
    return result


def _encode(image: Image.Image, output_format: str, quality: int) -> bytes:
    stream = BytesIO()
    match output_format:
        case "png":
            image.save(stream, "PNG", compress_level=1)
        case "jpeg":
            image.save(stream, "JPEG", quality=min(quality, 95))
        case _:
            image.save(stream, "WEBP", quality=quality, method=0)
    return stream.getvalue()


@lru_cache(maxsize=64)
def _plain(width: int, height: int, output_format: str, grid: bool) -> bytes:
    if grid:
        colours = ((66, 99, 140), (140, 66, 99), (99, 140, 66), (200, 180, 60))
        image = _grid([Image.new("RGB", (width // 2, height // 2), c) for c in colours])
    else:
        image = Image.new("RGB", (width, height), (66, 99, 140))
    return _encode(image, output_format, 90)


def _grid(four: list[Image.Image]) -> Image.Image:
    width, height = four[0].size
    image = Image.new("RGB", (2 * width, 2 * height))
    for number, picture in enumerate(four):
        image.paste(picture, (number % 2 * width, number // 2 * height))
    return image


def _corrupt(body: bytes) -> bytes:
    start, end = len(body) * 4 // 10, len(body) * 6 // 10
    return body[:start] + bytes(byte ^ 0x5A for byte in body[start:end]) + body[end:]


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    """A valid black-and-white PNG, some 30 kB that unpack to 268 million pixels."""
    row = b"\0" * (1 + BOMB_SIDE // 8)
    compressor = zlib.compressobj(9)
    data = b"".join(compressor.compress(row) for _ in range(BOMB_SIDE)) + compressor.flush()
    header = pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        pack(">I", len(content)) + name + content + pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
