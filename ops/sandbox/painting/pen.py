"""Draws one figure with shaded shapes, and lights it for the scene it stands in."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ops.sandbox.painting.canvas import Array, Points, mix
from ops.sandbox.painting.prompt import Color

WHITE: Color = (1.0, 1.0, 1.0)
BLACK: Color = (0.0, 0.0, 0.0)


class Pen:
    """A sheet for one figure. x and y go from 0 to 1 over it, y downwards.

    Each shape is a little lighter towards its upper left and darker towards its lower right.
    """

    def __init__(self, width: int, height: int) -> None:
        self._scale = 3 if max(width, height) <= 700 else 2
        self._size = (max(1, width), max(1, height))
        self._sheet = Image.new("RGBA", (self._size[0] * self._scale, self._size[1] * self._scale))

    def polygon(self, points: Points, color: Color, shade: float = 0.16) -> None:
        """Fill a shape with straight edges."""
        corners = [self._at(x, y) for x, y in points]
        left, top = (math.floor(min(corner[axis] for corner in corners)) for axis in (0, 1))
        right, bottom = (math.ceil(max(corner[axis] for corner in corners)) for axis in (0, 1))
        size = (max(1, right - left), max(1, bottom - top))
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in corners], fill=255)
        self._sheet.paste(_shaded(size, color, shade), (left, top), mask)

    def blob(self, points: Points, color: Color, shade: float = 0.16) -> None:
        """Fill the smooth closed curve through the points."""
        self.polygon(_smooth(points), color, shade)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, color: Color, shade: float = 0.16
    ) -> None:
        turns = np.linspace(0, 2 * math.pi, 72, endpoint=False)
        circle = [(x + rx * math.cos(turn), y + ry * math.sin(turn)) for turn in turns]
        self.polygon(circle, color, shade)

    def line(self, points: Points, width: float, color: Color) -> None:
        """A round-ended stroke; `width` is in heights of the sheet."""
        thickness = max(1.0, width * self._sheet.height)
        corners = [self._at(x, y) for x, y in points]
        draw = ImageDraw.Draw(self._sheet)
        fill = _rgb(color)
        draw.line(corners, fill=fill, width=round(thickness), joint="curve")
        for x, y in (corners[0], corners[-1]):
            radius = thickness / 2
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    def curve(self, points: Points, width: float, color: Color) -> None:
        """A smooth stroke through the points."""
        self.line(_smooth(points, closed=False), width, color)

    def both(self, points: Points, color: Color, shade: float = 0.16, smooth: bool = True) -> None:
        """A shape and its mirror image on the other side of the middle."""
        for side in (points, [(1 - x, y) for x, y in points]):
            (self.blob if smooth else self.polygon)(side, color, shade)

    def sprite(self, light: Color, rim: Color, side: float) -> Array:
        """The figure in that light, with a bright edge towards `side` (-1 left, 1 right)."""
        sheet = self._sheet.reduce(self._scale)
        alpha = sheet.getchannel("A")
        radius = max(1.0, sheet.height * 0.035)
        blurred = alpha.filter(ImageFilter.GaussianBlur(radius))
        inflated: Array = np.asarray(blurred, np.float32) / 255
        slope_y, slope_x = np.gradient(inflated, axis=0), np.gradient(inflated, axis=1)
        # Slopes fall off outside the figure; on its lit side they point away from the light.
        facing = np.clip((-slope_x * side + slope_y * 0.7) * radius * 2, -1, 1)
        pixels = np.asarray(sheet, np.float32) / 255
        colors = pixels[..., :3] * np.asarray(light, np.float32)
        colors = colors * (1 - 0.42 * np.clip(-facing, 0, 1))[..., None]
        edge = np.clip(facing, 0, 1)[..., None] * np.float32(0.5)
        colors = colors + (np.asarray(rim, np.float32) - colors) * edge
        lit: Array = np.concatenate([colors, pixels[..., 3:]], axis=2).astype(np.float32)
        return lit

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return x * self._sheet.width, y * self._sheet.height


def _shaded(size: tuple[int, int], color: Color, shade: float) -> Image.Image:
    corners = Image.new("RGB", (2, 2))
    corners.putpixel((0, 0), _rgb(mix(color, WHITE, shade)))
    corners.putpixel((1, 0), _rgb(mix(color, WHITE, shade * 0.3)))
    corners.putpixel((0, 1), _rgb(mix(color, BLACK, shade * 0.5)))
    corners.putpixel((1, 1), _rgb(mix(color, BLACK, shade * 1.2)))
    return corners.resize(size, Image.Resampling.BILINEAR).convert("RGBA")


def _smooth(points: Points, *, closed: bool = True, steps: int = 10) -> Points:
    """A Catmull-Rom curve through the points."""
    count = len(points)
    curve: Points = []
    for index in range(count if closed else count - 1):
        if closed:
            p0, p1, p2, p3 = (points[(index + offset) % count] for offset in (-1, 0, 1, 2))
        else:
            p0, p1, p2, p3 = (
                points[min(count - 1, max(0, index + offset))] for offset in (-1, 0, 1, 2)
            )
        for step in range(steps):
            t = step / steps
            x, y = (
                0.5
                * (
                    2 * p1[axis]
                    + (p2[axis] - p0[axis]) * t
                    + (2 * p0[axis] - 5 * p1[axis] + 4 * p2[axis] - p3[axis]) * t * t
                    + (3 * p1[axis] - p0[axis] - 3 * p2[axis] + p3[axis]) * t**3
                )
                for axis in (0, 1)
            )
            curve.append((x, y))
    if not closed:
        curve.append(points[-1])
    return curve


def _rgb(color: Color) -> tuple[int, int, int]:
    red, green, blue = (round(255 * min(1.0, max(0.0, channel))) for channel in color)
    return red, green, blue
