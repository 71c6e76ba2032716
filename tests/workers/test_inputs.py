"""Tasks that start from pictures: what reaches the provider, and what may happen on the way."""

from __future__ import annotations

import hashlib
import io
import time
from pathlib import Path
from threading import Timer

import pytest
from PIL import Image as Pillow

from common.errors import OutcomeUnknown, ProviderError, Unavailable
from common.task import Claim, Input
from tests.workers.pictures import picture
from tests.workers.plain import Plain, PlainInFours, pictures
from tests.workers.workshop import JOB, Workshop, in_turn, never, raising
from workers.courier import Deferred
from workers.providers.base import Image


def mask() -> bytes:
    image = Pillow.new("RGBA", (64, 48), (1, 2, 3, 255))
    image.paste((4, 5, 6, 0), (0, 0, 32, 48))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def told(file: str, data: bytes) -> Input:
    return Input(file, "png", 64, 48, len(data), hashlib.sha256(data).hexdigest())


FIRST, SECOND = picture(), picture(60, 40)
INPUTS = (told("input-0.png", FIRST), told("input-1.png", SECOND))


def keep(shop: Workshop, held: Claim, *, masked: bool = False) -> None:
    """Do what the front end does before there is a task."""
    for name, data in (("input-0.png", FIRST), ("input-1.png", SECOND)):
        shop.storage.put(f"{held.task.id}/{name}", data)
    if masked:
        shop.storage.put(f"{held.task.id}/mask.png", mask())


def edit(shop: Workshop, *, model: str = "retoucher", n: int = 1, kept: bool = True) -> Claim:
    held = shop.claim(n=n, model=model, operation="edit", inputs=INPUTS)
    if kept:
        keep(shop, held)
    return held


def test_the_provider_gets_what_was_uploaded(shop: Workshop) -> None:
    provider = Plain()

    result = shop.run(provider, edit(shop))

    assert len(result.images) == 1
    assert provider.orders[0].images == (Image(FIRST, "png"), Image(SECOND, "png"))
    assert provider.orders[0].mask is None


@pytest.mark.parametrize(("form", "mode"), [("alpha", "RGBA"), ("black", "L")])
def test_a_mask_comes_in_the_form_that_the_provider_wants(
    shop: Workshop, form: str, mode: str
) -> None:
    provider = Plain()
    provider.mask_form = form  # type: ignore[misc, assignment]
    held = shop.claim(
        model="retoucher", operation="edit", inputs=INPUTS, mask=told("mask.png", mask())
    )
    keep(shop, held, masked=True)

    shop.run(provider, held)

    given = provider.orders[0].mask
    assert given is not None
    assert Pillow.open(io.BytesIO(given.data)).mode == mode


def test_each_call_of_a_task_starts_from_the_same(shop: Workshop) -> None:
    provider = Plain()

    shop.run(provider, edit(shop, n=4))

    assert len(provider.orders) == 4
    assert all(order.images == provider.orders[0].images for order in provider.orders)


def test_a_route_that_does_not_edit_is_skipped(shop: Workshop) -> None:
    words_only, second = Plain(never), Plain()

    result = shop.run(words_only, edit(shop, model="half a retoucher"), second=second)

    assert result.provider == "second"
    assert words_only.submits == []


def test_a_generation_of_the_same_model_takes_the_first_route(shop: Workshop) -> None:
    second = Plain(never)

    result = shop.run(Plain(), shop.claim(model="half a retoucher"), second=second)

    assert result.provider == "plain"


def test_without_a_route_that_edits_the_task_fails(shop: Workshop) -> None:
    held = shop.claim(model="painter", operation="edit", inputs=INPUTS)

    failure = shop.fail(Plain(never), held)

    assert (failure.code, failure.billed) == ("model_unavailable", "no")


def test_what_was_not_bought_is_asked_of_the_next_route(shop: Workshop) -> None:
    first, second = Plain(raising(Unavailable("no connection"))), Plain()

    result = shop.run(first, edit(shop), second=second)

    assert result.provider == "second"
    assert second.orders[0].images == first.orders[0].images


def test_an_edit_whose_outcome_is_unknown_is_not_bought_again(shop: Workshop) -> None:
    first, second = Plain(raising(OutcomeUnknown("reset"))), Plain(never)

    failure = shop.fail(first, edit(shop), second=second)

    assert (failure.code, failure.billed) == ("outcome_unknown", "unknown")


def test_some_pictures_of_an_edit_are_better_than_none(shop: Workshop) -> None:
    provider = Plain(in_turn(pictures(), ProviderError("no", billed="yes"), pictures(), pictures()))

    result = shop.run(provider, edit(shop, n=4))

    assert (len(result.images), len(result.missing)) == (3, 1)


def test_several_pictures_of_one_call(shop: Workshop) -> None:
    provider = PlainInFours()

    assert len(shop.run(provider, edit(shop, n=4)).images) == 4
    assert provider.submits == [(0, 4)]


@pytest.mark.parametrize("damage", ["gone", "other"])
def test_without_what_it_starts_from_nothing_is_sent(shop: Workshop, damage: str) -> None:
    held = edit(shop, kept=damage != "gone")
    if damage == "other":
        shop.storage.put(f"{held.task.id}/input-1.png", FIRST)

    failure = shop.fail(Plain(never), held)

    assert (failure.code, failure.billed) == ("internal_error", "no")
    assert failure.message == "An image that the task starts from is not stored any more."
    assert shop.journal(held.task.id) == {}


def test_a_store_that_is_away_for_a_while_is_waited_for(shop: Workshop, tmp_path: Path) -> None:
    held = edit(shop)
    folder = tmp_path / held.task.id
    away = tmp_path / "away"
    folder.rename(away)
    folder.write_text("no directory: reading below it is an error, not an absence")

    def back() -> None:
        folder.unlink()
        away.rename(folder)

    timer = Timer(0.5, back)
    timer.start()
    provider = Plain()
    started = time.monotonic()

    shop.run(provider, held)
    timer.join()

    assert time.monotonic() - started > 0.4
    assert provider.orders[0].images[0].data == FIRST


def test_a_job_that_was_accepted_goes_on_without_what_it_started_from(shop: Workshop) -> None:
    provider = Plain(lambda first, count: JOB, raising(Deferred("stop", 0)))
    held = edit(shop)
    with pytest.raises(Deferred):
        shop.run(provider, held)
    shop.storage.delete(*(each.name(held.task.id) for each in INPUTS))

    heir = Plain(never)
    result = shop.run(heir, shop.again(held))

    assert len(result.images) == 1
