"""A picture in the making: numpy colour, analytic edges, soft light."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ops.sandbox.painting.prompt import Color

Array = npt.NDArray[Any]
Points = list[tuple[float, float]]


def mix(a: Color, b: Color, share: float) -> Color:
    """From colour a (share 0) to colour b (share 1)."""
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )


def tint(color: Color, light: Color) -> Color:
    """The colour as it looks in that light."""
    return (
        min(1.0, color[0] * light[0]),
        min(1.0, color[1] * light[1]),
        min(1.0, color[2] * light[2]),
    )


class Canvas:
    """Colours from 0 to 1. Lengths are pixels; `unit` is the shorter side."""

    def __init__(self, width: int, height: int, rng: np.random.Generator) -> None:
        self.width, self.height, self.rng = width, height, rng
        self.unit = min(width, height)
        self.pixels: Array = np.zeros((height, width, 3), np.float32)
        self._x: Array = np.arange(width, dtype=np.float32) + 0.5
        self._y: Array = np.arange(height, dtype=np.float32) + 0.5

    def gradient(
        self, stops: list[tuple[float, Color]], top: float = 0.0, bottom: float | None = None
    ) -> None:
        """Fill the rows from top to bottom with colours at heights from 0 to 1 between them."""
        end = self.height if bottom is None else bottom
        first, last = self._rows(top, end)
        where = (self._y[first:last] - top) / max(1.0, end - top)
        places = [place for place, _ in stops]
        for channel in range(3):
            column = np.interp(where, places, [color[channel] for _, color in stops])
            self.pixels[first:last, :, channel] = column[:, None]

    def blend(self, mask: Array, color: Color | Array, top: int = 0) -> None:
        """Cover the rows from `top` with a colour, as much as the mask (0 to 1) says."""
        rows = self.pixels[top : top + len(mask)]
        share = np.asarray(mask, np.float32)[..., None]
        rows += (np.asarray(color, np.float32) - rows) * share

    def ridge(self, profile: Array, color: Color, foot: Color, depth: float) -> None:
        """Cover all below the profile, fading from `color` at its edge to `foot` at `depth`."""
        top = max(0, int(profile.min()) - 1)
        if top >= self.height:
            return
        below = self._y[top:, None] - profile[None, :]
        share = np.clip(below / max(1.0, depth), 0, 1)[..., None]
        colors = np.asarray(color, np.float32) * (1 - share) + np.asarray(foot, np.float32) * share
        self.blend(np.clip(below + 0.5, 0, 1), colors, top)

    def glow(
        self, x: float, y: float, radius: float, color: Color, strength: float, flat: float = 1.0
    ) -> None:
        """Add soft light; `flat` below 1 makes it wider than high."""
        reach = radius * 2.6  # beyond it the light is too faint to be seen
        first, last = self._rows(y - reach * flat, y + reach * flat)
        left, right = max(0, int(x - reach)), max(0, min(self.width, int(x + reach) + 1))
        across = np.exp(-(((self._x[left:right] - x) / radius) ** 2))
        down = np.exp(-(((self._y[first:last] - y) / (radius * flat)) ** 2))
        light = (down * strength)[:, None] * across[None, :]
        part = self.pixels[first:last, left:right]
        part += (1 - part) * light[..., None] * np.asarray(color, np.float32)

    def disc(self, x: float, y: float, radius: float, color: Color, share: float = 1.0) -> None:
        first, last = self._rows(y - radius - 1, y + radius + 1)
        if first >= last:
            return
        distance = np.hypot(self._x[None, :] - x, self._y[first:last, None] - y)
        self.blend(np.clip(radius - distance + 0.5, 0, 1) * np.float32(share), color, first)

    def stamp(self, shapes: "Shapes", color: Color, share: float = 1.0) -> None:
        """Cover what the shapes cover."""
        mask = shapes.mask()
        if mask is not None:
            self.blend(mask * np.float32(share), color, shapes.top)

    def noise_profile(self, level: float, swing: float, knots: float, octaves: int = 4) -> Array:
        """A rolling line around a height; `knots` is how many bends it has over the unit."""
        line = np.zeros(self.width, np.float32)
        for octave in range(octaves):
            count = max(2, int(knots * 2**octave * self.width / self.unit)) + 2
            heights = self.rng.uniform(-1, 1, count)
            position = np.linspace(0, count - 1.001, self.width)
            index = position.astype(int)
            part = position - index
            part = part * part * (3 - 2 * part)
            bend = heights[index] * (1 - part) + heights[np.minimum(index + 1, count - 1)] * part
            line += (bend * 0.5**octave).astype(np.float32)
        return level + line * np.float32(swing)

    def clouds(self, cells: float, octaves: int = 4, flat: float = 0.45) -> Array:
        """Soft noise from 0 to 1 over the whole canvas, wider than high when `flat` is below 1."""
        total: Any = np.zeros((self.height, self.width), np.float32)
        for octave in range(octaves):
            across = max(2, round(cells * 2**octave * self.width / self.unit))
            down = max(2, round(cells * 2**octave * self.height / self.unit / flat))
            grid = self.rng.uniform(0, 1, (down, across)).astype(np.float32)
            layer = Image.fromarray(grid).resize(
                (self.width, self.height), Image.Resampling.BICUBIC
            )
            total += np.asarray(layer) * np.float32(0.5**octave)
        low, high = float(total.min()), float(total.max())
        return np.asarray((total - low) / max(1e-6, high - low), np.float32)

    def band(self, y: float, spread: float) -> Array:
        """A soft horizontal band, 1 at its middle."""
        return np.asarray(np.exp(-(((self._y - y) / spread) ** 2)), np.float32)

    def vignette(self, strength: float) -> None:
        across = ((self._x / self.width - 0.5) * 2) ** 2
        down = ((self._y / self.height - 0.5) * 2) ** 2
        shade = 1 - strength * np.clip((across[None, :] + down[:, None]) / 2, 0, 1) ** 1.5
        self.pixels *= shade[..., None].astype(np.float32)

    def paste(self, sprite: Array, left: int, top: int) -> None:
        """Lay a sprite (height, width, RGBA) on; what sticks out is cut off."""
        x0, y0 = max(0, left), max(0, top)
        x1 = min(self.width, left + sprite.shape[1])
        y1 = min(self.height, top + sprite.shape[0])
        if x0 >= x1 or y0 >= y1:
            return
        part = sprite[y0 - top : y1 - top, x0 - left : x1 - left]
        target = self.pixels[y0:y1, x0:x1]
        target += (part[..., :3] - target) * part[..., 3:]

    def image(self) -> Image.Image:
        return Image.fromarray((np.clip(self.pixels, 0, 1) * 255 + 0.5).astype(np.uint8))

    def _rows(self, top: float, bottom: float) -> tuple[int, int]:
        return max(0, int(top)), max(0, min(self.height, int(np.ceil(bottom))))


class Shapes:
    """Polygons drawn twice as large into a strip of the canvas, for smooth edges."""

    SCALE = 2

    def __init__(self, canvas: Canvas, top: float = 0.0, bottom: float | None = None) -> None:
        end = canvas.height if bottom is None else bottom
        self.top = max(0, int(top))
        self._size = (canvas.width, max(0, min(canvas.height, int(end)) - self.top))
        big = (max(1, self._size[0] * self.SCALE), max(1, self._size[1] * self.SCALE))
        self._image = Image.new("L", big)
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: Points, share: float = 1.0) -> None:
        self._draw.polygon([self._at(point) for point in points], fill=round(255 * share))

    def line(self, points: Points, width: float, share: float = 1.0) -> None:
        self._draw.line(
            [self._at(point) for point in points],
            fill=round(255 * share),
            width=max(1, round(width * self.SCALE)),
            joint="curve",
        )

    def ellipse(self, x: float, y: float, rx: float, ry: float, share: float = 1.0) -> None:
        corners = [self._at((x - rx, y - ry)), self._at((x + rx, y + ry))]
        self._draw.ellipse(corners, fill=round(255 * share))

    def mask(self) -> Array | None:
        """How much each pixel of the strip is covered; None for a strip off the canvas."""
        if not self._size[1]:
            return None
        return np.asarray(self._image.reduce(self.SCALE), np.float32) / np.float32(255)

    def _at(self, point: tuple[float, float]) -> tuple[float, float]:
        return point[0] * self.SCALE, (point[1] - self.top) * self.SCALE
