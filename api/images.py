"""`POST /v1/images/generations`: check, keep, answer with a pending task."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from api.json_body import json_object
from api.openapi import KEY_REQUIRED, errors, tag
from api.schemas import GenerationRequest, ImageTask, InlineImages
from api.submission import read_submission
from api.submit import IDEMPOTENCY_KEY, LONGEST_WAIT, PREFER, Submit
from common.catalog import Catalog
from common.settings import ProviderAccess

__all__ = ["make_blueprint"]


def make_blueprint(
    catalog: Catalog,
    providers: Mapping[str, ProviderAccess],
    submit: Submit,
    *,
    private_webhooks: bool,
) -> APIBlueprint:
    bp = APIBlueprint("images", __name__, abp_tags=[tag("images")], abp_security=KEY_REQUIRED)

    @bp.post(
        "/v1/images/generations",
        summary="Generate images",
        description="Answers 202 with a pending task, or, with the header `Prefer: wait=N` "
        f"(N up to {LONGEST_WAIT} seconds), 200 with the images when they are ready in time. A "
        "task that fails in time is answered with the status of its code. For a key with a limit "
        "on requests, the headers `X-RateLimit-Limit-Requests`, `-Remaining-Requests` and "
        "`-Reset-Requests` (`350ms`, `12s`, `1m0s`) say what is left of it.",
        operation_id="generate_images",
        openapi_extensions={"parameters": [PREFER, IDEMPOTENCY_KEY]},
        request_body={
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/GenerationRequest"}}
            },
        },
        responses={
            200: InlineImages,
            202: ImageTask,
            **errors(400, 401, 402, 403, 409, 413, 415, 422, 429, 502, 503, 504),
        },
    )
    def generate_images() -> Response:
        body = json_object(request)
        return submit.answer(
            read_submission(body, catalog, providers, private_webhooks=private_webhooks)
        )

    bp.components_schemas["GenerationRequest"] = GenerationRequest.model_json_schema()
    return bp
