"""Draws a prompt, offline and the same every time: places, weather and figures of our own."""

import hashlib
from dataclasses import replace

import numpy as np
from PIL import Image

from ops.sandbox.painting import places
from ops.sandbox.painting.abstract import paint_abstract
from ops.sandbox.painting.canvas import Array, Canvas, mix, tint
from ops.sandbox.painting.figures import FIGURES, WORDS, Figure
from ops.sandbox.painting.pen import Pen
from ops.sandbox.painting.places import Mood
from ops.sandbox.painting.prompt import Color, Wish, read

MOST_FIGURES = 3


def paint(
    prompt: str, width: int, height: int, *, seed: int = 0, transparent: bool = False
) -> Image.Image:
    """A picture in exactly that size; the same for the same arguments.

    With `transparent` only the figures are drawn, in mode RGBA; else the mode is RGB.
    """
    wish = read(prompt, WORDS)
    rng = np.random.default_rng(list(hashlib.sha256(f"{seed} {prompt}".encode()).digest()))
    canvas = Canvas(width, height, rng)
    place = _place_for(wish)
    if place is None and not transparent:
        paint_abstract(canvas, wish.colors)
        return canvas.image()
    side = float(rng.choice([0.24, 0.27, 0.73, 0.76]))
    mood = places.make_mood(wish.time, wish.weather, side)
    if transparent:
        return _cut_out(canvas, wish, replace(mood, light=(1.0, 1.0, 1.0)))
    assert place is not None
    _paint_place(canvas, place, mood, wish)
    _paint_figures(canvas, place, mood, wish)
    if place not in places.WEATHERLESS:
        places.paint_weather(canvas, mood, wish.weather, front=True)
    canvas.vignette(0.30)
    return canvas.image()


def _place_for(wish: Wish) -> str | None:
    """Where the scene plays; None when the prompt gives nothing to see."""
    if wish.place is not None:
        return wish.place
    if wish.is_abstract:
        return None
    if wish.subjects:
        return FIGURES[wish.subjects[0][0]].home
    return "meadow" if wish.time or wish.weather else None


def _paint_place(canvas: Canvas, place: str, mood: Mood, wish: Wish) -> None:
    if place not in places.SKYLESS:
        cloudy = 1.0 if "storm" in wish.weather else 0.8 if mood.wet else 0.42
        horizon = 0.62 if place in ("sea", "beach") else 0.66
        hidden = bool(mood.wet and wish.time not in ("sunset", "dawn"))
        places.paint_sky(canvas, mood, horizon, cloudy=cloudy, plain=hidden)
        if "storm" in wish.weather:
            places.paint_lightning(canvas)
    places.PLACES[place](canvas, mood)
    if place not in places.WEATHERLESS:
        places.paint_weather(canvas, mood, wish.weather, front=False)


def _paint_figures(canvas: Canvas, place: str, mood: Mood, wish: Wish) -> None:
    shown = wish.subjects[:MOST_FIGURES]
    # Large things stand behind small ones, and the first one named gets the middle.
    order = sorted(range(len(shown)), key=lambda index: -FIGURES[shown[index][0]].height)
    spots = {1: (0.5,), 2: (0.36, 0.70), 3: (0.50, 0.20, 0.80)}.get(len(shown), ())
    for index in order:
        name, color = shown[index]
        figure = FIGURES[name]
        shrink = 1.0 if len(shown) == 1 else 0.80
        wander = canvas.rng.uniform(-0.03, 0.03)
        _place_figure(canvas, place, mood, figure, color, spots[index] + wander, shrink)


def _place_figure(
    canvas: Canvas, place: str, mood: Mood, figure: Figure, color: Color | None, x: float,
    shrink: float,
) -> None:  # fmt: skip
    tall = canvas.unit * figure.height * shrink
    sprite = _sprite(figure, color, tall, mood)
    stance = _stance_in(place, figure.stance)
    middle = canvas.width * x
    feet = canvas.height * {
        "ground": places.GROUND,
        "table": places.GROUND + 0.02,
        "water": places.WATERLINE,
    }.get(stance, places.SKYWARD)
    if stance == "air":
        feet += tall / 2
    if stance in ("ground", "table"):
        _shadow(canvas, middle, feet, tall * figure.aspect, mood)
    if stance == "water":
        _mirrored(canvas, sprite, middle, feet, mood)
    canvas.paste(sprite, round(middle - sprite.shape[1] / 2), round(feet) - sprite.shape[0])
    if figure is FIGURES["lighthouse"]:
        _beam(canvas, middle, feet - tall * 0.852, mood)


def _sprite(figure: Figure, color: Color | None, tall: float, mood: Mood) -> Array:
    pen = Pen(round(tall * figure.aspect), round(tall))
    figure.draw(pen, color or figure.color)
    rim = mix(mood.sun, (1.0, 1.0, 1.0), 0.2)
    return pen.sprite(mix(mood.light, (1.0, 1.0, 1.0), 0.22), rim, mood.sun_side * 2 - 1)


def _stance_in(place: str, stance: str) -> str:
    """Where a figure goes that is not at home: a robot at sea stands on the waves."""
    if stance == "air":
        return stance
    if place == "underwater":
        return "air" if stance == "water" else "ground"
    if place == "sea":
        return "water"
    return "ground" if stance == "water" else stance


def _shadow(canvas: Canvas, x: float, y: float, wide: float, mood: Mood) -> None:
    lean = wide * 0.16 * (-1 if mood.sun_side > 0.5 else 1)
    across = np.exp(
        -(((np.arange(canvas.width, dtype=np.float32) - x - lean) / (wide * 0.36)) ** 2)
    )
    down = canvas.band(y - wide * 0.015, wide * 0.075)
    mask = down[:, None] * across[None, :] * np.float32(0.62)
    canvas.blend(mask, tint(mood.high, (0.12, 0.12, 0.16)))


def _mirrored(canvas: Canvas, sprite: Array, x: float, y: float, mood: Mood) -> None:
    """What floats is seen again in the water, shorter and broken by the waves."""
    mirror = sprite[::-2].copy()
    rows = np.arange(len(mirror), dtype=np.float32)
    broken = np.clip(0.62 - 0.7 * rows / max(1, len(mirror)), 0, 1)
    ripple = 0.6 + 0.4 * np.sin(rows / (1.5 + rows * 0.02))
    mirror[..., 3] *= (broken * ripple)[:, None]
    mirror[..., :3] = mirror[..., :3] * np.float32(0.6) + np.asarray(
        mood.low, np.float32
    ) * np.float32(0.2)
    for index in range(len(mirror)):
        shift = round(float(np.sin(index * 0.45)) * (1 + index * 0.03) * canvas.unit / 500)
        mirror[index] = np.roll(mirror[index], shift, axis=0)
    canvas.paste(mirror, round(x - sprite.shape[1] / 2), round(y) - 2)


def _beam(canvas: Canvas, x: float, y: float, mood: Mood) -> None:
    bright = 0.75 if mood.is_night or mood.wet else 0.35
    across = (np.arange(canvas.width, dtype=np.float32) - x)[None, :] / canvas.unit
    down = (np.arange(canvas.height, dtype=np.float32) - y)[:, None] / canvas.unit
    for side, tilt in ((1, -0.10), (-1, -0.10)):
        reach = np.clip(across * side, 0, None)
        half = 0.012 + reach * 0.11
        core = np.exp(-(((down - across * tilt) / half) ** 2))
        mask = core * np.exp(-reach * 1.6) * (across * side > 0) * bright * 0.62
        canvas.blend(mask, (1.0, 0.93, 0.70))
    canvas.glow(x, y, canvas.unit * 0.075, (1.0, 0.92, 0.62), bright)


def _cut_out(canvas: Canvas, wish: Wish, mood: Mood) -> Image.Image:
    """The figures alone, or without any a medallion of the abstract."""
    sheet = np.zeros((canvas.height, canvas.width, 4), np.float32)
    if not wish.subjects:
        paint_abstract(canvas, wish.colors)
        y, x = np.mgrid[0 : canvas.height, 0 : canvas.width]
        distance = np.hypot(x - canvas.width / 2, y - canvas.height / 2)
        sheet[..., :3] = canvas.pixels
        sheet[..., 3] = np.clip(canvas.unit * 0.46 - distance, 0, 1)
    for index, (name, color) in enumerate(wish.subjects[:MOST_FIGURES]):
        figure = FIGURES[name]
        count = min(MOST_FIGURES, len(wish.subjects))
        tall = min(canvas.height * 0.9, canvas.width * 0.9 / count / figure.aspect)
        sprite = _sprite(figure, color, tall, mood)
        left = round(canvas.width * (index + 0.5) / count - sprite.shape[1] / 2)
        top = round((canvas.height - sprite.shape[0]) / 2)
        sheet[max(0, top) : top + sprite.shape[0], max(0, left) : left + sprite.shape[1]] = sprite
    return Image.fromarray((np.clip(sheet, 0, 1) * 255 + 0.5).astype(np.uint8))
