"""The sandbox draws what it is asked for, the same every time."""

import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ops.sandbox.painting import paint
from ops.sandbox.painting.figures import FIGURES, WORDS
from ops.sandbox.painting.places import PLACES
from ops.sandbox.painting.prompt import COLORS, read


def pixels(prompt: str, width: int = 96, height: int = 96, **options) -> np.ndarray:
    return np.asarray(paint(prompt, width, height, **options), np.int16)


def test_the_same_request_gives_the_same_picture():
    assert np.array_equal(pixels("a fox", seed=1), pixels("a fox", seed=1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prompt": "a fox"}, {"prompt": "a fox", "seed": 1}),
        ({"prompt": "a fox"}, {"prompt": "a cat"}),
        ({"prompt": "a red car"}, {"prompt": "a blue car"}),
        ({"prompt": "the sea at night"}, {"prompt": "the sea at dawn"}),
        ({"prompt": "justice"}, {"prompt": "liberty"}),
    ],
)
def test_other_requests_give_other_pictures(one, other):
    assert np.abs(pixels(**one) - pixels(**other)).mean() > 2


@pytest.mark.parametrize("size", [(64, 64), (191, 64), (64, 191)])
@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_painted_in_exactly_the_size(place, size):
    prompt = f"a fox, a boat and a castle in the {place} at night in a snowstorm, storm and mist"

    image = paint(prompt, *size)

    assert (image.size, image.mode) == (size, "RGB")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_and_can_be_cut_out(name):
    cut_out = pixels(name, transparent=True)

    assert cut_out[..., 3].max() == 255
    assert 0.05 < (cut_out[..., 3] > 128).mean() < 0.9
    assert pixels(name).std() > 10


@pytest.mark.parametrize("prompt", ["", "sim:slow", "狐", "x" * 32_000, "a fox " * 5_000])
def test_any_prompt_gives_a_picture(prompt):
    assert pixels(prompt).std() > 5


def test_a_prompt_is_understood():
    wish = read("A small red fox and two cats in a misty forest at night, blue light", WORDS)

    assert wish.place == "forest"
    assert wish.time == "night"
    assert wish.weather == {"mist"}
    assert wish.subjects == (("fox", COLORS["red"]), ("cat", None))
    assert wish.colors == (COLORS["blue"],)


def test_a_red_apple_is_red():
    middle = pixels("a red apple", 128, 128)[60:80, 56:72].mean(axis=(0, 1))

    assert middle[0] > 2 * max(middle[1], middle[2])


def test_a_small_picture_comes_in_milliseconds_when_asked_for_again(launch):
    sandbox = launch(SANDBOX_SPEED="1000")
    sandbox.picture(width=256, height=256, seed=7)

    started = time.monotonic()
    picture = sandbox.picture(width=256, height=256, seed=7)

    assert time.monotonic() - started < 1
    assert Image.open(BytesIO(picture.content)).size == (256, 256)


def test_providers_draw_the_same_prompt_and_seed_alike(sandbox):
    sandbox.fault({"picture": "drawn"})

    first, again, other = (
        sandbox.picture(width=256, height=256, seed=seed).content for seed in (7, 7, 8)
    )

    assert first == again != other
