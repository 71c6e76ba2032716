"""The models on offer, read from `catalog.toml`, and what each of them takes."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

from common.errors import ConfigurationError

__all__ = ["Catalog", "Model", "Route", "SizeRule"]


@dataclass(frozen=True, slots=True)
class SizeRule:
    """Sizes a model takes beyond its list: sides that are multiples of `step`, in pixels."""

    step: int
    min: int
    max: int

    def admits(self, width: int, height: int) -> bool:
        return all(
            self.min <= side <= self.max and side % self.step == 0 for side in (width, height)
        )


@dataclass(frozen=True, slots=True)
class Route:
    """One way to serve a model."""

    provider: str
    model: str  # what the provider calls it
    notice: str = ""  # said in `warnings` of every task that takes this route
    quality: dict[str, str] = field(default_factory=dict)  # our word -> the provider's
    upstream_size: str = ""  # asked of the provider whatever the caller's size; scaled afterwards
    drops: tuple[str, ...] = ()
    cap: int = 0  # most calls in flight at a time, of the whole fleet; 0 for any number
    price_per_image_usd: float | None = None  # where it is not the model's

    @property
    def name(self) -> str:
        """The route as the fleet knows it: models that are served alike share it."""
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True, slots=True)
class Model:
    """A catalog entry: what clients may ask for, and the routes that can serve it."""

    id: str
    owned_by: str
    mode: Literal["inline", "task"]  # how the provider usually answers
    description: str
    sizes: tuple[str, ...]
    default_size: str
    max_n: int
    max_prompt_characters: int
    routes: tuple[Route, ...]
    typical_seconds: float
    deadline_seconds: int
    created: int
    size_rule: SizeRule | None = None
    qualities: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    output_formats: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    price_per_image_usd: float | None = None

    def takes_size(self, size: str) -> bool:
        """Whether `size`, WIDTHxHEIGHT, can be asked of this model."""
        if size in self.sizes:
            return True
        width, _, height = size.partition("x")
        if self.size_rule is None or not size.isascii():
            return False
        if not (width.isdecimal() and height.isdecimal()):
            return False
        return self.size_rule.admits(int(width), int(height))

    def route(self, providers: Collection[str]) -> Route | None:
        """The first route whose provider is among the configured `providers`."""
        return next((route for route in self.routes if route.provider in providers), None)


class Catalog:
    """All models by their public id, in the order of the file."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.id: model for model in models}

    @classmethod
    def load(cls) -> Catalog:
        """Read the catalog that ships with the package.

        Raises ConfigurationError naming the entry that is wrong.
        """
        text = resources.files("common").joinpath("catalog.toml").read_text("utf-8")
        return cls(_model(name, entry) for name, entry in tomllib.loads(text).items())

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def get(self, model_id: str) -> Model | None:
        return self._models.get(model_id)

    def resembling(self, model_id: str) -> list[str]:
        """Up to three ids that somebody who wrote `model_id` may have meant, likeliest first."""
        return difflib.get_close_matches(model_id.lower(), self._models, n=3, cutoff=0.5)

    def providers(self) -> frozenset[str]:
        """Every provider that a route names, configured or not."""
        return frozenset(route.provider for model in self for route in model.routes)


def _model(model_id: str, entry: dict[str, Any]) -> Model:
    try:
        routes = tuple(_frozen(Route, route) for route in entry.pop("routes"))
        rule = SizeRule(**entry.pop("size_rule")) if "size_rule" in entry else None
        model: Model = _frozen(Model, {"id": model_id, "routes": routes, "size_rule": rule} | entry)
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"catalog.toml, model {model_id}: {error}") from error
    if not model.takes_size(model.default_size) or not 1 <= model.max_n <= 4 or not routes:
        raise ConfigurationError(f"catalog.toml, model {model_id}: default_size, max_n or routes")
    return model


def _frozen(cls: Any, entry: dict[str, Any]) -> Any:
    return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()})
