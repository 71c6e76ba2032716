"""Paints the place a scene plays in: sky, light, distance and ground."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ops.sandbox.painting.canvas import Array, Canvas, Points, Shapes, mix, tint
from ops.sandbox.painting.prompt import Color

WHITE: Color = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Mood:
    """The light of a scene: what the hour and the weather make of every colour."""

    high: Color
    middle: Color
    low: Color
    """The sky from its top to the horizon; `low` is also the colour of distance."""
    light: Color
    """What things are multiplied with."""
    sun: Color
    sun_height: float
    """Of the sun or moon: 0 at the top of the picture, 1 at its bottom."""
    sun_side: float
    """Where it stands from the left: 0 to 1. Figures are lit from there."""
    is_night: bool = False
    mist: float = 0.25
    wet: bool = False


HOURS = {
    "day": Mood(
        (0.20, 0.47, 0.80), (0.47, 0.71, 0.91), (0.84, 0.92, 0.95),
        (1.0, 1.0, 0.98), (1.0, 0.97, 0.86), 0.16, 0.76,
    ),
    "dawn": Mood(
        (0.36, 0.45, 0.70), (0.83, 0.66, 0.74), (1.0, 0.87, 0.72),
        (0.95, 0.86, 0.84), (1.0, 0.90, 0.72), 0.50, 0.70,
    ),
    "sunset": Mood(
        (0.17, 0.16, 0.40), (0.78, 0.34, 0.42), (1.0, 0.70, 0.36),
        (0.88, 0.68, 0.62), (1.0, 0.80, 0.46), 0.53, 0.70,
    ),
    "night": Mood(
        (0.02, 0.035, 0.11), (0.06, 0.11, 0.26), (0.22, 0.32, 0.48),
        (0.47, 0.54, 0.76), (0.94, 0.95, 0.88), 0.19, 0.74, is_night=True,
    ),
}  # fmt: skip


def make_mood(time: str | None, weather: frozenset[str], side: float) -> Mood:
    """The light at that hour in that weather, coming from that side."""
    mood = replace(HOURS[time or "day"], sun_side=side)
    if weather & {"storm", "rain"}:
        slate: Color = (0.13, 0.16, 0.23) if mood.is_night else (0.24, 0.28, 0.35)
        share = 0.72 if "storm" in weather else 0.6
        low_share = share * (0.35 if time in ("sunset", "dawn") else 0.75)
        mood = replace(
            mood,
            high=mix(mood.high, tint(slate, (0.6, 0.6, 0.7)), share),
            middle=mix(mood.middle, slate, share),
            low=mix(mood.low, mix(slate, WHITE, 0.25), low_share),
            light=tint(mood.light, (0.76, 0.80, 0.88)),
            mist=0.45,
            wet=True,
        )
    if weather & {"mist", "snowfall"}:
        mood = replace(
            mood,
            high=mix(mood.high, mood.middle, 0.5),
            middle=mix(mood.middle, mood.low, 0.4),
            mist=0.75,
        )
    return mood


# What a place promises its painter: where figures stand, float and lie, as shares of the height.
GROUND, WATERLINE, SKYWARD = 0.88, 0.80, 0.46


def paint_sky(canvas: Canvas, mood: Mood, horizon: float, *, cloudy: float, plain: bool) -> None:
    """The sky down to the horizon (a share of the height), with what stands in it."""
    h, u = canvas.height, canvas.unit
    stops = [(0.0, mood.high), (0.58, mood.middle), (1.0, mood.low)]
    canvas.gradient(stops, 0, h * horizon)
    canvas.gradient([(0.0, mood.low), (1.0, mood.low)], h * horizon)
    x, y = canvas.width * mood.sun_side, h * min(mood.sun_height, horizon - 0.05)
    if mood.is_night and not plain:
        _stars(canvas, h * horizon, 260)
    if not plain:
        canvas.glow(x, y, u * 0.55, mood.sun, 0.35 if mood.is_night else 0.5)
        canvas.glow(x, y, u * 0.16, mood.sun, 0.55)
        radius = u * (0.062 if mood.is_night else 0.055)
        canvas.disc(x, y, radius, mix(mood.sun, WHITE, 0.45))
        if mood.is_night:
            _craters(canvas, x, y, radius)
    if cloudy > 0:
        _clouds(canvas, mood, horizon, cloudy)


def forest(canvas: Canvas, mood: Mood) -> None:
    w, h, u, rng = canvas.width, canvas.height, canvas.unit, canvas.rng
    green = tint((0.13, 0.26, 0.18), mood.light)
    rows = 5
    for row in range(rows):
        near = row / (rows - 1)
        color = mix(mood.low, green, 0.22 + 0.62 * near)
        base = h * (0.56 + 0.25 * near)
        tall = u * (0.17 + 0.42 * near)
        shapes = Shapes(canvas, base - tall * 1.25, base + u * 0.06)
        step = tall * (0.26 + 0.10 * near)
        for place in np.arange(-step, w + step, step):
            x = float(place + rng.uniform(-0.4, 0.4) * step)
            # The nearest rows leave a clearing for the figure.
            if near > 0.6 and abs(x - w / 2) < u * (0.30 * near):
                continue
            _conifer(shapes, x, base + u * 0.03, tall * rng.uniform(0.7, 1.15), rng)
        canvas.stamp(shapes, color)
        profile = canvas.noise_profile(base, u * 0.012, 3)
        canvas.ridge(profile, color, mix(color, mood.low, 0.35), u * 0.12)
        _mist(canvas, mood, base, u * 0.10, 0.85 - 0.45 * near)
    ground = tint((0.20, 0.30, 0.16), mood.light)
    profile = canvas.noise_profile(h * 0.80, u * 0.015, 2)
    canvas.ridge(profile, mix(ground, mood.low, 0.30), tint(ground, (0.5, 0.5, 0.55)), u * 0.22)
    _grass(canvas, mix(ground, WHITE, 0.12), h * 0.81, 420)
    for side in (0.03, 0.15, 0.88, 0.985):
        _trunk(canvas, w * side, u * rng.uniform(0.035, 0.055), tint(green, (0.55, 0.5, 0.55)))


def mountains(canvas: Canvas, mood: Mood) -> None:
    h, u = canvas.height, canvas.unit
    rock = tint((0.36, 0.38, 0.46), mood.light)
    for row in range(3):
        near = row / 2
        color = mix(mood.low, rock, 0.30 + 0.35 * near)
        profile = _crags(canvas, h * (0.47 + 0.10 * near), u * (0.30 - 0.06 * row), 3 + row)
        canvas.ridge(profile, color, mix(color, mood.low, 0.55), u * 0.30)
        _snowcaps(canvas, profile, h * (0.40 + 0.09 * near), mix(mood.low, WHITE, 0.55), mood)
        _mist(canvas, mood, h * (0.60 + 0.05 * row), u * 0.06, 0.8)
    green = tint((0.25, 0.42, 0.22), mood.light)
    _hill(canvas, mood, 0.66, mix(mood.low, green, 0.6), 1.5)
    _pines(canvas, mix(mood.low, tint(green, (0.5, 0.6, 0.55)), 0.8), 0.69, 0.10, 26)
    _hill(canvas, mood, 0.74, green, 1.2)
    _grass(canvas, mix(green, WHITE, 0.15), h * 0.77, 420)
    _flowers(canvas, mood, h * 0.80, 60)


def meadow(canvas: Canvas, mood: Mood) -> None:
    h = canvas.height
    green = tint((0.38, 0.58, 0.24), mood.light)
    _hill(canvas, mood, 0.54, mix(mood.low, tint((0.30, 0.48, 0.42), mood.light), 0.45), 2)
    _hill(canvas, mood, 0.60, mix(mood.low, green, 0.55), 1.6)
    _pines(canvas, mix(mood.low, tint((0.16, 0.34, 0.18), mood.light), 0.75), 0.63, 0.08, 22)
    _hill(canvas, mood, 0.67, mix(mood.low, green, 0.85), 1.3)
    _hill(canvas, mood, 0.75, green, 1.0)
    _grass(canvas, mix(green, (1.0, 1.0, 0.6), 0.22), h * 0.77, 700)
    _flowers(canvas, mood, h * 0.79, 130)


def snow(canvas: Canvas, mood: Mood) -> None:
    h = canvas.height
    white = tint((0.90, 0.94, 1.0), mix(mood.light, WHITE, 0.25))
    blue = tint((0.62, 0.72, 0.88), mood.light)
    profile = _crags(canvas, h * 0.52, canvas.unit * 0.16, 4)
    canvas.ridge(profile, mix(mood.low, blue, 0.5), mix(mood.low, white, 0.5), canvas.unit * 0.2)
    for level, count, tall in ((0.62, 20, 0.13), (0.69, 12, 0.22)):
        canvas.ridge(
            canvas.noise_profile(h * level, canvas.unit * 0.03, 1.5), white, blue, h * 0.14
        )
        _pines(canvas, mix(tint((0.20, 0.34, 0.34), mood.light), mood.low, 0.3), level + 0.025,
               tall, count)  # fmt: skip
    canvas.ridge(canvas.noise_profile(h * 0.76, canvas.unit * 0.025, 1), white, blue, h * 0.30)


def desert(canvas: Canvas, mood: Mood) -> None:
    w, h, u = canvas.width, canvas.height, canvas.unit
    sand = tint((0.90, 0.66, 0.40), mood.light)
    for row in range(4):
        near = row / 3
        lit = mix(mood.low, sand, 0.45 + 0.55 * near)
        profile = canvas.noise_profile(h * (0.56 + 0.08 * row), u * 0.055, 1.3 - 0.2 * row, 2)
        canvas.ridge(profile, lit, mix(lit, tint(sand, (0.62, 0.52, 0.50)), 0.7), u * 0.20)
        # The side of a dune that looks away from the light lies in shadow.
        slope = np.gradient(profile) * (1 if mood.sun_side > 0.5 else -1)
        shade = np.clip(slope * 3, 0, 1)
        rows = np.arange(canvas.height, dtype=np.float32)[:, None]
        mask = np.clip(rows - profile[None, :], 0, 1) * shade[None, :]
        mask = mask * np.clip(1 - (rows - profile[None, :]) / (u * 0.14), 0, 1)
        canvas.blend((mask * 0.55), tint(lit, (0.50, 0.40, 0.42)))
    shapes = Shapes(canvas, h * 0.45)
    _cactus(shapes, w * 0.13, h * 0.80, u * 0.26)
    _cactus(shapes, w * 0.90, h * 0.74, u * 0.15)
    canvas.stamp(shapes, tint((0.20, 0.36, 0.24), mood.light))


def sea(canvas: Canvas, mood: Mood) -> None:
    h, u = canvas.height, canvas.unit
    _water(canvas, mood, h * 0.60, h)
    profile = canvas.noise_profile(h * 0.60, u * 0.02, 2.5)
    far = np.clip(np.minimum(profile, h * 0.60), 0, h)
    mask = np.zeros((h, canvas.width), np.float32)
    rows = np.arange(h, dtype=np.float32)[:, None]
    mask = np.clip(rows - far[None, :] + 0.5, 0, 1) * (rows < h * 0.60)
    canvas.blend(mask, mix(mood.low, mood.high, 0.35))


def beach(canvas: Canvas, mood: Mood) -> None:
    w, h, u = canvas.width, canvas.height, canvas.unit
    _water(canvas, mood, h * 0.58, h * 0.82)
    sand = tint((0.93, 0.82, 0.62), mood.light)
    profile = canvas.noise_profile(h * 0.76, u * 0.014, 1.5, 2)
    for offset, color in ((-0.012, mix(mood.low, WHITE, 0.6)), (0.0, mix(sand, mood.high, 0.25))):
        canvas.ridge(profile + np.float32(u * offset), color, color, 1)
    canvas.ridge(profile + np.float32(u * 0.02), sand, tint(sand, (0.78, 0.72, 0.68)), u * 0.25)
    shapes = Shapes(canvas)
    _palm(shapes, w * 0.10, h * 0.88, u * 0.58, 0.12 * u)
    canvas.stamp(shapes, tint((0.20, 0.30, 0.18), mood.light))


def city(canvas: Canvas, mood: Mood) -> None:
    w, h, u, rng = canvas.width, canvas.height, canvas.unit, canvas.rng
    stone = tint((0.34, 0.36, 0.46), mood.light)
    lamps: Color = (1.0, 0.80, 0.45)
    street = h * 0.80
    for row in range(3):
        near = row / 2
        shapes, windows = Shapes(canvas, 0, street), Shapes(canvas, 0, street)
        x = -u * rng.uniform(0, 0.1)
        while x < w:
            wide = u * rng.uniform(0.08, 0.15) * (0.8 + 0.5 * near)
            middle = abs(x + wide / 2 - w / 2) / (w / 2)
            tall = u * rng.uniform(0.22, 0.50) * (1.0 if row < 2 else 0.35 + 0.75 * middle)
            top = street - h * (0.10 - 0.05 * row) - tall
            _tower(shapes, windows, x, top, wide, street, u * (0.010 + 0.006 * near), rng, mood)
            x += wide * rng.uniform(1.0, 1.18)
        color = mix(mood.low, stone, 0.30 + 0.55 * near)
        canvas.stamp(shapes, color)
        lit = mood.is_night or mood.wet or mood.light[2] < 0.9
        canvas.stamp(windows, lamps if lit else mix(color, WHITE, 0.35), 0.85 if lit else 0.5)
        _mist(canvas, mood, street, u * 0.10, 0.55 - 0.25 * near)
    asphalt = tint((0.30, 0.31, 0.36), mood.light)
    if mood.wet or mood.is_night:
        _reflection(canvas, street, tint(asphalt, (0.7, 0.75, 0.9)), 0.55 if mood.wet else 0.25)
    else:
        canvas.gradient([(0.0, mix(asphalt, mood.low, 0.3)), (1.0, asphalt)], street)
    curb = Shapes(canvas, street - u * 0.02, street + u * 0.03)
    curb.polygon([(0, street - u * 0.012), (w, street - u * 0.012), (w, street), (0, street)])
    canvas.stamp(curb, mix(asphalt, mood.low, 0.45))
    for x in (w * 0.10, w * 0.90):
        post = Shapes(canvas, street - u * 0.42)
        post.line([(x, street + u * 0.02), (x, street - u * 0.36)], u * 0.010)
        post.line([(x, street - u * 0.36), (x + (w / 2 - x) * 0.11, street - u * 0.37)], u * 0.008)
        canvas.stamp(post, tint(asphalt, (0.5, 0.5, 0.55)))
        lamp = x + (w / 2 - x) * 0.11
        canvas.glow(lamp, street - u * 0.355, u * 0.09, lamps, 0.75 if mood.is_night else 0.4)
        canvas.disc(lamp, street - u * 0.36, u * 0.012, mix(lamps, WHITE, 0.6))


def space(canvas: Canvas, mood: Mood) -> None:
    w, h, u, rng = canvas.width, canvas.height, canvas.unit, canvas.rng
    canvas.gradient(
        [(0.0, (0.02, 0.02, 0.07)), (0.6, (0.07, 0.05, 0.17)), (1.0, (0.03, 0.04, 0.10))]
    )
    hues: list[Color] = [(0.55, 0.20, 0.62), (0.14, 0.42, 0.72), (0.86, 0.36, 0.42)]
    rng.shuffle(hues)
    for hue in hues[:2]:
        cloud = canvas.clouds(1.6, 5, 1.0)
        canvas.blend(np.clip((cloud - 0.45) * 1.5, 0, 0.75), hue)
    _stars(canvas, h, 700)
    side = -1 if mood.sun_side > 0.5 else 1
    _planet(canvas, w * (0.5 - side * 0.30), h * 0.24, u * 0.15, hues[2], side)
    ground: Color = (0.44, 0.43, 0.50)
    profile = canvas.noise_profile(h * 0.82, u * 0.02, 2)
    canvas.ridge(profile, ground, tint(ground, (0.35, 0.35, 0.42)), u * 0.28)
    for _ in range(9):
        x, y = rng.uniform(0, w), rng.uniform(h * 0.86, h * 0.99)
        size = u * rng.uniform(0.02, 0.06)
        for grow, color in (
            (1.0, tint(ground, (0.5, 0.5, 0.56))),
            (0.82, tint(ground, (0.72, 0.72, 0.78))),
        ):
            crater = Shapes(canvas, y - size)
            crater.ellipse(x, y + size * (1 - grow) * 0.4, size * grow, size * 0.28 * grow)
            canvas.stamp(crater, color, 0.8)


def underwater(canvas: Canvas, mood: Mood) -> None:
    w, h, u, rng = canvas.width, canvas.height, canvas.unit, canvas.rng
    canvas.gradient(
        [(0.0, (0.36, 0.78, 0.84)), (0.35, (0.10, 0.50, 0.68)), (1.0, (0.02, 0.14, 0.30))]
    )
    rays = Shapes(canvas)
    for _ in range(7):
        x, lean = rng.uniform(-0.1, 1.0) * w, rng.uniform(0.10, 0.30) * u
        wide = rng.uniform(0.03, 0.09) * u
        rays.polygon([(x, 0), (x + wide, 0), (x + wide * 2.4 + lean, h), (x + lean, h)])
    mask = rays.mask()
    if mask is not None:
        fade = np.linspace(0.22, 0.0, h, dtype=np.float32)[:, None]
        canvas.blend(mask * fade, (0.80, 0.97, 0.95))
    for level, color in ((0.84, (0.16, 0.34, 0.44)), (0.91, (0.62, 0.55, 0.42))):
        profile = canvas.noise_profile(h * level, u * 0.03, 2)
        canvas.ridge(profile, color, tint(color, (0.4, 0.5, 0.6)), u * 0.2)
        plants: list[Color] = [(0.86, 0.32, 0.42), (0.16, 0.52, 0.36), (0.92, 0.56, 0.24)]
        for hue in plants:
            weeds = Shapes(canvas, h * 0.5)
            for _ in range(7):
                _weed(
                    weeds,
                    rng.uniform(0, 1) * w,
                    h * (level + 0.03),
                    u * rng.uniform(0.08, 0.2),
                    rng,
                )
            canvas.stamp(weeds, mix(hue, (0.05, 0.25, 0.40), 0.45), 0.9)
    for _ in range(26):
        x, y = rng.uniform(0, w), rng.uniform(0, h * 0.85)
        radius = u * rng.uniform(0.003, 0.012)
        canvas.disc(x, y, radius, (0.85, 0.97, 1.0), 0.35)
        canvas.disc(x - radius * 0.3, y - radius * 0.3, radius * 0.35, WHITE, 0.8)


def table(canvas: Canvas, mood: Mood) -> None:
    h, u = canvas.height, canvas.unit
    hue = canvas.rng.choice([0, 1, 2])
    walls: list[Color] = [(0.62, 0.70, 0.68), (0.74, 0.67, 0.58), (0.55, 0.62, 0.72)]
    wall = tint(walls[hue], mood.light)
    canvas.gradient([(0.0, tint(wall, (0.62, 0.62, 0.66))), (1.0, wall)], 0, h * 0.72)
    canvas.glow(canvas.width * mood.sun_side, h * 0.25, u * 0.62, (1.0, 0.95, 0.84), 0.45)
    wood = tint((0.58, 0.38, 0.24), mood.light)
    canvas.gradient([(0.0, mix(wood, WHITE, 0.22)), (1.0, tint(wood, (0.55, 0.5, 0.5)))], h * 0.72)
    grain = canvas.clouds(3, 4, 0.035)[int(h * 0.72) :]
    canvas.blend(grain * np.float32(0.30), tint(wood, (0.45, 0.4, 0.4)), int(h * 0.72))
    edge = canvas.band(h * 0.72, u * 0.012)[:, None] * np.ones((1, canvas.width), np.float32)
    canvas.blend((edge * 0.35), tint(wood, (0.4, 0.35, 0.35)))


PLACES: dict[str, Callable[[Canvas, Mood], None]] = {
    "forest": forest,
    "mountains": mountains,
    "meadow": meadow,
    "snow": snow,
    "desert": desert,
    "sea": sea,
    "beach": beach,
    "city": city,
    "space": space,
    "underwater": underwater,
    "table": table,
}
SKYLESS = frozenset({"space", "underwater", "table"})
WEATHERLESS = frozenset({"space", "underwater", "table"})


def paint_weather(canvas: Canvas, mood: Mood, weather: frozenset[str], *, front: bool) -> None:
    """What falls or drifts: most of it behind the figure, a little in front."""
    w, h, u, rng = canvas.width, canvas.height, canvas.unit, canvas.rng
    if weather & {"rain", "storm"}:
        drops = Shapes(canvas)
        for _ in range(130 if front else 420):
            x, y = rng.uniform(-0.1, 1.1) * w, rng.uniform(-0.1, 1) * h
            length = u * rng.uniform(0.03, 0.07) * (1.4 if front else 1)
            drops.line([(x, y), (x - length * 0.22, y + length)], u * 0.0016, rng.uniform(0.4, 1))
        canvas.stamp(drops, (0.84, 0.90, 0.98), 0.42 if front else 0.30)
    if "snowfall" in weather:
        for _ in range(50 if front else 170):
            radius = u * rng.uniform(0.002, 0.007) * (1.5 if front else 1)
            canvas.disc(rng.uniform(0, w), rng.uniform(0, h), radius, WHITE, 0.85)
    if "mist" in weather:
        _mist(canvas, mood, h * (0.93 if front else 0.78), u * 0.10, 0.5 if front else 0.75)


def paint_lightning(canvas: Canvas) -> None:
    w, h, u, rng = canvas.width, canvas.height, canvas.unit, canvas.rng
    x, y = w * rng.uniform(0.16, 0.30), h * 0.02
    canvas.glow(x, h * 0.2, u * 0.42, (0.80, 0.84, 1.0), 0.55)
    bolt: Points = [(x, y)]
    branch: Points = []
    while y < h * 0.56:
        x, y = x + u * rng.uniform(-0.05, 0.055), y + u * rng.uniform(0.03, 0.07)
        bolt.append((x, y))
        if len(bolt) == 5:
            branch = [(x, y)] + [
                (x + u * 0.035 * step, y + u * 0.05 * step + u * rng.uniform(-0.02, 0.02))
                for step in range(1, 4)
            ]
    shapes = Shapes(canvas)
    for line, width in ((bolt, 0.007), (branch, 0.004)):
        shapes.line(line, u * width)
    canvas.stamp(shapes, (0.97, 0.97, 1.0))


def _stars(canvas: Canvas, bottom: float, count: int) -> None:
    rng = canvas.rng
    for _ in range(int(count * canvas.width / canvas.unit)):
        x, y = rng.uniform(0, canvas.width), rng.uniform(0, bottom)
        size = canvas.unit * (0.0007 + 0.0017 * rng.uniform(0, 1) ** 4)
        canvas.disc(
            x, y, max(0.55, size), (0.93, 0.95, 1.0), rng.uniform(0.35, 1) * (1 - 0.5 * y / bottom)
        )


def _craters(canvas: Canvas, x: float, y: float, radius: float) -> None:
    for dx, dy, size in (
        (-0.3, -0.2, 0.25),
        (0.35, 0.1, 0.18),
        (-0.05, 0.42, 0.2),
        (0.2, -0.45, 0.12),
    ):
        canvas.disc(x + dx * radius, y + dy * radius, size * radius, (0.78, 0.80, 0.78), 0.4)


def _clouds(canvas: Canvas, mood: Mood, horizon: float, amount: float) -> None:
    rows = int(canvas.height * horizon)
    cloud = canvas.clouds(2.0, 5, 0.42)[:rows]
    cover = np.clip((cloud - (0.72 - 0.42 * amount)) * 3.2, 0, 1)
    fade = np.linspace(1.0, 0.35, rows, dtype=np.float32)[:, None]
    bright = mix(mood.low, WHITE, 0.5) if not mood.wet else mix(mood.middle, mood.low, 0.35)
    dark = mix(mood.high, mood.middle, 0.6) if not mood.wet else tint(mood.high, (0.55, 0.55, 0.6))
    share = np.clip((cloud - 0.5) * 2.2, 0, 1)[..., None]
    if not mood.wet:
        share = 1 - share  # fair clouds are brightest where they are thick
    colors = np.asarray(bright, np.float32) * (1 - share) + np.asarray(dark, np.float32) * share
    canvas.blend((cover * fade * (0.95 if mood.wet else 0.8)), colors)


def _mist(canvas: Canvas, mood: Mood, y: float, spread: float, share: float) -> None:
    amount = share * mood.mist
    if amount < 0.05:
        return
    top, bottom = max(0, int(y - 2 * spread)), min(canvas.height, int(y + 2 * spread))
    drift = canvas.noise_profile(0.75, 0.35, 1.2, 3)
    mask = canvas.band(y, spread)[top:bottom, None] * np.clip(drift, 0.2, 1)[None, :]
    canvas.blend((mask * np.float32(amount)), mix(mood.low, WHITE, 0.06), top)


def _hill(canvas: Canvas, mood: Mood, level: float, color: Color, knots: float) -> None:
    profile = canvas.noise_profile(canvas.height * level, canvas.unit * 0.035, knots, 3)
    foot = tint(color, (0.70, 0.72, 0.74))
    canvas.ridge(profile, mix(color, mood.low, 0.10), foot, canvas.unit * 0.26)
    _mist(canvas, mood, canvas.height * (level + 0.06), canvas.unit * 0.05, 0.5)


def _crags(canvas: Canvas, level: float, swing: float, peaks: float) -> Array:
    """A mountain line: sharp where hills would be round."""
    count = max(3, round(peaks * canvas.width / canvas.unit))
    knots = np.arange(2 * count + 1)
    heights = np.where(
        knots % 2 == 1,
        canvas.rng.uniform(0.45, 1.0, len(knots)),
        canvas.rng.uniform(0.0, 0.3, len(knots)),
    )
    places = knots + canvas.rng.uniform(-0.3, 0.3, len(knots))
    line = np.interp(np.linspace(0.5, 2 * count - 0.5, canvas.width), places, heights)
    rough = canvas.noise_profile(0, swing * 0.10, 14, 3)
    return level - line * swing + rough


def _snowcaps(canvas: Canvas, profile: Array, line: float, color: Color, mood: Mood) -> None:
    edge = canvas.noise_profile(line, canvas.unit * 0.03, 18, 2)
    top = max(0, int(profile.min()) - 1)
    bottom = min(canvas.height, int(edge.max()) + 1)
    if top >= bottom:
        return
    rows = np.arange(top, bottom, dtype=np.float32)[:, None]
    inside = np.clip(rows - profile[None, :] + 0.5, 0, 1) * np.clip(edge[None, :] - rows, 0, 1)
    # The slope over a stretch, not from one column to the next, which would show as stripes.
    reach = max(2, canvas.unit // 40)
    slope = np.convolve(
        np.gradient(np.pad(profile, reach, "edge")), np.ones(2 * reach + 1), "valid"
    )
    lit = np.clip(0.75 + slope / (2 * reach) * (0.3 if mood.sun_side < 0.5 else -0.3), 0.5, 1)
    canvas.blend((inside * lit[None, :] * 0.9), color, top)


def _conifer(shapes: Shapes, x: float, base: float, tall: float, rng: np.random.Generator) -> None:
    wide = tall * 0.21
    left: Points = []
    tiers = 7
    for tier in range(tiers):
        share = (tier + 1) / tiers
        y = base - tall * (1 - share * 0.92)
        reach = wide * share**0.9 * rng.uniform(0.85, 1.15)
        left += [(-reach, y), (-reach * 0.52, y - tall * 0.012)]
    outline = [(x, base - tall), *((x + dx, y) for dx, y in left), (x - wide * 0.12, base)]
    mirrored = [(x + wide * 0.12, base), *((x - dx, y) for dx, y in reversed(left))]
    shapes.polygon([*outline, *mirrored])


def _pines(canvas: Canvas, color: Color, level: float, tall: float, count: int) -> None:
    rng, u, h = canvas.rng, canvas.unit, canvas.height
    shapes = Shapes(canvas, h * level - tall * u * 1.4, h * level + u * 0.08)
    for _ in range(int(count * canvas.width / u)):
        x = rng.uniform(0, canvas.width)
        if abs(x - canvas.width / 2) < u * 0.18:
            continue
        base = h * level + u * rng.uniform(0, 0.04)
        _conifer(shapes, x, base, tall * u * rng.uniform(0.6, 1.2), rng)
    canvas.stamp(shapes, color)


def _trunk(canvas: Canvas, x: float, half: float, color: Color) -> None:
    h = canvas.height
    shapes = Shapes(canvas)
    bark = [(0.75, 0.0), (1.0, 0.80), (1.9, 0.93), (0.8, 0.945)]
    right = [(x + half * reach, h * y) for reach, y in bark]
    shapes.polygon([*right, *((2 * x - px, py) for px, py in reversed(right))])
    for reach, y in ((2.6, 0.16), (-2.4, 0.30), (2.0, 0.42)):
        shapes.line([(x, h * y), (x + half * reach, h * (y - 0.07))], half * 0.35)
    canvas.stamp(shapes, color)


def _grass(canvas: Canvas, color: Color, top: float, count: int) -> None:
    rng, u = canvas.rng, canvas.unit
    for share, shade in ((0.5, (0.72, 0.75, 0.7)), (0.65, (1.0, 1.0, 1.0))):
        shapes = Shapes(canvas, top - u * 0.05)
        for _ in range(int(count * canvas.width / u / 2)):
            y = rng.uniform(top, canvas.height)
            x, near = rng.uniform(0, canvas.width), (y - top) / (canvas.height - top)
            tall = u * (0.010 + 0.03 * near) * rng.uniform(0.6, 1.3)
            lean = tall * rng.uniform(-0.45, 0.45)
            half = tall * 0.09
            shapes.polygon([(x - half, y), (x + lean, y - tall), (x + half, y)])
        canvas.stamp(shapes, tint(color, shade), share)


def _flowers(canvas: Canvas, mood: Mood, top: float, count: int) -> None:
    rng, u = canvas.rng, canvas.unit
    hues: list[Color] = [
        (0.96, 0.93, 0.88),
        (0.95, 0.78, 0.25),
        (0.86, 0.36, 0.42),
        (0.62, 0.48, 0.82),
    ]
    for hue in hues:
        shapes = Shapes(canvas, top - u * 0.05)
        for _ in range(int(count * canvas.width / u / len(hues))):
            y = rng.uniform(top, canvas.height)
            size = u * (0.0025 + 0.006 * (y - top) / (canvas.height - top))
            shapes.ellipse(rng.uniform(0, canvas.width), y, size, size * 0.8)
        canvas.stamp(shapes, tint(hue, mood.light))


def _cactus(shapes: Shapes, x: float, base: float, tall: float) -> None:
    wide = tall * 0.16
    shapes.line([(x, base), (x, base - tall)], wide)
    shapes.ellipse(x, base - tall, wide / 2, wide / 2)
    for side, low, high in ((-1, 0.40, 0.72), (1, 0.52, 0.86)):
        elbow = x + side * tall * 0.24
        shapes.line(
            [(x, base - tall * low), (elbow, base - tall * low), (elbow, base - tall * high)],
            wide * 0.72,
        )
        shapes.ellipse(elbow, base - tall * high, wide * 0.36, wide * 0.36)


def _palm(shapes: Shapes, x: float, base: float, tall: float, lean: float) -> None:
    trunk = [(x + lean * (step / 8) ** 2, base - tall * step / 8) for step in range(9)]
    for (x0, y0), (x1, y1), width in zip(trunk, trunk[1:], range(9, 0, -1), strict=False):
        shapes.line([(x0, y0), (x1, y1)], tall * (0.022 + 0.003 * width))
    top_x, top_y = trunk[-1]
    for turn in (-168, -138, -108, -72, -42, -12, 14, 166):
        angle = math.radians(turn)
        spine = [
            (
                top_x + math.cos(angle) * tall * 0.36 * step / 6,
                top_y + math.sin(angle) * tall * 0.22 * step / 6 + tall * 0.20 * (step / 6) ** 2,
            )
            for step in range(7)
        ]
        under = [
            (px, py + tall * 0.075 * math.sin(math.pi * step / 6))
            for step, (px, py) in enumerate(spine)
        ]
        shapes.polygon([*spine, *reversed(under)])


def _weed(shapes: Shapes, x: float, base: float, tall: float, rng: np.random.Generator) -> None:
    phase, width = rng.uniform(0, 6), tall * 0.09
    line = [
        (x + math.sin(phase + step * 0.9) * tall * 0.10 * step / 7, base - tall * step / 7)
        for step in range(8)
    ]
    for index in range(7):
        shapes.line([line[index], line[index + 1]], width * (1 - index / 9))


def _water(canvas: Canvas, mood: Mood, top: float, bottom: float) -> None:
    w, h, u, rng = canvas.width, canvas.height, canvas.unit, canvas.rng
    deep = mix(tint((0.08, 0.30, 0.44), mood.light), mood.high, 0.35)
    canvas.gradient(
        [(0.0, mix(mood.low, deep, 0.35)), (0.3, mix(mood.low, deep, 0.72)), (1.0, deep)],
        top,
        bottom,
    )
    path = canvas.width * mood.sun_side
    rows = np.arange(int(top), int(min(h, bottom)), dtype=np.float32)
    depth = (rows - top) / max(1.0, h - top)
    spread = u * (0.035 + 0.16 * depth)
    across = np.arange(w, dtype=np.float32)[None, :]
    glitter = np.exp(-(((across - path) / spread[:, None]) ** 2)) * (0.62 - 0.35 * depth)[:, None]
    ripple = 0.5 + 0.5 * np.sin(
        rows / (1.2 + depth * u * 0.006) + canvas.noise_profile(0, 9, 3, 2)[0]
    )
    canvas.blend((glitter * (0.35 + 0.65 * ripple[:, None])), mood.sun, int(top))
    rough = 2.4 if mood.wet else 1.0
    for share, color in ((0.30, mix(mood.low, WHITE, 0.25)), (0.30, tint(deep, (0.6, 0.65, 0.72)))):
        waves = Shapes(canvas, top, bottom)
        for _ in range(int(260 * w / u)):
            near = rng.uniform(0, 1) ** 1.4
            y = top + (bottom - top) * near
            length = u * (0.015 + 0.09 * near) * rng.uniform(0.6, 1.4)
            x, lift = rng.uniform(0, w), u * (0.0012 + 0.0035 * near) * rough
            waves.polygon([(x - length, y), (x, y - lift), (x + length, y), (x, y + lift * 0.5)])
        canvas.stamp(waves, color, share * (1.5 if mood.wet else 1))


def _tower(
    shapes: Shapes, windows: Shapes, x: float, top: float, wide: float, foot: float, size: float,
    rng: np.random.Generator, mood: Mood,
) -> None:  # fmt: skip
    shapes.polygon([(x, top), (x + wide, top), (x + wide, foot), (x, foot)])
    crown = rng.integers(0, 4)
    if crown == 0:
        shapes.polygon(
            [
                (x + wide * 0.2, top + 1),
                (x + wide * 0.5, top - wide * 0.5),
                (x + wide * 0.8, top + 1),
            ]
        )
    elif crown == 1:
        shapes.line([(x + wide / 2, top), (x + wide / 2, top - wide * 0.7)], wide * 0.04)
    elif crown == 2:
        left, right, roof = x + wide * 0.18, x + wide * 0.82, top - wide * 0.22
        shapes.polygon([(left, top + 1), (left, roof), (right, roof), (right, top + 1)])
    chance = 0.45 if mood.is_night else 0.35
    columns = max(2, int(wide / (size * 2.1)))
    gap = wide / columns
    for line in range(int((foot - top) / (size * 2.6)) - 1):
        for column in range(columns):
            if rng.uniform() < chance:
                wx, wy = x + gap * (column + 0.5), top + size * 2.6 * (line + 0.7)
                left, right, sill = wx - size / 2, wx + size / 2, wy + size * 1.3
                pane = [(left, wy), (right, wy), (right, sill), (left, sill)]
                windows.polygon(pane, rng.uniform(0.5, 1))


def _reflection(canvas: Canvas, street: float, asphalt: Color, share: float) -> None:
    """A wet street mirrors what stands above it, drawn out by the ripples."""
    first = int(street)
    count = canvas.height - first
    above = canvas.pixels[max(0, first - count * 2) : first : 2][::-1][:count]
    wobble = canvas.noise_profile(0, canvas.unit * 0.006, 30, 2)
    rows = canvas.pixels[first:]
    rows[:] = np.asarray(asphalt, np.float32)
    mirrored = np.asarray(above)
    for index in range(len(mirrored)):
        shift = int(wobble[(index * 7) % canvas.width] * (index / count + 0.2))
        rows[index] += (np.roll(mirrored[index], shift, axis=0) - rows[index]) * np.float32(
            share * (1 - 0.5 * index / count)
        )


def _planet(canvas: Canvas, x: float, y: float, radius: float, hue: Color, side: int) -> None:
    canvas.glow(x, y, radius * 1.5, hue, 0.35)
    top, left = int(y - radius - 2), int(x - radius - 2)
    size = int(radius * 2 + 4)
    dy, dx = np.mgrid[0:size, 0:size]
    dx, dy = (dx - size / 2) / radius, (dy - size / 2) / radius
    distance = np.hypot(dx, dy)
    bands = 0.5 + 0.5 * np.sin(dy * 11 + np.sin(dx * 3) * 0.8)
    light = np.clip(0.25 + 0.9 * (dx * side * 0.7 - dy * 0.4) + 0.35, 0.06, 1.1)
    color = (
        np.asarray(hue, np.float32) * (1 - bands[..., None] * 0.4)
        + np.float32(0.32) * bands[..., None]
    )
    alpha = np.clip((1 - distance) * radius + 0.5, 0, 1)
    canvas.paste(np.dstack([np.clip(color * light[..., None], 0, 1), alpha]), left, top)
