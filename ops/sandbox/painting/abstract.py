"""Paints what has no words for figures or places: a small random network seen as colour."""

import math

import numpy as np
from PIL import Image

from ops.sandbox.painting.canvas import Array, Canvas, mix
from ops.sandbox.painting.prompt import Color

PALETTES: list[list[Color]] = [
    [(0.07, 0.10, 0.25), (0.16, 0.37, 0.60), (0.55, 0.76, 0.80), (0.98, 0.86, 0.62)],
    [(0.17, 0.07, 0.24), (0.60, 0.18, 0.40), (0.96, 0.50, 0.36), (1.0, 0.86, 0.62)],
    [(0.03, 0.17, 0.18), (0.10, 0.44, 0.40), (0.62, 0.78, 0.48), (0.98, 0.94, 0.74)],
    [(0.12, 0.12, 0.20), (0.34, 0.30, 0.55), (0.78, 0.58, 0.78), (0.98, 0.88, 0.86)],
    [(0.20, 0.09, 0.07), (0.62, 0.26, 0.12), (0.92, 0.64, 0.26), (0.99, 0.93, 0.78)],
]


def paint_abstract(canvas: Canvas, colors: tuple[Color, ...]) -> None:
    """Fill the canvas with folds of light in these colours, or in some that go together."""
    palette = _palette(canvas, colors)
    field, folds = _network(canvas)
    stops = np.linspace(0, 1, len(palette))
    for channel in range(3):
        column = [color[channel] for color in palette]
        canvas.pixels[..., channel] = np.interp(field, stops, column)
    # Folds catch the light like cloth: bright on the side towards it, dark behind.
    slope_y, slope_x = np.gradient(folds)
    relief = np.clip((slope_x - slope_y) * canvas.unit * 0.10, -1, 1)
    canvas.blend((np.clip(relief, 0, 1) * 0.42), palette[-1])
    canvas.blend((np.clip(-relief, 0, 1) * 0.50), palette[0])
    for _ in range(6):
        x, y = canvas.rng.uniform(0, canvas.width), canvas.rng.uniform(0, canvas.height)
        radius = canvas.unit * canvas.rng.uniform(0.06, 0.20)
        canvas.glow(x, y, radius, palette[-1], canvas.rng.uniform(0.15, 0.45))
    canvas.vignette(0.35)


def _palette(canvas: Canvas, colors: tuple[Color, ...]) -> list[Color]:
    if not colors:
        return PALETTES[int(canvas.rng.integers(len(PALETTES)))]
    dark, light = (0.05, 0.05, 0.12), (0.98, 0.95, 0.88)
    middle = [*colors[:3]]
    return [mix(dark, middle[0], 0.30), *middle, mix(light, middle[-1], 0.45), light]


def _network(canvas: Canvas) -> tuple[Array, Array]:
    """Two fields from 0 to 1: the colours, and the folds that run through them."""
    rng = canvas.rng
    # Half as many points in each direction: the network is smooth, and it costs the most.
    rows, columns = max(2, canvas.height // 2), max(2, canvas.width // 2)
    y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None] * canvas.height / canvas.unit
    x = np.linspace(-1, 1, columns, dtype=np.float32)[None, :] * canvas.width / canvas.unit
    x, y = np.broadcast_to(x, (rows, columns)), np.broadcast_to(y, (rows, columns))
    turn = rng.uniform(0, 2 * math.pi)
    layer = [x, y, np.hypot(x - rng.uniform(-0.5, 0.5), y - rng.uniform(-0.5, 0.5)),
             x * math.cos(turn) + y * math.sin(turn)]  # fmt: skip
    for depth, width in enumerate((6, 5, 2)):
        weights = rng.normal(0, 1.5 if depth == 0 else 1.15, (width, len(layer)))
        bias = rng.uniform(-1, 1, width)
        shape = np.sin if depth != 1 else np.tanh
        layer = [
            shape(sum(float(w) * part for w, part in zip(row, layer, strict=True)) + float(b))
            for row, b in zip(weights, bias, strict=True)
        ]
    return _stretched(layer[0], canvas), _stretched(np.sin(layer[1] * 4 + layer[0] * 2), canvas)


def _stretched(field: Array, canvas: Canvas) -> Array:
    low, high = float(field.min()), float(field.max())
    scaled = np.asarray((field - low) / max(1e-6, high - low), np.float32)
    full = Image.fromarray(scaled).resize((canvas.width, canvas.height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(full, np.float32), 0, 1)
