"""The figures the painter knows, drawn from shapes of our own."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from ops.sandbox.painting.canvas import Points, mix
from ops.sandbox.painting.pen import WHITE, Pen
from ops.sandbox.painting.prompt import COLORS, Color

DARK: Color = (0.10, 0.09, 0.11)
CREAM: Color = (0.97, 0.94, 0.88)
GLASS: Color = (0.62, 0.80, 0.88)
GLOW: Color = (1.0, 0.86, 0.45)


@dataclass(frozen=True)
class Figure:
    """How a figure is drawn, how large (in units of the picture), and where it is at home."""

    draw: Callable[[Pen, Color], None]
    color: Color
    words: str
    height: float = 0.5
    aspect: float = 1.0
    """Width by height of its sheet."""
    stance: str = "ground"
    """What holds it: ground, water, air or table."""
    home: str = "meadow"
    """The place it is shown in when the prompt names none."""


def fox(pen: Pen, color: Color) -> None:
    pale, dark = CREAM, mix(color, DARK, 0.75)
    pen.blob([(0.58, 0.93), (0.80, 0.95), (0.96, 0.80), (0.97, 0.58), (0.87, 0.42), (0.83, 0.60),
              (0.74, 0.74), (0.60, 0.80)], color)  # fmt: skip
    pen.blob([(0.87, 0.42), (0.97, 0.58), (0.96, 0.68), (0.90, 0.62), (0.83, 0.62)], pale, 0.06)
    pen.blob([(0.5, 0.38), (0.62, 0.50), (0.69, 0.72), (0.68, 0.93), (0.5, 0.97), (0.32, 0.93),
              (0.31, 0.72), (0.38, 0.50)], color)  # fmt: skip
    pen.blob([(0.5, 0.44), (0.59, 0.55), (0.57, 0.75), (0.5, 0.84), (0.43, 0.75), (0.41, 0.55)],
             pale, 0.08)  # fmt: skip
    pen.both([(0.41, 0.66), (0.48, 0.68), (0.485, 0.95), (0.44, 0.985), (0.375, 0.97),
              (0.39, 0.80)], color)  # fmt: skip
    pen.both([(0.385, 0.88), (0.485, 0.88), (0.487, 0.955), (0.44, 0.99), (0.372, 0.975)], dark)
    pen.both([(0.30, 0.25), (0.245, 0.0), (0.46, 0.14)], color, smooth=False)
    pen.both([(0.315, 0.19), (0.275, 0.06), (0.395, 0.14)], dark, smooth=False)
    pen.blob([(0.5, 0.11), (0.63, 0.14), (0.71, 0.26), (0.79, 0.36), (0.64, 0.41), (0.545, 0.49),
              (0.5, 0.52), (0.455, 0.49), (0.36, 0.41), (0.21, 0.36), (0.29, 0.26), (0.37, 0.14)],
             color)  # fmt: skip
    pen.both([(0.50, 0.515), (0.495, 0.40), (0.41, 0.325), (0.27, 0.32), (0.225, 0.36),
              (0.36, 0.405), (0.455, 0.485)], pale, 0.05)  # fmt: skip
    _eyes(pen, 0.40, 0.305, 0.027, 0.034)
    pen.ellipse(0.5, 0.485, 0.038, 0.029, DARK)
    pen.ellipse(0.488, 0.477, 0.011, 0.007, (0.6, 0.6, 0.62), 0)


def cat(pen: Pen, color: Color) -> None:
    stripe, pale = mix(color, DARK, 0.45), mix(color, WHITE, 0.55)
    pen.curve([(0.66, 0.93), (0.84, 0.94), (0.92, 0.80), (0.86, 0.62), (0.93, 0.50)], 0.07, color)
    pen.blob([(0.5, 0.36), (0.63, 0.50), (0.70, 0.72), (0.70, 0.92), (0.5, 0.97), (0.30, 0.92),
              (0.30, 0.72), (0.37, 0.50)], color)  # fmt: skip
    for y in (0.56, 0.66, 0.76):
        pen.both([(0.315, y), (0.40, y + 0.015), (0.33, y + 0.035)], stripe, smooth=False)
    pen.blob([(0.5, 0.46), (0.57, 0.56), (0.55, 0.74), (0.5, 0.80), (0.45, 0.74), (0.43, 0.56)],
             pale, 0.06)  # fmt: skip
    pen.both([(0.41, 0.68), (0.485, 0.70), (0.49, 0.94), (0.44, 0.985), (0.37, 0.96)], color)
    pen.both([(0.40, 0.93), (0.485, 0.93), (0.487, 0.97), (0.43, 0.99), (0.38, 0.97)], pale, 0.05)
    pen.both([(0.275, 0.28), (0.27, 0.03), (0.45, 0.13)], color, smooth=False)
    pen.both([(0.305, 0.20), (0.302, 0.085), (0.385, 0.135)], (0.93, 0.66, 0.66), smooth=False)
    pen.ellipse(0.5, 0.29, 0.25, 0.20, color)
    for dx in (-0.07, 0.0, 0.07):
        pen.polygon([(0.48 + dx, 0.10), (0.52 + dx, 0.10), (0.5 + dx, 0.185)], stripe)
    pen.ellipse(0.455, 0.39, 0.062, 0.05, pale, 0.04)
    pen.ellipse(0.545, 0.39, 0.062, 0.05, pale, 0.04)
    for x in (0.395, 0.605):
        pen.ellipse(x, 0.285, 0.052, 0.05, (0.72, 0.82, 0.30))
        pen.ellipse(x, 0.285, 0.019, 0.045, DARK, 0)
        pen.ellipse(x - 0.015, 0.268, 0.012, 0.012, WHITE, 0)
    pen.polygon([(0.475, 0.352), (0.525, 0.352), (0.5, 0.378)], (0.85, 0.45, 0.48))
    for side in (-1, 1):
        for drop in (-0.01, 0.02, 0.05):
            pen.line([(0.5 + side * 0.10, 0.385 + drop / 3), (0.5 + side * 0.30, 0.37 + drop)],
                     0.005, mix(pale, WHITE, 0.5))  # fmt: skip


def dog(pen: Pen, color: Color) -> None:
    ear, pale = mix(color, DARK, 0.5), mix(color, WHITE, 0.7)
    pen.curve([(0.66, 0.88), (0.80, 0.80), (0.86, 0.66)], 0.07, color)
    pen.blob([(0.5, 0.38), (0.64, 0.50), (0.71, 0.74), (0.69, 0.93), (0.5, 0.97), (0.31, 0.93),
              (0.29, 0.74), (0.36, 0.50)], color)  # fmt: skip
    pen.blob([(0.5, 0.46), (0.58, 0.58), (0.55, 0.78), (0.5, 0.84), (0.45, 0.78), (0.42, 0.58)],
             pale, 0.06)  # fmt: skip
    pen.both([(0.40, 0.66), (0.485, 0.70), (0.49, 0.94), (0.44, 0.985), (0.36, 0.97)], color)
    pen.both([(0.39, 0.92), (0.487, 0.92), (0.49, 0.97), (0.43, 0.99), (0.36, 0.975)], pale, 0.05)
    pen.polygon([(0.37, 0.475), (0.63, 0.475), (0.62, 0.52), (0.38, 0.52)], (0.75, 0.16, 0.16))
    pen.ellipse(0.5, 0.545, 0.032, 0.032, (0.92, 0.76, 0.26))
    pen.ellipse(0.5, 0.27, 0.22, 0.21, color)
    pen.blob([(0.5, 0.08), (0.55, 0.22), (0.56, 0.36), (0.44, 0.36), (0.45, 0.22)], pale, 0.05)
    pen.both([(0.33, 0.10), (0.24, 0.12), (0.17, 0.30), (0.19, 0.44), (0.28, 0.40), (0.33, 0.24)],
             ear)  # fmt: skip
    pen.blob([(0.5, 0.44), (0.53, 0.45), (0.535, 0.53), (0.5, 0.555), (0.465, 0.53), (0.47, 0.45)],
             (0.90, 0.42, 0.46))  # fmt: skip
    pen.ellipse(0.5, 0.39, 0.115, 0.085, pale, 0.06)
    pen.ellipse(0.5, 0.345, 0.048, 0.034, DARK)
    pen.line([(0.5, 0.37), (0.5, 0.42)], 0.008, DARK)
    _eyes(pen, 0.405, 0.25, 0.03, 0.034)


def rabbit(pen: Pen, color: Color) -> None:
    pale = mix(color, WHITE, 0.6)
    pen.ellipse(0.76, 0.86, 0.08, 0.07, pale)
    pen.ellipse(0.5, 0.77, 0.26, 0.22, color)
    pen.ellipse(0.5, 0.80, 0.14, 0.16, pale, 0.06)
    pen.both([(0.37, 0.34), (0.29, 0.14), (0.33, 0.0), (0.41, 0.08), (0.46, 0.32)], color)
    pen.both([(0.375, 0.28), (0.325, 0.14), (0.342, 0.06), (0.39, 0.12), (0.42, 0.28)],
             (0.94, 0.70, 0.70))  # fmt: skip
    pen.ellipse(0.5, 0.45, 0.20, 0.17, color)
    pen.both([(0.28, 0.92), (0.40, 0.90), (0.47, 0.95), (0.43, 0.99), (0.27, 0.985)], pale)
    pen.ellipse(0.465, 0.52, 0.05, 0.042, pale, 0.04)
    pen.ellipse(0.535, 0.52, 0.05, 0.042, pale, 0.04)
    pen.ellipse(0.5, 0.49, 0.024, 0.018, (0.85, 0.45, 0.5))
    _eyes(pen, 0.41, 0.43, 0.027, 0.034)


def bear(pen: Pen, color: Color) -> None:
    pale = mix(color, CREAM, 0.55)
    pen.ellipse(0.5, 0.72, 0.32, 0.27, color)
    pen.ellipse(0.5, 0.75, 0.20, 0.19, pale, 0.08)
    pen.both([(0.24, 0.55), (0.14, 0.68), (0.15, 0.82), (0.24, 0.82), (0.31, 0.66)], color)
    pen.both([(0.25, 0.88), (0.40, 0.86), (0.44, 0.95), (0.34, 1.0), (0.22, 0.98)], color)
    pen.ellipse(0.29, 0.13, 0.085, 0.085, color)
    pen.ellipse(0.71, 0.13, 0.085, 0.085, color)
    pen.ellipse(0.29, 0.135, 0.045, 0.045, pale)
    pen.ellipse(0.71, 0.135, 0.045, 0.045, pale)
    pen.ellipse(0.5, 0.29, 0.27, 0.23, color)
    pen.ellipse(0.5, 0.37, 0.13, 0.10, pale, 0.06)
    pen.ellipse(0.5, 0.33, 0.05, 0.036, DARK)
    pen.curve([(0.45, 0.40), (0.5, 0.42), (0.55, 0.40)], 0.011, DARK)
    _eyes(pen, 0.39, 0.25, 0.026, 0.029)


def owl(pen: Pen, color: Color) -> None:
    pale, dark = mix(color, CREAM, 0.65), mix(color, DARK, 0.4)
    pen.both([(0.30, 0.20), (0.25, 0.0), (0.45, 0.10)], color, smooth=False)
    pen.blob([(0.5, 0.06), (0.72, 0.14), (0.79, 0.40), (0.76, 0.75), (0.5, 0.94), (0.24, 0.75),
              (0.21, 0.40), (0.28, 0.14)], color)  # fmt: skip
    pen.blob([(0.5, 0.42), (0.65, 0.52), (0.66, 0.74), (0.5, 0.89), (0.34, 0.74), (0.35, 0.52)],
             pale, 0.08)  # fmt: skip
    for row in range(4):
        for spot in range(3 - row % 2):
            x = 0.5 + (spot - (2 - row % 2) / 2) * 0.10
            pen.both([(x - 0.025, 0.57 + row * 0.07), (x, 0.60 + row * 0.07),
                      (x + 0.025, 0.57 + row * 0.07)], dark, smooth=False)  # fmt: skip
    pen.both([(0.22, 0.38), (0.33, 0.52), (0.31, 0.80), (0.19, 0.70)], dark)
    for x in (0.385, 0.615):
        pen.ellipse(x, 0.29, 0.125, 0.125, pale, 0.05)
        pen.ellipse(x, 0.29, 0.082, 0.082, (0.95, 0.68, 0.16))
        pen.ellipse(x, 0.29, 0.047, 0.047, DARK, 0)
        pen.ellipse(x - 0.02, 0.27, 0.018, 0.018, WHITE, 0)
    pen.polygon([(0.455, 0.36), (0.545, 0.36), (0.5, 0.46)], (0.90, 0.62, 0.20))
    for x in (0.42, 0.58):
        for dx in (-0.03, 0.0, 0.03):
            pen.line([(x, 0.92), (x + dx, 0.98)], 0.022, (0.85, 0.60, 0.22))


def bird(pen: Pen, color: Color) -> None:
    belly, wing = mix(color, CREAM, 0.7), mix(color, DARK, 0.3)
    pen.polygon([(0.10, 0.70), (0.02, 0.80), (0.14, 0.82), (0.40, 0.62), (0.34, 0.52)], wing)
    pen.blob([(0.30, 0.56), (0.46, 0.38), (0.62, 0.30), (0.78, 0.34), (0.80, 0.52), (0.68, 0.72),
              (0.46, 0.76), (0.32, 0.68)], color)  # fmt: skip
    pen.blob([(0.78, 0.46), (0.76, 0.60), (0.64, 0.72), (0.48, 0.75), (0.60, 0.62), (0.68, 0.50)],
             belly, 0.08)  # fmt: skip
    pen.ellipse(0.735, 0.31, 0.125, 0.155, color)
    pen.polygon([(0.845, 0.27), (0.985, 0.33), (0.845, 0.37)], (0.95, 0.66, 0.18))
    pen.blob([(0.60, 0.44), (0.52, 0.60), (0.36, 0.68), (0.16, 0.70), (0.32, 0.52), (0.46, 0.42)],
             wing)  # fmt: skip
    for step in (0.0, 0.05, 0.10):
        pen.curve([(0.52 - step, 0.50 + step / 2), (0.40 - step, 0.61 + step / 3),
                   (0.26 - step, 0.66)], 0.010, mix(wing, WHITE, 0.35))  # fmt: skip
    pen.ellipse(0.775, 0.27, 0.024, 0.033, DARK, 0)
    pen.ellipse(0.768, 0.258, 0.008, 0.011, WHITE, 0)
    for x in (0.52, 0.60):
        pen.line([(x, 0.74), (x + 0.01, 0.96)], 0.018, (0.80, 0.52, 0.20))
        pen.line([(x - 0.04, 0.975), (x + 0.06, 0.975)], 0.018, (0.80, 0.52, 0.20))


def fish(pen: Pen, color: Color) -> None:
    fin, pale = mix(color, (1.0, 0.85, 0.3), 0.45), mix(color, WHITE, 0.6)
    pen.blob([(0.24, 0.50), (0.10, 0.24), (0.02, 0.20), (0.08, 0.50), (0.02, 0.80), (0.10, 0.76)],
             fin)  # fmt: skip
    pen.blob([(0.36, 0.30), (0.52, 0.06), (0.70, 0.10), (0.72, 0.30)], fin)
    pen.blob([(0.46, 0.74), (0.48, 0.95), (0.60, 0.92), (0.64, 0.74)], fin)
    pen.blob([(0.20, 0.50), (0.36, 0.28), (0.58, 0.19), (0.80, 0.27), (0.96, 0.50), (0.80, 0.73),
              (0.58, 0.81), (0.36, 0.72)], color)  # fmt: skip
    for x in (0.42, 0.62):
        pen.blob([(x, 0.24 + abs(0.6 - x) * 0.3), (x + 0.07, 0.23), (x + 0.05, 0.5),
                  (x + 0.07, 0.78), (x, 0.77 - abs(0.6 - x) * 0.3), (x - 0.02, 0.5)],
                 pale, 0.05)  # fmt: skip
    pen.blob([(0.66, 0.52), (0.52, 0.56), (0.50, 0.68), (0.60, 0.66)], fin)
    pen.ellipse(0.83, 0.43, 0.046, 0.066, WHITE, 0.05)
    pen.ellipse(0.84, 0.43, 0.026, 0.038, DARK, 0)
    pen.curve([(0.95, 0.55), (0.90, 0.58), (0.87, 0.56)], 0.016, mix(color, DARK, 0.5))


def whale(pen: Pen, color: Color) -> None:
    pale = mix(color, WHITE, 0.65)
    for dx in (-0.06, 0.0, 0.06):
        pen.curve([(0.70, 0.26), (0.70 + dx, 0.12), (0.70 + dx * 2.2, 0.10 + abs(dx))], 0.022,
                  (0.85, 0.94, 1.0))  # fmt: skip
    pen.blob([(0.16, 0.44), (0.12, 0.28), (0.01, 0.18), (0.02, 0.32), (0.08, 0.40)], color)
    pen.blob([(0.14, 0.40), (0.22, 0.22), (0.30, 0.16), (0.26, 0.32), (0.20, 0.42)], color)
    pen.blob([(0.08, 0.36), (0.24, 0.48), (0.46, 0.34), (0.72, 0.28), (0.92, 0.40), (0.97, 0.62),
              (0.86, 0.82), (0.60, 0.90), (0.34, 0.82), (0.16, 0.60)], color)  # fmt: skip
    pen.blob([(0.97, 0.64), (0.86, 0.82), (0.60, 0.90), (0.38, 0.83), (0.62, 0.80), (0.82, 0.70)],
             pale, 0.05)  # fmt: skip
    pen.blob([(0.62, 0.74), (0.56, 0.90), (0.44, 0.98), (0.50, 0.78)], mix(color, DARK, 0.25))
    pen.ellipse(0.84, 0.58, 0.018, 0.030, DARK, 0)


def horse(pen: Pen, color: Color) -> None:
    mane, far = mix(color, DARK, 0.65), mix(color, DARK, 0.35)
    for x, lean in ((0.34, -0.02), (0.66, 0.03)):
        pen.polygon([(x, 0.58), (x + 0.07, 0.58), (x + 0.055 + lean, 0.94), (x + lean, 0.94)], far)
        pen.polygon([(x + lean - 0.01, 0.93), (x + 0.06 + lean, 0.93), (x + 0.07 + lean, 0.99),
                     (x + lean - 0.015, 0.99)], DARK)  # fmt: skip
    pen.blob([(0.22, 0.42), (0.12, 0.48), (0.07, 0.68), (0.12, 0.80), (0.17, 0.66), (0.24, 0.52)],
             mane)  # fmt: skip
    pen.blob([(0.20, 0.46), (0.34, 0.36), (0.54, 0.38), (0.68, 0.34), (0.76, 0.46), (0.72, 0.60),
              (0.54, 0.63), (0.36, 0.63), (0.22, 0.60)], color)  # fmt: skip
    pen.blob([(0.60, 0.42), (0.70, 0.18), (0.78, 0.08), (0.86, 0.12), (0.84, 0.28), (0.78, 0.50),
              (0.68, 0.56)], color)  # fmt: skip
    pen.blob([(0.76, 0.09), (0.86, 0.08), (0.93, 0.20), (0.985, 0.30), (0.96, 0.36), (0.90, 0.34),
              (0.82, 0.25)], color)  # fmt: skip
    pen.polygon([(0.775, 0.10), (0.79, 0.0), (0.83, 0.09)], color)
    pen.blob([(0.80, 0.03), (0.74, 0.06), (0.66, 0.20), (0.58, 0.38), (0.66, 0.38), (0.72, 0.26),
              (0.78, 0.14)], mane)  # fmt: skip
    for x, lean in ((0.23, -0.02), (0.60, 0.02)):
        pen.polygon([(x - 0.01, 0.52), (x + 0.09, 0.52), (x + 0.06 + lean, 0.94), (x + lean, 0.94)],
                    color)  # fmt: skip
        pen.polygon([(x + lean - 0.01, 0.93), (x + 0.065 + lean, 0.93), (x + 0.075 + lean, 0.99),
                     (x + lean - 0.015, 0.99)], DARK)  # fmt: skip
    pen.ellipse(0.855, 0.165, 0.014, 0.016, DARK, 0)
    pen.ellipse(0.962, 0.31, 0.010, 0.010, DARK, 0)


def car(pen: Pen, color: Color) -> None:
    dark = mix(color, DARK, 0.5)
    pen.blob([(0.24, 0.46), (0.34, 0.22), (0.46, 0.16), (0.62, 0.17), (0.74, 0.30), (0.82, 0.48),
              (0.50, 0.56)], color)  # fmt: skip
    pen.polygon([(0.29, 0.46), (0.37, 0.26), (0.49, 0.23), (0.49, 0.46)], GLASS, 0.25)
    pen.polygon([(0.52, 0.23), (0.61, 0.24), (0.69, 0.33), (0.75, 0.46), (0.52, 0.46)], GLASS, 0.25)
    pen.blob([(0.03, 0.66), (0.05, 0.50), (0.20, 0.44), (0.50, 0.43), (0.80, 0.45), (0.95, 0.54),
              (0.98, 0.70), (0.92, 0.78), (0.50, 0.80), (0.08, 0.78)], color, 0.22)  # fmt: skip
    pen.polygon([(0.06, 0.71), (0.96, 0.71), (0.94, 0.78), (0.08, 0.78)], dark)
    pen.line([(0.505, 0.47), (0.505, 0.70)], 0.010, dark)
    pen.line([(0.43, 0.54), (0.47, 0.54)], 0.022, CREAM)
    pen.ellipse(0.935, 0.585, 0.030, 0.050, GLOW)
    pen.ellipse(0.06, 0.585, 0.022, 0.045, (0.95, 0.25, 0.20))
    for x in (0.25, 0.75):
        pen.ellipse(x, 0.78, 0.105, 0.21, DARK)
        pen.ellipse(x, 0.78, 0.058, 0.116, (0.70, 0.72, 0.75))
        pen.ellipse(x, 0.78, 0.020, 0.040, (0.35, 0.36, 0.40))


def boat(pen: Pen, color: Color) -> None:
    wood = (0.48, 0.30, 0.18)
    pen.line([(0.50, 0.02), (0.50, 0.80)], 0.016, wood)
    pen.blob([(0.52, 0.04), (0.66, 0.30), (0.84, 0.62), (0.88, 0.70), (0.70, 0.71), (0.52, 0.70),
              (0.56, 0.38)], CREAM, 0.14)  # fmt: skip
    pen.blob([(0.48, 0.12), (0.36, 0.40), (0.17, 0.68), (0.30, 0.71), (0.48, 0.70), (0.45, 0.40)],
             mix(CREAM, color, 0.35), 0.14)  # fmt: skip
    pen.polygon([(0.50, 0.01), (0.50, 0.065), (0.62, 0.04)], color)
    pen.polygon([(0.06, 0.77), (0.96, 0.75), (0.84, 0.95), (0.74, 0.99), (0.26, 0.99),
                 (0.16, 0.95)], color, 0.2)  # fmt: skip
    pen.polygon([(0.06, 0.77), (0.96, 0.75), (0.94, 0.795), (0.085, 0.815)], mix(color, WHITE, 0.7))
    pen.line([(0.14, 0.90), (0.87, 0.89)], 0.010, mix(color, DARK, 0.4))


def house(pen: Pen, color: Color) -> None:
    roof, frame = (0.60, 0.24, 0.18), mix(color, WHITE, 0.6)
    pen.polygon([(0.68, 0.30), (0.68, 0.10), (0.78, 0.10), (0.78, 0.40)], (0.50, 0.30, 0.26))
    pen.polygon([(0.14, 0.46), (0.86, 0.46), (0.86, 0.99), (0.14, 0.99)], color, 0.10)
    pen.polygon([(0.04, 0.49), (0.50, 0.08), (0.96, 0.49), (0.86, 0.49), (0.50, 0.19),
                 (0.14, 0.49)], roof)  # fmt: skip
    pen.polygon([(0.14, 0.48), (0.50, 0.18), (0.86, 0.48)], mix(color, roof, 0.25))
    pen.ellipse(0.50, 0.36, 0.065, 0.065, frame)
    pen.ellipse(0.50, 0.36, 0.048, 0.048, GLOW)
    pen.polygon([(0.42, 0.99), (0.42, 0.66), (0.58, 0.66), (0.58, 0.99)], (0.36, 0.22, 0.15))
    pen.ellipse(0.555, 0.83, 0.012, 0.012, GLOW)
    for x in (0.20, 0.66):
        pen.polygon([(x, 0.56), (x + 0.14, 0.56), (x + 0.14, 0.76), (x, 0.76)], frame)
        pane = [(0.015, 0.575), (0.125, 0.575), (0.125, 0.745), (0.015, 0.745)]
        pen.polygon([(x + px, py) for px, py in pane], GLOW, 0.1)
        pen.line([(x + 0.07, 0.57), (x + 0.07, 0.75)], 0.010, frame)
        pen.line([(x + 0.01, 0.66), (x + 0.13, 0.66)], 0.010, frame)
    pen.polygon([(0.10, 0.97), (0.90, 0.97), (0.90, 1.0), (0.10, 1.0)], (0.45, 0.43, 0.42))


def lighthouse(pen: Pen, color: Color) -> None:
    def edge(y: float) -> float:
        return 0.13 + (y - 0.22) * 0.16

    pen.blob([(0.0, 1.0), (0.06, 0.90), (0.22, 0.86), (0.36, 0.82), (0.66, 0.83), (0.82, 0.88),
              (0.95, 0.92), (1.0, 1.0), (0.5, 1.04)], (0.28, 0.27, 0.29), 0.25)  # fmt: skip
    bands = [0.22, 0.345, 0.47, 0.595, 0.72, 0.88]
    for index, (top, bottom) in enumerate(pairwise(bands)):
        shape = [(0.5 - edge(top), top), (0.5 + edge(top), top), (0.5 + edge(bottom), bottom),
                 (0.5 - edge(bottom), bottom)]  # fmt: skip
        pen.polygon(shape, CREAM if index % 2 else color, 0.06)
    pen.polygon([(0.56, 0.22), (0.5 + edge(0.22), 0.22), (0.5 + edge(0.88), 0.88), (0.60, 0.88)],
                mix(color, DARK, 0.45), 0.0)  # fmt: skip
    for index, (top, bottom) in enumerate(pairwise(bands)):
        if index % 2:
            pen.polygon([(0.56 + (top - 0.22) * 0.06, top), (0.5 + edge(top), top),
                         (0.5 + edge(bottom), bottom), (0.56 + (bottom - 0.22) * 0.06, bottom)],
                        mix(CREAM, DARK, 0.28), 0.0)  # fmt: skip
    pen.polygon([(0.31, 0.195), (0.69, 0.195), (0.67, 0.23), (0.33, 0.23)], DARK, 0.3)
    pen.polygon([(0.40, 0.10), (0.60, 0.10), (0.61, 0.195), (0.39, 0.195)], GLOW, 0.05)
    pen.ellipse(0.5, 0.148, 0.07, 0.034, (1.0, 0.98, 0.85), 0)
    for x in (0.40, 0.5, 0.60):
        pen.line([(x, 0.10), (x, 0.195)], 0.006, DARK)
    pen.blob([(0.36, 0.105), (0.40, 0.06), (0.5, 0.025), (0.60, 0.06), (0.64, 0.105)],
             mix(color, DARK, 0.25))  # fmt: skip
    pen.line([(0.5, 0.0), (0.5, 0.04)], 0.006, DARK)
    for y in (0.40, 0.64):
        pen.blob([(0.46, y), (0.48, y - 0.022), (0.50, y), (0.50, y + 0.03), (0.46, y + 0.03)],
                 DARK)  # fmt: skip
    pen.polygon([(0.46, 0.87), (0.46, 0.80), (0.54, 0.80), (0.54, 0.87)], (0.30, 0.19, 0.13))


def tree(pen: Pen, color: Color) -> None:
    bark = (0.36, 0.24, 0.16)
    pen.blob([(0.45, 0.55), (0.46, 0.80), (0.38, 0.99), (0.62, 0.99), (0.54, 0.80), (0.55, 0.55)],
             bark)  # fmt: skip
    pen.line([(0.5, 0.70), (0.36, 0.52)], 0.03, bark)
    pen.line([(0.5, 0.66), (0.65, 0.48)], 0.03, bark)
    crowns = [(0.30, 0.46, 0.20), (0.70, 0.46, 0.20), (0.5, 0.50, 0.22), (0.36, 0.28, 0.20),
              (0.65, 0.27, 0.20), (0.5, 0.20, 0.19)]  # fmt: skip
    for x, y, radius in crowns:
        pen.ellipse(x, y, radius, radius * 0.86, mix(color, DARK, 0.28))
    for x, y, radius in crowns:
        pen.ellipse(x - 0.025, y - 0.03, radius * 0.86, radius * 0.72, color, 0.12)
    for x, y, radius in crowns:
        pen.ellipse(x - 0.055, y - 0.06, radius * 0.5, radius * 0.4, mix(color, GLOW, 0.28), 0.05)


def flower(pen: Pen, color: Color) -> None:
    stem = (0.26, 0.52, 0.24)
    pen.curve([(0.50, 0.34), (0.53, 0.60), (0.49, 1.0)], 0.028, stem)
    pen.blob([(0.50, 0.80), (0.62, 0.62), (0.80, 0.56), (0.74, 0.72)], stem)
    pen.blob([(0.51, 0.88), (0.40, 0.72), (0.22, 0.68), (0.30, 0.82)], stem)
    for ring, (count, reach, size) in enumerate([(9, 0.25, 0.105), (9, 0.18, 0.085)]):
        for index in range(count):
            turn = 2 * math.pi * (index + ring / 2) / count
            x, y = math.cos(turn), math.sin(turn)
            middle = (0.5 + x * reach * 0.62, 0.30 + y * reach * 0.62)
            tip = (0.5 + x * reach * 1.2, 0.30 + y * reach * 1.2)
            side = (-y * size * 0.75, x * size * 0.75)
            pen.blob([(0.5, 0.30), (middle[0] + side[0], middle[1] + side[1]), tip,
                      (middle[0] - side[0], middle[1] - side[1])],
                     mix(color, WHITE, 0.22 * ring), 0.2)  # fmt: skip
    pen.ellipse(0.5, 0.30, 0.095, 0.095, (0.85, 0.60, 0.14), 0.3)
    for index in range(14):
        turn = index * 2.4
        reach = 0.075 * math.sqrt(index / 14)
        pen.ellipse(0.5 + math.cos(turn) * reach, 0.30 + math.sin(turn) * reach, 0.011, 0.011,
                    (0.55, 0.34, 0.08), 0)  # fmt: skip


def apple(pen: Pen, color: Color) -> None:
    deep = mix(color, DARK, 0.35)
    pen.blob([(0.50, 0.24), (0.64, 0.17), (0.82, 0.22), (0.93, 0.42), (0.89, 0.68), (0.74, 0.93),
              (0.60, 0.985), (0.50, 0.96), (0.40, 0.985), (0.26, 0.93), (0.11, 0.68),
              (0.07, 0.42), (0.18, 0.22), (0.36, 0.17)], deep, 0.1)  # fmt: skip
    for step in range(30):
        share = (step + 1) / 30
        size = 1 - share * 0.62
        x, y = 0.5 - share * 0.105, 0.56 - share * 0.115
        pen.ellipse(x, y, 0.405 * size, 0.385 * size, mix(deep, mix(color, WHITE, 0.16), share), 0)
    pen.blob([(0.36, 0.235), (0.50, 0.29), (0.64, 0.235), (0.56, 0.255), (0.50, 0.33),
              (0.44, 0.255)], mix(color, DARK, 0.6), 0.0)  # fmt: skip
    pen.curve([(0.50, 0.29), (0.495, 0.16), (0.55, 0.03)], 0.032, (0.34, 0.22, 0.13))
    leaf = (0.36, 0.60, 0.22)
    pen.blob([(0.53, 0.15), (0.62, 0.04), (0.76, 0.02), (0.86, 0.06), (0.74, 0.15), (0.62, 0.18)],
             leaf, 0.25)  # fmt: skip
    pen.curve([(0.54, 0.145), (0.68, 0.085), (0.82, 0.065)], 0.007, mix(leaf, WHITE, 0.35))
    pen.blob([(0.22, 0.42), (0.28, 0.31), (0.37, 0.28), (0.33, 0.37), (0.26, 0.47)],
             mix(color, WHITE, 0.72), 0.0)  # fmt: skip
    pen.ellipse(0.235, 0.53, 0.017, 0.03, mix(color, WHITE, 0.6), 0)


def robot(pen: Pen, color: Color) -> None:
    dark, light = mix(color, DARK, 0.5), mix(color, WHITE, 0.45)
    eye = (0.40, 0.95, 1.0)
    pen.line([(0.5, 0.10), (0.5, 0.03)], 0.014, dark)
    pen.ellipse(0.5, 0.028, 0.034, 0.028, (1.0, 0.36, 0.26))
    for x in (0.40, 0.60):
        pen.polygon([(x - 0.045, 0.74), (x + 0.045, 0.74), (x + 0.045, 0.93), (x - 0.045, 0.93)],
                    dark)  # fmt: skip
        pen.line([(x - 0.04, 0.82), (x + 0.04, 0.82)], 0.008, light)
        pen.blob([(x - 0.08, 0.97), (x - 0.05, 0.91), (x + 0.05, 0.91), (x + 0.08, 0.97),
                  (x + 0.06, 0.995), (x - 0.06, 0.995)], color)  # fmt: skip
    for side in (-1, 1):
        pen.curve([(0.5 + side * 0.22, 0.47), (0.5 + side * 0.34, 0.55), (0.5 + side * 0.33, 0.68)],
                  0.055, dark)  # fmt: skip
        pen.ellipse(0.5 + side * 0.33, 0.70, 0.058, 0.048, light)
        pen.ellipse(0.5 + side * 0.23, 0.465, 0.07, 0.058, light)
    _rounded(pen, 0.28, 0.42, 0.72, 0.77, 0.06, color)
    _rounded(pen, 0.36, 0.48, 0.64, 0.66, 0.03, dark)
    pen.ellipse(0.44, 0.57, 0.045, 0.038, eye)
    pen.ellipse(0.44, 0.57, 0.024, 0.020, WHITE, 0)
    for index, hue in enumerate(((0.95, 0.35, 0.3), (0.98, 0.8, 0.3), (0.4, 0.85, 0.45))):
        pen.ellipse(0.54, 0.525 + index * 0.045, 0.018, 0.015, hue)
        pen.line([(0.57, 0.525 + index * 0.045), (0.615, 0.525 + index * 0.045)], 0.010, light)
    pen.polygon([(0.45, 0.37), (0.55, 0.37), (0.55, 0.43), (0.45, 0.43)], dark)
    for side in (-1, 1):
        _rounded(pen, 0.5 + side * 0.265 - 0.03, 0.20, 0.5 + side * 0.265 + 0.03, 0.31, 0.02, dark)
    _rounded(pen, 0.26, 0.10, 0.74, 0.39, 0.08, color)
    _rounded(pen, 0.31, 0.16, 0.69, 0.33, 0.06, DARK)
    for x in (0.41, 0.59):
        pen.ellipse(x, 0.235, 0.052, 0.045, eye)
        pen.ellipse(x - 0.012, 0.222, 0.020, 0.017, WHITE, 0)
    pen.curve([(0.45, 0.295), (0.5, 0.308), (0.55, 0.295)], 0.010, eye)


def rocket(pen: Pen, color: Color) -> None:
    for width, bottom, flame in ((0.13, 0.99, (1.0, 0.45, 0.12)), (0.085, 0.93, (1.0, 0.75, 0.25)),
                                 (0.045, 0.87, (1.0, 0.96, 0.75))):  # fmt: skip
        pen.blob([(0.5 - width * 0.8, 0.74), (0.5 - width, 0.82), (0.5, bottom),
                  (0.5 + width, 0.82), (0.5 + width * 0.8, 0.74)], flame, 0.04)  # fmt: skip
    pen.both([(0.36, 0.50), (0.17, 0.64), (0.12, 0.80), (0.24, 0.74), (0.38, 0.70)], color)
    pen.blob([(0.5, 0.01), (0.62, 0.16), (0.68, 0.38), (0.64, 0.62), (0.58, 0.73), (0.42, 0.73),
              (0.36, 0.62), (0.32, 0.38), (0.38, 0.16)], CREAM, 0.2)  # fmt: skip
    pen.blob([(0.5, 0.01), (0.575, 0.085), (0.625, 0.18), (0.5, 0.205), (0.375, 0.18),
              (0.425, 0.085)], color)  # fmt: skip
    pen.polygon([(0.40, 0.70), (0.60, 0.70), (0.57, 0.76), (0.43, 0.76)], (0.35, 0.36, 0.40))
    pen.ellipse(0.5, 0.34, 0.105, 0.072, (0.55, 0.58, 0.62))
    pen.ellipse(0.5, 0.34, 0.078, 0.053, GLASS, 0.4)
    pen.blob([(0.35, 0.56), (0.5, 0.59), (0.65, 0.56), (0.645, 0.61), (0.5, 0.64), (0.355, 0.61)],
             color)  # fmt: skip


def balloon(pen: Pen, color: Color) -> None:
    second = mix(color, CREAM, 0.78)
    for side in (-1, 1):
        pen.line([(0.5 + side * 0.16, 0.66), (0.5 + side * 0.065, 0.87)], 0.006, (0.35, 0.25, 0.18))
    gores = 8
    for index in range(gores):
        left, right = (math.cos(math.pi * (1 - edge / gores)) for edge in (index, index + 1))
        pen.polygon([*_gore(left), *reversed(_gore(right))], second if index % 2 else color, 0.12)
    pen.polygon([(0.40, 0.675), (0.60, 0.675), (0.585, 0.71), (0.415, 0.71)], mix(color, DARK, 0.4))
    _rounded(pen, 0.43, 0.86, 0.57, 0.97, 0.02, (0.55, 0.36, 0.20))
    for y in (0.89, 0.92, 0.945):
        pen.line([(0.44, y), (0.56, y)], 0.005, (0.38, 0.24, 0.13))


def person(pen: Pen, color: Color) -> None:
    skin, hair, trousers = (0.90, 0.70, 0.56), (0.28, 0.18, 0.13), (0.22, 0.27, 0.40)
    for side in (-1, 1):
        pen.polygon([(0.5, 0.56), (0.5 + side * 0.17, 0.56), (0.5 + side * 0.18, 0.95),
                     (0.5 + side * 0.05, 0.95)], trousers)  # fmt: skip
        pen.blob([(0.5 + side * 0.04, 0.98), (0.5 + side * 0.06, 0.94), (0.5 + side * 0.18, 0.94),
                  (0.5 + side * 0.24, 0.985)], DARK)  # fmt: skip
        pen.curve([(0.5 + side * 0.19, 0.32), (0.5 + side * 0.28, 0.45), (0.5 + side * 0.27, 0.58)],
                  0.055, mix(color, DARK, 0.15))  # fmt: skip
        pen.ellipse(0.5 + side * 0.27, 0.60, 0.05, 0.028, skin)
    pen.blob([(0.5, 0.255), (0.67, 0.28), (0.71, 0.36), (0.67, 0.60), (0.5, 0.62), (0.33, 0.60),
              (0.29, 0.36), (0.33, 0.28)], color)  # fmt: skip
    pen.polygon([(0.44, 0.20), (0.56, 0.20), (0.57, 0.27), (0.43, 0.27)], skin)
    pen.ellipse(0.5, 0.13, 0.19, 0.105, hair)
    pen.ellipse(0.5, 0.15, 0.155, 0.088, skin)
    pen.blob([(0.31, 0.14), (0.36, 0.05), (0.5, 0.02), (0.64, 0.05), (0.69, 0.14), (0.60, 0.095),
              (0.48, 0.10), (0.38, 0.10)], hair)  # fmt: skip
    for x in (0.435, 0.565):
        pen.ellipse(x, 0.148, 0.018, 0.011, DARK, 0)
    pen.curve([(0.46, 0.195), (0.5, 0.203), (0.54, 0.195)], 0.007, (0.65, 0.32, 0.30))


def astronaut(pen: Pen, color: Color) -> None:
    joint = (0.80, 0.36, 0.20)
    _rounded(pen, 0.26, 0.32, 0.74, 0.62, 0.06, mix(color, DARK, 0.3))
    for side in (-1, 1):
        pen.blob([(0.5 + side * 0.02, 0.62), (0.5 + side * 0.20, 0.62), (0.5 + side * 0.22, 0.90),
                  (0.5 + side * 0.05, 0.92)], color)  # fmt: skip
        pen.blob([(0.5 + side * 0.04, 0.98), (0.5 + side * 0.06, 0.89), (0.5 + side * 0.21, 0.89),
                  (0.5 + side * 0.26, 0.985)], mix(color, DARK, 0.35))  # fmt: skip
        pen.curve([(0.5 + side * 0.20, 0.38), (0.5 + side * 0.33, 0.48), (0.5 + side * 0.36, 0.60)],
                  0.085, color)  # fmt: skip
        pen.ellipse(0.5 + side * 0.365, 0.63, 0.058, 0.042, joint)
    pen.blob([(0.5, 0.31), (0.70, 0.36), (0.73, 0.52), (0.66, 0.67), (0.5, 0.69), (0.34, 0.67),
              (0.27, 0.52), (0.30, 0.36)], color)  # fmt: skip
    _rounded(pen, 0.40, 0.46, 0.60, 0.56, 0.02, (0.36, 0.38, 0.44))
    for index, hue in enumerate(((0.9, 0.3, 0.25), (0.35, 0.75, 0.4), (0.3, 0.55, 0.9))):
        pen.ellipse(0.445 + index * 0.055, 0.49, 0.018, 0.013, hue)
    pen.ellipse(0.5, 0.18, 0.265, 0.18, color)
    pen.ellipse(0.5, 0.19, 0.205, 0.128, joint, 0.1)
    pen.ellipse(0.5, 0.19, 0.188, 0.116, (0.16, 0.20, 0.34), 0.3)
    pen.blob([(0.36, 0.19), (0.40, 0.13), (0.49, 0.10), (0.44, 0.14), (0.39, 0.21)],
             (0.72, 0.82, 0.95), 0)  # fmt: skip


def castle(pen: Pen, color: Color) -> None:
    roof = (0.32, 0.28, 0.46)
    for x, top, half in ((0.30, 0.26, 0.065), (0.70, 0.30, 0.065), (0.5, 0.16, 0.085)):
        pen.polygon([(x - half, top), (x + half, top), (x + half, 0.9), (x - half, 0.9)],
                    mix(color, DARK, 0.12), 0.14)  # fmt: skip
        pen.polygon([(x - half - 0.02, top), (x, top - 0.15), (x + half + 0.02, top)], roof, 0.2)
        pen.line([(x, top - 0.15), (x, top - 0.165)], 0.006, DARK)
        _arch(pen, x, top + 0.12, 0.018, GLOW)
    for x in (0.14, 0.86):
        pen.polygon([(x - 0.09, 0.44), (x + 0.09, 0.44), (x + 0.09, 0.99), (x - 0.09, 0.99)], color)
        pen.polygon([(x - 0.115, 0.45), (x, 0.25), (x + 0.115, 0.45)], roof, 0.2)
        _arch(pen, x, 0.58, 0.022, GLOW)
    pen.polygon([(0.20, 0.56), (0.80, 0.56), (0.80, 0.99), (0.20, 0.99)], color, 0.1)
    for index in range(7):
        x = 0.205 + index * 0.0885
        pen.polygon([(x, 0.51), (x + 0.05, 0.51), (x + 0.05, 0.57), (x, 0.57)], color, 0.08)
    _arch(pen, 0.5, 0.82, 0.10, (0.24, 0.16, 0.12))
    for x in (0.31, 0.69):
        _arch(pen, x, 0.70, 0.025, GLOW)


def mushroom(pen: Pen, color: Color) -> None:
    pen.blob([(0.40, 0.50), (0.42, 0.75), (0.35, 0.97), (0.5, 1.0), (0.65, 0.97), (0.58, 0.75),
              (0.60, 0.50)], CREAM, 0.14)  # fmt: skip
    pen.blob([(0.06, 0.52), (0.5, 0.44), (0.94, 0.52), (0.75, 0.60), (0.5, 0.62), (0.25, 0.60)],
             mix(CREAM, DARK, 0.25))  # fmt: skip
    pen.blob([(0.05, 0.52), (0.12, 0.28), (0.32, 0.09), (0.5, 0.05), (0.68, 0.09), (0.88, 0.28),
              (0.95, 0.52), (0.72, 0.55), (0.5, 0.56), (0.28, 0.55)], color, 0.24)  # fmt: skip
    for x, y, r in ((0.30, 0.26, 0.06), (0.56, 0.17, 0.07), (0.74, 0.34, 0.06), (0.46, 0.40, 0.065),
                    (0.18, 0.44, 0.04), (0.66, 0.48, 0.035)):  # fmt: skip
        pen.ellipse(x, y, r, r * 0.8, CREAM, 0.08)


def butterfly(pen: Pen, color: Color) -> None:
    spot, rim = mix(color, GLOW, 0.75), mix(color, DARK, 0.7)
    pen.both([(0.48, 0.50), (0.36, 0.16), (0.14, 0.06), (0.03, 0.18), (0.08, 0.42), (0.26, 0.54)],
             rim)  # fmt: skip
    pen.both([(0.48, 0.52), (0.26, 0.54), (0.13, 0.70), (0.20, 0.92), (0.36, 0.90), (0.46, 0.68)],
             rim)  # fmt: skip
    pen.both([(0.46, 0.48), (0.35, 0.21), (0.16, 0.12), (0.08, 0.21), (0.12, 0.39), (0.28, 0.50)],
             color, 0.25)  # fmt: skip
    pen.both([(0.46, 0.55), (0.28, 0.57), (0.18, 0.70), (0.23, 0.86), (0.34, 0.84), (0.43, 0.67)],
             mix(color, WHITE, 0.2), 0.25)  # fmt: skip
    for side in (-1, 1):
        pen.ellipse(0.5 + side * 0.27, 0.30, 0.06, 0.06, spot)
        pen.ellipse(0.5 + side * 0.25, 0.70, 0.045, 0.045, spot)
        pen.curve([(0.5, 0.30), (0.5 + side * 0.06, 0.16), (0.5 + side * 0.12, 0.10)], 0.009, DARK)
    pen.ellipse(0.5, 0.52, 0.028, 0.23, DARK, 0.3)
    pen.ellipse(0.5, 0.30, 0.036, 0.040, DARK, 0.3)


def cup(pen: Pen, color: Color) -> None:
    for x, lean in ((0.36, 0.05), (0.50, -0.05), (0.62, 0.05)):
        pen.curve([(x, 0.32), (x + lean, 0.22), (x - lean, 0.12), (x + lean * 0.4, 0.02)], 0.016,
                  (0.93, 0.93, 0.95))  # fmt: skip
    pen.ellipse(0.47, 0.93, 0.44, 0.065, mix(color, WHITE, 0.25))
    pen.ellipse(0.80, 0.60, 0.14, 0.15, color)
    pen.ellipse(0.80, 0.60, 0.085, 0.095, mix(color, DARK, 0.55))
    pen.blob([(0.15, 0.40), (0.79, 0.40), (0.77, 0.66), (0.64, 0.90), (0.47, 0.935), (0.30, 0.90),
              (0.17, 0.66)], color, 0.25)  # fmt: skip
    pen.ellipse(0.47, 0.40, 0.335, 0.082, mix(color, WHITE, 0.45))
    pen.ellipse(0.47, 0.405, 0.295, 0.064, (0.32, 0.19, 0.11), 0.25)


FIGURES = {
    "fox": Figure(fox, (0.86, 0.42, 0.14), "fox foxes vixen", 0.50, 1.0, "ground", "forest"),
    "cat": Figure(cat, (0.80, 0.56, 0.32), "cat kitten kitty", 0.50),
    "dog": Figure(dog, (0.72, 0.50, 0.30), "dog puppy corgi hound", 0.52),
    "rabbit": Figure(rabbit, (0.68, 0.58, 0.50), "rabbit bunny hare", 0.44),
    "bear": Figure(bear, (0.45, 0.30, 0.20), "bear teddy panda", 0.54, 1.0, "ground", "forest"),
    "owl": Figure(owl, (0.52, 0.38, 0.26), "owl", 0.46, 0.86, "ground", "forest"),
    "bird": Figure(bird, (0.22, 0.48, 0.76), "bird sparrow robin parrot", 0.40, 1.2),
    "fish": Figure(fish, (0.94, 0.46, 0.16), "fish goldfish", 0.36, 1.5, "air", "underwater"),
    "whale": Figure(whale, (0.24, 0.38, 0.56), "whale dolphin", 0.42, 1.6, "water", "sea"),
    "horse": Figure(horse, (0.52, 0.32, 0.20), "horse pony stallion unicorn", 0.56, 1.1),
    "car": Figure(car, (0.78, 0.16, 0.16), "car automobile taxi", 0.30, 2.0, "ground", "city"),
    "boat": Figure(
        boat, (0.72, 0.20, 0.18), "boat ship sailboat yacht", 0.50, 0.95, "water", "sea"
    ),
    "house": Figure(house, (0.86, 0.74, 0.58), "house cottage cabin hut home", 0.52),
    "lighthouse": Figure(
        lighthouse, (0.76, 0.17, 0.15), "lighthouse beacon", 0.72, 0.52, "water", "sea"
    ),
    "tree": Figure(tree, (0.30, 0.52, 0.22), "tree oak maple", 0.66),
    "flower": Figure(flower, (0.86, 0.28, 0.45), "flower rose tulip sunflower daisy", 0.60, 0.9),
    "apple": Figure(apple, (0.76, 0.12, 0.13), "apple fruit", 0.52, 1.0, "table", "table"),
    "robot": Figure(robot, (0.62, 0.68, 0.74), "robot android droid", 0.60, 0.82, "ground", "city"),
    "rocket": Figure(rocket, (0.82, 0.20, 0.18), "rocket spaceship", 0.62, 0.66, "air", "space"),
    "balloon": Figure(balloon, (0.86, 0.26, 0.20), "balloon", 0.56, 0.8, "air", "mountains"),
    "person": Figure(
        person, (0.24, 0.46, 0.62), "person man woman girl boy child wizard king queen", 0.56, 0.55
    ),
    "astronaut": Figure(astronaut, CREAM, "astronaut cosmonaut", 0.56, 0.68, "ground", "space"),
    "castle": Figure(castle, (0.66, 0.62, 0.60), "castle palace fortress", 0.64),
    "mushroom": Figure(
        mushroom, (0.80, 0.16, 0.14), "mushroom toadstool", 0.44, 1.0, "ground", "forest"
    ),
    "butterfly": Figure(butterfly, COLORS["orange"], "butterfly moth", 0.42, 1.1, "air", "meadow"),
    "cup": Figure(cup, (0.30, 0.50, 0.62), "cup coffee tea mug", 0.50, 1.1, "table", "table"),
}

WORDS = {word: name for name, figure in FIGURES.items() for word in figure.words.split()}


def _eyes(pen: Pen, x: float, y: float, rx: float, ry: float) -> None:
    for middle in (x, 1 - x):
        pen.ellipse(middle, y, rx, ry, DARK, 0)
        pen.ellipse(middle - rx * 0.3, y - ry * 0.35, rx * 0.34, ry * 0.3, WHITE, 0)


def _rounded(
    pen: Pen, left: float, top: float, right: float, bottom: float, radius: float, color: Color
) -> None:
    corners = [
        (right - radius, top + radius, -90),
        (right - radius, bottom - radius, 0),
        (left + radius, bottom - radius, 90),
        (left + radius, top + radius, 180),
    ]
    outline: Points = []
    for x, y, start in corners:
        for turn in range(start, start + 91, 15):
            angle = math.radians(turn)
            outline.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    pen.polygon(outline, color)


def _arch(pen: Pen, x: float, y: float, half: float, color: Color) -> None:
    turns = [math.radians(turn) for turn in range(0, 181, 20)]
    curve = [(x + half * math.cos(turn), y - half * 1.2 * math.sin(turn)) for turn in turns]
    pen.polygon([(x + half, y + half * 1.7), *curve, (x - half, y + half * 1.7)], color)


def _gore(across: float) -> Points:
    """One seam of a balloon, from its top to its mouth."""
    seam: Points = []
    for step in range(19):
        y = step / 18
        if y < 0.55:
            width = 0.46 * math.sin(math.pi / 2 * (y / 0.55) ** 0.55)
        else:
            width = 0.46 - 0.36 * ((y - 0.55) / 0.45) ** 1.25
        seam.append((0.5 + across * width, 0.01 + 0.67 * y))
    return seam
