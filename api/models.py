"""`GET /v1/models`: what can be asked for, and what is best at the moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from flask import Response, jsonify
from flask_openapi.blueprint import APIBlueprint

from api.errors import ApiError
from api.openapi import errors, tag
from api.schemas import ModelList, ModelObject, ModelPath, ModelQuery
from common.catalog import Catalog, Model
from common.errors import StoreUnavailable
from common.logging import get_logger
from common.store import Outcomes, Shut, TaskStore

__all__ = ["RecentOutcomes", "make_blueprint"]

_ENOUGH_SAMPLES = 5
_REMEMBER = 5.0  # seconds
_FOR_GOOD = frozenset({"no_credit", "bad_key", "not_served"})  # waiting does not open these

log = get_logger(__name__)


class RecentOutcomes:
    """How models did lately, counted every few seconds at most.

    While Redis is away the last count stands, and with none all models lack samples: the list of
    models is worth more than an error.
    """

    def __init__(self, store: TaskStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._looked = 0.0
        self._outcomes: dict[str, Outcomes] = {}
        self._shut: dict[str, Shut] = {}
        self.updated_at: int | None = None

    def of(self, model: Model) -> Outcomes:
        self._look()
        return self._outcomes.get(model.id, Outcomes())

    def is_usable(self, model: Model, providers: Collection[str]) -> bool:
        """Whether one of the model's routes is configured and its account not closed to us."""
        self._look()
        return any(
            route.provider in providers
            and not any(
                (shut := self._shut.get(name)) is not None and shut.why in _FOR_GOOD
                for name in (route.provider, route.name)
            )
            for route in model.routes
        )

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked >= _REMEMBER:
            self._looked = now  # before asking: whoever comes meanwhile need not ask as well
            try:
                self._outcomes = self._store.outcomes()
                self._shut = self._store.routes()
                self.updated_at = int(now)
            except StoreUnavailable as error:
                log.warning("no recent outcomes", reason=str(error))


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
        if seen.samples < _ENOUGH_SAMPLES:
            return False, 0.0, 0  # in the order of the catalog
        return True, seen.succeeded / seen.samples, seen.samples

    usable.sort(key=worst_first, reverse=True)  # stable
    ranked = []
    for rank, (model, seen) in enumerate(usable, 1):
        ready = seen.samples >= _ENOUGH_SAMPLES
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
    measured = seen.mean_seconds is not None and seen.succeeded >= _ENOUGH_SAMPLES
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "image": {
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
            "available": model.route(providers) is not None,
            "price_per_image_usd": model.price_per_image_usd,
            "typical_seconds": round(seen.mean_seconds or 0, 1)
            if measured
            else model.typical_seconds,
        },
    }


def _providers(model: Model) -> set[str]:
    return {route.provider for route in model.routes}
