"""`POST /v1/images/edits` and `POST /v1/images/variations`: tasks that start from pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from api.openapi import KEY_REQUIRED, errors, tag
from api.schemas import (
    EditForm,
    EditJson,
    ImageTask,
    InlineImages,
    VariationForm,
    VariationJson,
)
from api.submission import read_submission, size_like
from api.submit import IDEMPOTENCY_KEY, LONGEST_WAIT, PREFER, Submit
from api.uploads import Uploads
from common.catalog import Catalog
from common.settings import ProviderAccess
from common.task import Operation

__all__ = ["make_blueprint"]

_WHAT_COMES = (
    "The images come as files in `multipart/form-data`, or by address or as `data:` URLs in either "
    "form. They are checked before the answer; which of them is wrong is said by its name and "
    f"number. Answered like a generation: 202 with a pending task, or, with `Prefer: wait=N` (N up "
    f"to {LONGEST_WAIT} seconds), 200 with the images. Which models take how many images, and a "
    "mask, is in `/v1/models`."
)


def make_blueprint(
    catalog: Catalog,
    providers: Mapping[str, ProviderAccess],
    uploads: Uploads,
    submit: Submit,
    *,
    private_webhooks: bool,
) -> APIBlueprint:
    bp = APIBlueprint("edits", __name__, abp_tags=[tag("images")], abp_security=KEY_REQUIRED)

    @bp.post(
        "/v1/images/edits",
        summary="Edit images",
        description=f"Changes one or several images as the prompt says. {_WHAT_COMES}",
        operation_id="edit_images",
        **_described("Edit"),
    )
    def edit_images() -> Response:
        return answer("edit")

    @bp.post(
        "/v1/images/variations",
        summary="Vary an image",
        description=f"Makes images like one that is given. {_WHAT_COMES}",
        operation_id="vary_image",
        **_described("Variation"),
    )
    def vary_image() -> Response:
        return answer("variation")

    def answer(operation: Operation) -> Response:
        with uploads.reading(request) as form:
            submission = read_submission(
                form.fields, catalog, providers, operation, private_webhooks=private_webhooks
            )
            attached = uploads.check(form, submission.model, operation)
            wanted = replace(submission.request, inputs=attached.inputs, mask=attached.mask)
            if operation == "edit" and form.fields.get("size") in (None, "auto"):
                first = attached.inputs[0]
                size = size_like(submission.model, first.width, first.height)
                wanted = replace(wanted, size=size)
            return submit.answer(replace(submission, request=wanted), attached)

    for form in (EditForm, EditJson, VariationForm, VariationJson):
        schema = form.model_json_schema(ref_template="#/components/schemas/{model}")
        bp.components_schemas |= schema.pop("$defs", {}) | {form.__name__: schema}
    return bp


def _described(what: str) -> dict[str, Any]:
    return {
        "openapi_extensions": {"parameters": [PREFER, IDEMPOTENCY_KEY]},
        "request_body": {
            "required": True,
            "content": {
                kind: {"schema": {"$ref": f"#/components/schemas/{what}{suffix}"}}
                for kind, suffix in (("multipart/form-data", "Form"), ("application/json", "Json"))
            },
        },
        "responses": {
            200: InlineImages,
            202: ImageTask,
            **errors(400, 401, 402, 403, 409, 413, 415, 422, 429, 502, 503, 504),
        },
    }
