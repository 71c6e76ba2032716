"""`GET /v1/models`: what can be asked for, and what is best at the moment."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from flask import Response, jsonify
from flask_openapi.blueprint import APIBlueprint

from api.errors import ApiError
from api.openapi import errors, tag
from api.recent import ENOUGH_SAMPLES, RecentOutcomes
from api.schemas import ModelList, ModelObject, ModelPath, ModelQuery
from common.catalog import Catalog, Model
from common.store import Outcomes
from common.task import Operation

__all__ = ["make_blueprint"]


def make_blueprint(
    catalog: Catalog, providers: Collection[str], outcomes: RecentOutcomes
) -> APIBlueprint:
    bp = APIBlueprint("models", __name__, abp_tags=[tag("models")])

    @bp.get(
        "/v1/models",
        summary="List models",
        description="All models, or with `recommended_for=image` those that can be used now, best "
        "first by the success rate of the last 24 hours; models with few samples come last.",
        operation_id="list_models",
        responses={200: ModelList, **errors(400)},
    )
    def list_models(query: ModelQuery) -> Response:
        models = [
            model
            for model in catalog
            if query.category in (None, "image")
            and (query.provider is None or query.provider in _providers(model))
        ]
        match query.recommended_for:
            case None:
                data = [_object(model, providers, outcomes.of(model)) for model in models]
            case "image":
                data = _recommended(models, providers, outcomes)
            case _:
                raise ApiError(
                    "invalid_value",
                    "recommended_for must be image.",
                    param="recommended_for",
                    suggestions=["image"],
                )
        return jsonify({"object": "list", "data": data})

    @bp.get(
        "/v1/models/<model_id>",
        summary="Retrieve a model",
        operation_id="retrieve_model",
        responses={200: ModelObject, **errors(404)},
    )
    def retrieve_model(path: ModelPath) -> Response:
        model = catalog.get(path.model_id)
        if model is None:
            near = catalog.resembling(path.model_id[:100])
            raise ApiError(
                "model_not_found",
                f"There is no model {path.model_id[:64]!a}.",
                param="model",
                did_you_mean=near[0] if near else None,
                suggestions=near or None,
                hint="GET /v1/models lists all models.",
            )
        return jsonify(_object(model, providers, outcomes.of(model)))

    return bp


def _recommended(
    models: list[Model], providers: Collection[str], outcomes: RecentOutcomes
) -> list[dict[str, Any]]:
    usable = [
        (model, outcomes.of(model)) for model in models if outcomes.is_usable(model, providers)
    ]

    def worst_first(entry: tuple[Model, Outcomes]) -> tuple[bool, float, int]:
        seen = entry[1]
        if seen.samples < ENOUGH_SAMPLES:
            return False, 0.0, 0  # in the order of the catalog
        return True, seen.succeeded / seen.samples, seen.samples

    usable.sort(key=worst_first, reverse=True)  # stable
    ranked = []
    for rank, (model, seen) in enumerate(usable, 1):
        ready = seen.samples >= ENOUGH_SAMPLES
        entry = _object(model, providers, seen)
        entry["image"]["recommendation"] = {
            "preferred_rank": rank,
            "success_rate_24h": round(seen.succeeded / seen.samples, 4) if ready else None,
            "sample_count_24h": seen.samples,
            "status": "ready" if ready else "insufficient_samples",
            "updated_at": outcomes.updated_at,
        }
        ranked.append(entry)
    return ranked


def _object(model: Model, providers: Collection[str], seen: Outcomes) -> dict[str, Any]:
    measured = seen.mean_seconds is not None and seen.succeeded >= ENOUGH_SAMPLES
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "image": {
            "operations": model.operations,
            "edits": _sources(model, "edit"),
            "variations": _sources(model, "variation"),
            "mode": model.mode,
            "description": model.description,
            "sizes": model.sizes,
            "default_size": model.default_size,
            "max_n": model.max_n,
            "max_prompt_characters": model.max_prompt_characters,
            "parameters": model.parameters,
            "qualities": model.qualities,
            "styles": model.styles,
            "output_formats": model.output_formats,
            "available": any(
                model.route(providers, operation) is not None for operation in model.operations
            ),
            "price_per_image_usd": model.price_per_image_usd,
            "typical_seconds": round(seen.mean_seconds or 0, 1)
            if measured
            else model.typical_seconds,
        },
    }


def _sources(model: Model, operation: Operation) -> dict[str, Any] | None:
    sources = model.sources(operation)
    if sources is None:
        return None
    known = dict.fromkeys((*model.parameters, *sources.parameters))
    return {
        "max_images": sources.images,
        "mask": sources.mask,
        "formats": sources.formats,
        "square": sources.square,
        "max_bytes": sources.max_bytes or None,
        "parameters": [name for name in known if model.takes(name, operation)],
    }


def _providers(model: Model) -> set[str]:
    return {route.provider for route in model.routes}
