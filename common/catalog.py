"""The models on offer, read from `catalog.toml`, and what each of them takes."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from common.errors import ConfigurationError
from common.pictures import Format
from common.settings import PROVIDER_NAMES, PROVIDERS_BY_OPERATION
from common.task import Operation

__all__ = ["Catalog", "Model", "Route", "SizeRule", "Sources"]

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]  # fits into a path
_Size = Annotated[str, Field(pattern=r"^[1-9][0-9]{1,4}x[1-9][0-9]{1,4}$")]
_Positive = Annotated[int, Field(ge=1)]
_Natural = Annotated[int, Field(ge=0)]
_Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Parameter = Literal[
    "quality",
    "style",
    "user",
    "seed",
    "negative_prompt",
    "aspect_ratio",
    "output_format",
    "output_compression",
    "background",
    "moderation",
    "input_fidelity",
    "strength",
]
_KNOWN_FIELDS_ONLY = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class SizeRule:
    """Sizes a model takes beyond its list, in pixels; a limit of 0 is none.

    Its text is what a caller is told who asked for another size.
    """

    __pydantic_config__: ClassVar = _KNOWN_FIELDS_ONLY

    step: _Positive  # both sides are multiples of it
    min: _Positive  # of a side
    max: _Positive  # of a side
    min_pixels: _Natural = 0  # of the whole picture
    max_pixels: _Natural = 0  # of the whole picture
    max_ratio: _Natural = 0  # of the longer side to the shorter

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
class Sources:
    """The pictures that a model takes to start from, and what it cannot be told beside them."""

    __pydantic_config__: ClassVar = _KNOWN_FIELDS_ONLY

    images: Annotated[int, Field(ge=1, le=16)] = 1  # at most
    mask: bool = False
    formats: tuple[Format, ...] = ("png", "jpeg", "webp")
    square: bool = False
    max_bytes: _Natural = 0  # of all together; 0: no other limit than that of any request
    parameters: tuple[_Parameter, ...] = ()  # beside the model's
    drops: tuple[_Parameter, ...] = ()  # of the model's


@dataclass(frozen=True, slots=True)
class Route:
    """One way to serve a model."""

    __pydantic_config__: ClassVar = _KNOWN_FIELDS_ONLY

    provider: str
    model: str  # what the provider calls it
    operations: tuple[Operation, ...] = ("generation",)  # that this route can do
    notice: str = ""  # said in `warnings` of every task that takes this route
    quality: dict[str, str] = field(default_factory=dict)  # our word -> the provider's
    upstream_sizes: dict[_Size, _Size] = field(
        default_factory=dict
    )  # a caller's -> what is asked for
    drops: tuple[str, ...] = ()
    cap: _Natural = 0  # most calls in flight, of the whole fleet; 0: no limit
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

    id: _Name
    owned_by: str
    mode: Literal["inline", "task"]  # how the provider usually answers
    description: str
    sizes: tuple[_Size, ...]
    default_size: _Size
    max_n: Annotated[int, Field(ge=1, le=4)]
    max_prompt_characters: _Positive
    routes: tuple[Route, ...]
    typical_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    deadline_seconds: _Positive
    created: _Natural  # Unix seconds
    size_rule: SizeRule | None = None
    qualities: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    output_formats: tuple[str, ...] = ()
    parameters: tuple[_Parameter, ...] = ()
    price_per_image_usd: _Dollars | None = None
    edits: Sources | None = None
    variations: Sources | None = None

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What one of its routes can do."""
        return tuple(dict.fromkeys(done for route in self.routes for done in route.operations))

    def sources(self, operation: Operation) -> Sources | None:
        """The pictures that `operation` starts from; None when it starts from words alone."""
        return {"generation": None, "edit": self.edits, "variation": self.variations}[operation]

    def takes(self, parameter: str, operation: Operation) -> bool:
        """Whether the model can be told this parameter when it is asked for `operation`."""
        sources = self.sources(operation)
        if sources is None:
            return parameter in self.parameters
        known = (*self.parameters, *sources.parameters)
        return parameter in known and parameter not in sources.drops

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

    def route(
        self, providers: Collection[str], operation: Operation = "generation"
    ) -> Route | None:
        """The first route that does `operation` and whose provider is among the configured
        `providers`."""
        able = (route for route in self.routes if operation in route.operations)
        return next((route for route in able if route.provider in providers), None)

    def price(self, route: Route) -> float | None:
        """The list price of one image by `route` in US dollars; None when it is not known."""
        price = route.price_per_image_usd
        return self.price_per_image_usd if price is None else price


class Catalog:
    """All models by their public id, in the order of the files."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.id: model for model in models}

    @classmethod
    def load(cls, own: str = "") -> Catalog:
        """The catalog that ships with the package, with the operator's own on top of it.

        `own` is the path of a file in the same form, as CATALOG_FILE names it. A model of it comes
        after the shipped ones, or in place of the one of its name; `enabled = false` takes one
        away. Raises ConfigurationError with a line for each thing that is wrong.
        """
        text = resources.files("common").joinpath("catalog.toml").read_text("utf-8")
        models = _models(text, "catalog.toml")
        if own:
            models |= _models(_read(own), f"CATALOG_FILE: {own}", shipped=models)
        offered = [model for model in models.values() if model is not None]
        if not offered:
            raise ConfigurationError(f"CATALOG_FILE: {own} leaves no model to offer")
        return cls(offered)

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


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"CATALOG_FILE: {path} cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"CATALOG_FILE: {path} is not UTF-8") from error


def _models(text: str, source: str, shipped: Collection[str] = ()) -> dict[str, Model | None]:
    """The models of a TOML text by name; None for one that is not offered."""
    try:
        entries = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{source} is not TOML: {error}") from error
    models: dict[str, Model | None] = {}
    complaints: list[str] = []
    for name, entry in entries.items():
        models[name], wrong = _model(name, entry, shipped)
        complaints += [f"{source}, model {name}: {what}" for what in wrong]
    if complaints:
        raise ConfigurationError("\n".join(complaints))
    return models


def _model(name: str, entry: object, shipped: Collection[str]) -> tuple[Model | None, list[str]]:
    """An entry's model, None when it is not to be offered, and all that is wrong with the entry."""
    if not isinstance(entry, dict):
        return None, [f"it has to be a table, [{name}]"]
    enabled = entry.pop("enabled", True)
    if not isinstance(enabled, bool):
        return None, ["enabled: it has to be true or false"]
    if not enabled:
        unknown = not entry and name not in shipped
        return None, ["there is no such model to take away"] if unknown else []
    try:
        model = _MODEL.validate_python(entry | {"id": name})
    except ValidationError as error:
        return None, [_complaint(problem) for problem in error.errors()]
    wrong = [
        f"routes.{at}.provider: {_no_provider(route.provider)}"
        for at, route in enumerate(model.routes)
        if route.provider not in PROVIDER_NAMES
    ]
    if not model.routes:
        wrong.append("routes: there has to be one")
    wrong += _wrong_operations(model)
    if not model.takes_size(model.default_size):
        wrong.append("default_size: it is neither one of sizes nor within size_rule")
    return model, wrong


def _wrong_operations(model: Model) -> Iterator[str]:
    for at, route in enumerate(model.routes):
        for operation in route.operations:
            able = PROVIDERS_BY_OPERATION.get(operation)
            if able is not None and route.provider not in able:
                yield (
                    f"routes.{at}.operations: provider {route.provider} is not asked for an "
                    f"{operation} here; that are {', '.join(able)}"
                )
    for field_name, operation in _FIELDS_OF_OPERATIONS.items():
        stated = getattr(model, field_name) is not None
        if stated and operation not in model.operations:
            yield f'{field_name}: no route has "{operation}" among its operations'
        if not stated and operation in model.operations:
            yield f"{field_name}: needed, because a route has it among its operations"


_FIELDS_OF_OPERATIONS: dict[str, Operation] = {"edits": "edit", "variations": "variation"}


def _no_provider(name: str) -> str:
    near = difflib.get_close_matches(name, PROVIDER_NAMES, n=1)
    meant = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(PROVIDER_NAMES)}"
    return f"there is no provider {name!r}{meant}"


def _complaint(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        return f"{where}: there is no such field"
    return f"{where}: {problem['msg']}"
