"""The models on offer, read from `catalog.toml`, and what each of them takes."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from common.errors import ConfigurationError

__all__ = ["Catalog", "Model", "Route", "SizeRule"]

_Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_KNOWN_FIELDS_ONLY = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class SizeRule:
    """Sizes a model takes beyond its list, in pixels; a limit of 0 is none.

    Its text is what a caller is told who asked for another size.
    """

    __pydantic_config__: ClassVar = _KNOWN_FIELDS_ONLY

    step: Annotated[int, Field(ge=1)]  # both sides are multiples of it
    min: Annotated[int, Field(ge=1)]  # of a side
    max: Annotated[int, Field(ge=1)]  # of a side
    min_pixels: Annotated[int, Field(ge=0)] = 0  # of the whole picture
    max_pixels: Annotated[int, Field(ge=0)] = 0  # of the whole picture
    max_ratio: Annotated[int, Field(ge=0)] = 0  # of the longer side to the shorter

    def admits(self, width: int, height: int) -> bool:
        sides = all(
            self.min <= side <= self.max and side % self.step == 0 for side in (width, height)
        )
        shape = not self.max_ratio or max(width, height) <= self.max_ratio * min(width, height)
        most = self.max_pixels or math.inf
        return sides and shape and self.min_pixels <= width * height <= most

    def __str__(self) -> str:
        text = f"sides from {self.min} to {self.max} that are multiples of {self.step}"
        if self.max_ratio:
            text += f", the longer at most {self.max_ratio} times the shorter"
        match self.min_pixels, self.max_pixels:
            case 0, 0:
                return text
            case 0, most:
                return f"{text}, at most {most} pixels in all"
            case least, 0:
                return f"{text}, at least {least} pixels in all"
            case least, most:
                return f"{text}, {least} to {most} pixels in all"


@dataclass(frozen=True, slots=True)
class Route:
    """One way to serve a model."""

    __pydantic_config__: ClassVar = _KNOWN_FIELDS_ONLY

    provider: str
    model: str  # what the provider calls it
    notice: str = ""  # said in `warnings` of every task that takes this route
    quality: dict[str, str] = field(default_factory=dict)  # our word -> the provider's
    upstream_sizes: dict[str, str] = field(default_factory=dict)  # a caller's -> what is asked for
    drops: tuple[str, ...] = ()
    cap: Annotated[int, Field(ge=0)] = 0  # most calls in flight, of the whole fleet; 0: no limit
    price_per_image_usd: _Dollars | None = None  # where it is not the model's

    @property
    def name(self) -> str:
        """The route as the fleet knows it: models that are served alike share it."""
        return f"{self.provider}/{self.model}"

    def upstream_size(self, size: str) -> str:
        """What is asked of the provider when a caller wants `size`; scaled down afterwards."""
        return self.upstream_sizes.get(size, size)


@dataclass(frozen=True, slots=True)
class Model:
    """A catalog entry: what clients may ask for, and the routes that can serve it."""

    __pydantic_config__: ClassVar = _KNOWN_FIELDS_ONLY

    id: str
    owned_by: str
    mode: Literal["inline", "task"]  # how the provider usually answers
    description: str
    sizes: tuple[str, ...]
    default_size: str
    max_n: Annotated[int, Field(ge=1, le=4)]
    max_prompt_characters: int
    routes: Annotated[tuple[Route, ...], Field(min_length=1)]
    typical_seconds: float
    deadline_seconds: int
    created: int
    size_rule: SizeRule | None = None
    qualities: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    output_formats: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    price_per_image_usd: _Dollars | None = None

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


_MODEL = TypeAdapter(Model)


def _model(model_id: str, entry: dict[str, Any]) -> Model:
    try:
        model = _MODEL.validate_python(entry | {"id": model_id})
    except ValidationError as error:
        complaints = (
            f"catalog.toml, model {model_id}: {_complaint(problem)}" for problem in error.errors()
        )
        raise ConfigurationError("\n".join(complaints)) from None
    if not model.takes_size(model.default_size):
        raise ConfigurationError(
            f"catalog.toml, model {model_id}: default_size: the model does not take it"
        )
    return model


def _complaint(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        return f"{where}: there is no such field"
    return f"{where}: {problem['msg']}"
