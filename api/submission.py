"""From a JSON object to a generation that can be queued, or to all that is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError

from api.errors import ApiError, Problem, ValidationFailed
from api.schemas import EditRequest, GenerationRequest, VariationRequest
from common.addresses import host_of
from common.catalog import Catalog, Model, Route
from common.task import ImageRequest, Operation
from common.webhook import EVENTS, Event

__all__ = ["Submission", "read_submission", "size_like"]

_SIZE = re.compile(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})", re.ASCII)
# NUL, and halves of surrogate pairs, which JSON can say and UTF-8 cannot.
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")

# Parameters that a model takes only where the catalog lists them.
_OPTIONAL = (
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
)
# What a client may say to every model, because it is what saying nothing means.
_DEFAULTS = {"quality": "standard", "style": "vivid"}
_SCHEMAS: Mapping[Operation, type[GenerationRequest]] = {
    "generation": GenerationRequest,
    "edit": EditRequest,
    "variation": VariationRequest,
}
_MOST_NAMED = 20  # unknown fields, so that an answer cannot be made to grow


@dataclass(frozen=True, slots=True)
class Submission:
    """A valid request, the route that will serve it first, and what had to be left out of it."""

    model: Model
    route: Route
    request: ImageRequest
    warnings: tuple[str, ...]
    metadata: Mapping[str, str] | None = None
    webhook_url: str | None = None
    webhook_events: tuple[Event, ...] = EVENTS


def read_submission(
    body: Mapping[str, Any],
    catalog: Catalog,
    providers: Collection[str],
    operation: Operation = "generation",
    *,
    private_webhooks: bool = False,
) -> Submission:
    """Check `body` against its schema and against what its model takes; fill in the defaults.

    `providers` are the configured ones; `private_webhooks` says that a webhook may go to any
    address. Pictures to start from are no part of `body`. Raises ValidationFailed with everything
    that is wrong, or ApiError `model_unavailable` for a valid request that nobody can serve.
    """
    given = {name: value for name, value in body.items() if value is not None}
    schema = _SCHEMAS[operation]
    fields, problems = _parse(given, schema)
    model = None
    if isinstance(fields.get("model"), str):
        model = catalog.get(fields["model"])
        if model is None:
            problems["model"] = _unknown_model(fields["model"], catalog)
        elif operation not in model.operations:
            problems["model"] = _unable_model(model, catalog, operation)
    for name, problem in _against_catalog(fields, model, catalog, operation):
        problems.setdefault(name, problem)
    for name, problem in _of_the_callers_own(fields, private_webhooks):
        problems.setdefault(name, problem)
    if "n" in problems and model is not None:
        problems["n"] = _wrong_n(model)
    if problems:
        raise ValidationFailed([problems[name] for name in _names(schema) if name in problems])
    assert model is not None, problems
    route = model.route(providers, operation)
    if route is None:
        raise _unavailable(model, catalog, providers, operation)
    return Submission(
        model=model,
        route=route,
        request=_request(fields, model, operation),
        warnings=tuple(_warnings(given, model, route, operation)),
        metadata=fields["metadata"],
        webhook_url=fields["webhook_url"],
        webhook_events=tuple(dict.fromkeys(fields["webhook_events"] or EVENTS)),
    )


def size_like(model: Model, width: int, height: int) -> str:
    """Of the sizes that `model` lists the one most like a picture in shape, and then in area like
    the model's default."""
    wide, high = map(int, model.default_size.split("x"))

    def distance(size: str) -> tuple[float, float]:
        w, h = map(int, size.split("x"))
        shape = abs(math.log((w / h) / (width / height)))
        return round(shape, 2), abs(math.log((w * h) / (wide * high)))

    return min(model.sizes, key=distance)


@cache
def _names(schema: type[GenerationRequest]) -> tuple[str, ...]:
    return tuple(field.alias or name for name, field in schema.model_fields.items())


def _parse(
    given: Mapping[str, Any], schema: type[GenerationRequest]
) -> tuple[dict[str, Any], dict[str, Problem]]:
    """The fields that are right by themselves, defaults included, and problems by field."""
    problems = {}
    try:
        return schema.model_validate(given).model_dump(by_alias=True), {}
    except ValidationError as error:
        for found in error.errors(include_url=False, include_context=False, include_input=False):
            name = str(found["loc"][0])
            if found["type"] == "missing":
                problems[name] = Problem(
                    "missing_required_parameter", f"{name} is required.", param=name
                )
            else:
                text = (
                    found["msg"]
                    .replace("Input should", "should")
                    .replace("String should", "should")
                )
                problems[name] = Problem("invalid_value", f"{name}: {text}.", param=name)
    sound = {n: given[n] for n in _names(schema) if n in given and n not in problems}
    defaults = {
        field.alias or name: field.default
        for name, field in schema.model_fields.items()
        if not field.is_required() and (field.alias or name) not in problems
    }
    return defaults | sound, problems


def _against_catalog(
    fields: Mapping[str, Any], model: Model | None, catalog: Catalog, operation: Operation
) -> Iterable[tuple[str, Problem]]:
    def wrong(name: str, message: str, **details: Any) -> tuple[str, Problem]:
        return name, Problem("invalid_value", message, param=name, **details)

    for name in ("prompt", "negative_prompt"):
        text = fields.get(name)
        if text is None:
            continue
        limit = max(m.max_prompt_characters for m in ([model] if model else catalog))
        if name == "prompt" and operation == "variation":
            continue
        if name == "prompt" and not text.strip():
            yield wrong(name, "prompt must not be blank.")
        elif len(text) > limit:
            whose = f"{model.id} takes" if model else "no model takes more than"
            yield wrong(name, f"{name} has {len(text)} characters; {whose} {limit}.")
    for name, value in fields.items():
        if isinstance(value, str) and _UNUSABLE.search(value):
            yield wrong(name, f"{name} holds NUL or half a surrogate pair, which is no text.")

    n = fields.get("n")
    if model is not None and n is not None and n > model.max_n:
        yield "n", _wrong_n(model)

    size = fields.get("size")
    if size is not None and size != "auto":
        if _SIZE.fullmatch(size) is None:
            near = _nearest_size(size, model) if model else None
            choices = f"{model.id} takes {_sizes(model)}." if model else "such as 1024x1024."
            yield wrong(
                "size", f"size must be WIDTHxHEIGHT in pixels: {choices}", did_you_mean=near
            )
        elif model is not None and not model.takes_size(size):
            yield wrong(
                "size",
                f"{model.id} does not take the size {size}; it takes {_sizes(model)}.",
                did_you_mean=_nearest_size(size, model),
                suggestions=list(model.sizes),
            )

    for name, of in (
        ("quality", "qualities"),
        ("style", "styles"),
        ("output_format", "output_formats"),
    ):
        value = fields.get(name)
        if value is None:
            continue
        takes = model is not None and model.takes(name, operation)
        values = getattr(model, of) if takes else _any_model(catalog, of)
        if value not in values and value != _DEFAULTS.get(name):
            who = f"{model.id} takes" if model is not None and takes else "possible are"
            yield wrong(
                name,
                f"{name} must be one of the known values; {who} {', '.join(values)}.",
                suggestions=list(values),
            )


def _of_the_callers_own(
    fields: Mapping[str, Any], private_webhooks: bool
) -> Iterable[tuple[str, Problem]]:
    """What no model is told of."""
    metadata = fields.get("metadata")
    if isinstance(metadata, dict) and any(
        isinstance(text, str) and _UNUSABLE.search(text)
        for pair in metadata.items()
        for text in pair
    ):
        text = "metadata holds NUL or half a surrogate pair, which is no text."
        yield "metadata", Problem("invalid_value", text, param="metadata")
    url = fields.get("webhook_url")
    if isinstance(url, str):
        try:
            host_of(url, private=private_webhooks)
        except ValueError as error:
            text = f"webhook_url {error}."
            yield "webhook_url", Problem("invalid_value", text, param="webhook_url")


def _any_model(catalog: Catalog, of: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for model in catalog for value in getattr(model, of)))


def _wrong_n(model: Model) -> Problem:
    many = "must be 1" if model.max_n == 1 else f"must be an integer from 1 to {model.max_n}"
    return Problem("invalid_value", f"n {many} for {model.id}.", param="n")


def _sizes(model: Model) -> str:
    sizes = ", ".join(model.sizes)
    return f"{sizes}, and {model.size_rule}" if model.size_rule is not None else sizes


def _nearest_size(size: str, model: Model) -> str | None:
    """The listed size of `model` that is most like `size` in shape, then in area."""
    numbers = re.findall(r"[0-9]{1,5}", size)
    if len(numbers) != 2 or "0" in (number.lstrip("0") or "0" for number in numbers):
        return None
    width, height = map(int, numbers)

    def distance(candidate: str) -> float:
        w, h = map(int, candidate.split("x"))
        shape = abs(math.log((w / h) / (width / height)))
        area = abs(math.log((w * h) / (width * height)))
        return 3 * shape + area

    return min(model.sizes, key=distance)


def _unknown_model(name: str, catalog: Catalog) -> Problem:
    near = catalog.resembling(name[:100])
    return Problem(
        "model_not_found",
        f"There is no model {_shown(name)}.",
        param="model",
        did_you_mean=near[0] if near else None,
        suggestions=near or [model.id for model in catalog],
        hint="GET /v1/models lists all models.",
    )


def _unable_model(model: Model, catalog: Catalog, operation: Operation) -> Problem:
    able = [other.id for other in catalog if operation in other.operations]
    what = {"generation": "makes no pictures from words alone", "edit": "takes no images to edit"}
    said = what.get(operation, "makes no variations")
    return Problem(
        "invalid_value",
        f"{model.id} {said}; those that do: {', '.join(able) or 'none'}.",
        param="model",
        suggestions=able,
        hint="GET /v1/models tells what each model takes.",
    )


def _unavailable(
    model: Model, catalog: Catalog, providers: Collection[str], operation: Operation
) -> ApiError:
    alternatives = [other.id for other in catalog if other.route(providers, operation) is not None]
    able = (route for route in model.routes if operation in route.operations)
    needed = " or ".join(dict.fromkeys(route.provider for route in able))
    what = {"generation": "serves", "edit": "edits with", "variation": "makes variations with"}
    return ApiError(
        "model_unavailable",
        f"No provider that {what[operation]} {model.id} is configured here (it needs {needed}).",
        param="model",
        alternatives=alternatives,
        retryable=False,
        headers={"X-Should-Retry": "false"},  # read by OpenAI's SDK, which repeats any 503
    )


def _request(fields: Mapping[str, Any], model: Model, operation: Operation) -> ImageRequest:
    def taken(name: str, value: object) -> bool:
        return name == "user" or _is_taken(model, name, value, operation)

    optional = {
        name: fields[name]
        for name in _OPTIONAL
        if fields.get(name) is not None and taken(name, fields[name])
    }
    defaults = {name: value for name, value in _DEFAULTS.items() if taken(name, value)}
    size = fields["size"]
    return ImageRequest(
        model=model.id,
        prompt="" if operation == "variation" else fields["prompt"],
        n=fields["n"],
        size=model.default_size if size in (None, "auto") else size,
        response_format=fields["response_format"],
        operation=operation,
        **defaults | optional,
    )


def _is_taken(model: Model, name: str, value: object, operation: Operation) -> bool:
    """Whether `model` can be told so: it has the parameter and, where it has a list, the value."""
    values = {"quality": model.qualities, "style": model.styles}.get(name, (value,))
    return model.takes(name, operation) and value in values


def _warnings(
    given: Mapping[str, Any], model: Model, route: Route, operation: Operation
) -> Iterable[str]:
    known = _names(_SCHEMAS[operation])
    if route.notice:
        yield route.notice
    if operation == "variation" and "prompt" in given:
        yield "prompt is not taken for a variation and was ignored."
    for name in _OPTIONAL:
        # The end user's identifier is kept with the task in any case.
        if name not in known:
            continue  # said below, of any unknown field
        if name in given and name != "user" and not _is_taken(model, name, given[name], operation):
            what = f"{name} {given[name]}" if model.takes(name, operation) else name
            yield f"{what} is not taken by {model.id} and was ignored."
        elif name in given and name in route.drops:
            yield f"{name} cannot be passed on to {route.model}, which serves {model.id}."
    if "webhook_events" in given and "webhook_url" not in given:
        yield "webhook_events says nothing without webhook_url and was ignored."
    unknown = [name for name in given if name not in known]
    for name in unknown[:_MOST_NAMED]:
        yield f"{_shown(name)} is not a known field and was ignored."
    if len(unknown) > _MOST_NAMED:
        yield f"{len(unknown) - _MOST_NAMED} more unknown fields were ignored."


def _shown(text: str) -> str:
    """A caller's text in a message: short, and printable whatever it is."""
    short = text[:64] + ("…" if len(text) > 64 else "")
    return "'" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short) + "'"
