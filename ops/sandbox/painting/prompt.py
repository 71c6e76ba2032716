"""Reads from a prompt what a painter can use: place, time, weather, subjects and colours."""

import re
from dataclasses import dataclass

Color = tuple[float, float, float]
"""Red, green and blue from 0 to 1."""

COLORS: dict[str, Color] = {
    "red": (0.80, 0.13, 0.13),
    "crimson": (0.70, 0.06, 0.18),
    "scarlet": (0.88, 0.16, 0.10),
    "orange": (0.93, 0.49, 0.13),
    "amber": (0.95, 0.66, 0.15),
    "yellow": (0.96, 0.80, 0.22),
    "gold": (0.86, 0.66, 0.22),
    "golden": (0.86, 0.66, 0.22),
    "green": (0.27, 0.58, 0.27),
    "emerald": (0.10, 0.55, 0.38),
    "turquoise": (0.20, 0.70, 0.70),
    "teal": (0.10, 0.48, 0.50),
    "cyan": (0.25, 0.75, 0.88),
    "blue": (0.16, 0.37, 0.75),
    "indigo": (0.27, 0.22, 0.60),
    "purple": (0.48, 0.25, 0.62),
    "violet": (0.52, 0.33, 0.74),
    "magenta": (0.78, 0.20, 0.56),
    "pink": (0.94, 0.55, 0.68),
    "brown": (0.45, 0.29, 0.18),
    "white": (0.93, 0.93, 0.91),
    "silver": (0.72, 0.75, 0.78),
    "grey": (0.50, 0.52, 0.55),
    "gray": (0.50, 0.52, 0.55),
    "black": (0.13, 0.13, 0.16),
}

PLACES = {
    "forest": "forest woods wood jungle pines wald forêt bosque",
    "mountains": "mountain mountains alps peak peaks valley hill hills volcano",
    "sea": "sea ocean lake river harbor harbour waves coast storm-tossed water",
    "beach": "beach shore island tropical",
    "desert": "desert dunes sahara canyon",
    "city": "city street town skyline urban tokyo paris london york cyberpunk neon",
    "space": "space galaxy cosmos nebula universe orbit stars planet mars",
    "snow": "snow snowy arctic winter ice frozen glacier",
    "meadow": "meadow field fields garden grass park farm countryside prairie",
    "underwater": "underwater reef coral seabed aquarium",
    "table": "table desk studio kitchen still-life plate",
}
TIMES = {
    "night": "night midnight moonlight moonlit nocturnal dark starry",
    "sunset": "sunset dusk evening twilight",
    "dawn": "dawn sunrise morning",
    "day": "day noon midday sunny daylight",
}
WEATHERS = {
    "storm": "storm stormy thunderstorm lightning thunder tempest",
    "rain": "rain rainy raining drizzle wet",
    "snowfall": "snowing snowfall snowstorm blizzard snowflakes",
    "mist": "mist misty fog foggy haze hazy",
}
ABSTRACT = frozenset(
    ["abstract", "pattern", "fractal", "dream", "dreams", "psychedelic", "texture", "geometric"]
)


@dataclass(frozen=True)
class Wish:
    """What a prompt asks for, as far as it was understood."""

    place: str | None
    time: str | None
    weather: frozenset[str]
    subjects: tuple[tuple[str, Color | None], ...]
    """Names of figures, each with the colour it was given, in the order they were named."""
    colors: tuple[Color, ...]
    """The colours that belong to no subject."""
    is_abstract: bool


def read(prompt: str, figures: dict[str, str]) -> Wish:
    """Understand a prompt. `figures` says which figure a word means."""
    words = re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", re.sub(r"\bsim:\S+", " ", prompt.lower()))
    subjects: dict[str, Color | None] = {}
    used = set()
    for index, word in enumerate(words):
        name = figures.get(word) or figures.get(word.removesuffix("s"))
        if name is None or name in subjects:
            continue
        subjects[name] = None
        for before in range(index - 1, max(-1, index - 4), -1):
            if words[before] in COLORS and before not in used:
                subjects[name] = COLORS[words[before]]
                used.add(before)
                break
    colors = [
        COLORS[word] for index, word in enumerate(words) if word in COLORS and index not in used
    ]
    return Wish(
        place=_first(words, PLACES),
        time=_first(words, TIMES),
        weather=frozenset(kind for kind in WEATHERS if set(WEATHERS[kind].split()) & set(words)),
        subjects=tuple(subjects.items()),
        colors=tuple(colors),
        is_abstract=bool(ABSTRACT & set(words)),
    )


def _first(words: list[str], meanings: dict[str, str]) -> str | None:
    named = {word: meaning for meaning, known in meanings.items() for word in known.split()}
    return next((named[word] for word in words if word in named), None)
