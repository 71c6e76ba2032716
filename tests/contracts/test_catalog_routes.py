"""What the catalog lets through, the provider of every route takes: sizes, words, formats."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from common.catalog import Catalog, Model, Route, SizeRule
from common.task import ImageRequest
from tests.contracts.cases import CASES
from tests.contracts.conftest import Connect, Sandbox

ROUTES = [(model, route) for model in Catalog.load() for route in model.routes]

each_route = pytest.mark.parametrize(
    ("model", "route"), ROUTES, ids=[f"{model.id}-{route.provider}" for model, route in ROUTES]
)


@each_route
def test_takes_the_outermost_sizes(
    connect: Connect, sandbox: Sandbox, model: Model, route: Route
) -> None:
    buyer = connect(route.provider, sandbox.url + CASES[route.provider].sandbox_path, sandbox=True)
    sizes = [tuple(map(int, size.split("x"))) for size in model.sizes]
    admitted = list(_admitted(model.size_rule)) if model.size_rule else []

    for width, height in _outermost(sizes) | _outermost(admitted):
        request = ImageRequest(model.id, "a fox", size=f"{width}x{height}")
        buyer.submit("a fox", request=request, route=route, timeout=30)


@each_route
def test_takes_every_word(connect: Connect, sandbox: Sandbox, model: Model, route: Route) -> None:
    buyer = connect(route.provider, sandbox.url + CASES[route.provider].sandbox_path, sandbox=True)
    words = [
        *({"quality": quality} for quality in model.qualities),
        *({"output_format": name} for name in model.output_formats),
        *({"style": style} for style in model.styles),
    ]
    if "background" in model.parameters:
        words += [{"background": "transparent", "moderation": "low"}]
    if "output_compression" in model.parameters:
        words += [{"output_format": "jpeg", "output_compression": 50}]

    for said in words or [{}]:
        request = ImageRequest(model.id, "a fox", size=model.default_size, **said)
        buyer.submit("a fox", request=request, route=route, timeout=30)


def _outermost(sizes: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """The smallest, the largest, the widest and the tallest."""
    if not sizes:
        return set()
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    by_shape = sorted(sizes, key=lambda size: size[0] / size[1])
    return {by_area[0], by_area[-1], by_shape[0], by_shape[-1]}


def _admitted(rule: SizeRule) -> Iterator[tuple[int, ...]]:
    sides = range(rule.min, rule.max + 1, rule.step)
    return ((w, h) for w in sides for h in sides if rule.admits(w, h))
