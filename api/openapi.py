"""What the routes share when they describe themselves, and the pages that show the result.

The browser page is Swagger UI from its own package: nothing is loaded from anywhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flask_openapi_swagger
from flask import Blueprint, Response, jsonify
from flask_openapi.models.info import Info
from flask_openapi.models.license import License
from flask_openapi.models.tag import Tag
from flask_openapi.openapi import OpenAPI
from flask_openapi.types import ResponseDict

from api.schemas import ErrorEnvelope

__all__ = [
    "ADMIN_KEY_REQUIRED",
    "KEY_REQUIRED",
    "TOKEN_OR_THIS_MACHINE",
    "errors",
    "make_app",
    "make_blueprint",
    "tag",
]

KEY_REQUIRED: list[dict[str, list[str]]] = [{"api_key": []}]
ADMIN_KEY_REQUIRED: list[dict[str, list[str]]] = [{"admin_key": []}]
TOKEN_OR_THIS_MACHINE: list[dict[str, list[str]]] = [{"metrics_token": []}, {}]

_TAGS = {
    "images": "Generate and edit images. Every submit is a task; `Prefer: wait=N` waits for it.",
    "tasks": "What became of a task.",
    "usage": "What a key has used, and what its limits leave.",
    "models": "What can be asked for. No key needed.",
    "operation": "For monitoring.",
    "admin": "For operators, with a key of theirs: what `/admin` shows and does.",
}
_DESCRIPTION = """One API for paid image models, in the form of OpenAI's Images API.

A submit answers with a pending task at once; its `poll_url` delivers the images. With the header
`Prefer: wait=60` the answer is held and is the images themselves, so that an unmodified OpenAI SDK
works. Every answer but an image is JSON, errors included."""

_WEBHOOK_HEADERS = {
    "webhook-id": "Of this end of this task: the same on every try.",
    "webhook-timestamp": "Unix seconds, of this try.",
    "webhook-signature": "`v1,` and the HMAC-SHA256 of id, timestamp and body in Base64; two of "
    "them, with a blank between, while a secret is being replaced.",
}
_WEBHOOKS = {
    "task": {
        "post": {
            "summary": "A task has ended",
            "description": "Sent to `webhook_url`, at least once, signed as Standard Webhooks say. "
            "Any status of 200 to 299 within 15 seconds means received; everything else is tried "
            "again, for hours, but for 410, which ends it. Redirects are not followed.",
            "operationId": "task_ended",
            "tags": ["tasks"],
            "parameters": [
                {
                    "name": name,
                    "in": "header",
                    "required": True,
                    "description": description,
                    "schema": {"type": "string"},
                }
                for name, description in _WEBHOOK_HEADERS.items()
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/ImageTask"}}
                },
            },
            "responses": {
                "2XX": {"description": "Received."},
                "410": {"description": "No more of it: the delivery ends."},
            },
        }
    }
}

_UI_FILES = Path(flask_openapi_swagger.__file__).parent / "templates" / "swagger"
_UI = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Darkroom API</title>
<link rel="icon" href="/docs/assets/images/swagger.svg">
<link rel="stylesheet" href="/docs/assets/css/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/assets/js/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  persistAuthorization: true, tryItOutEnabled: true
});
</script>
</body>
</html>
"""
_UI_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; "
    "script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'"
)


def make_app(version: str) -> OpenAPI:
    """A Flask application that collects the description of its routes."""
    app = _App(
        "api",
        info=Info(
            title="Darkroom",
            version=version,
            description=_DESCRIPTION,
            license=License(name="Apache-2.0", identifier="Apache-2.0"),
        ),
        security_schemes={
            "api_key": {"type": "http", "scheme": "bearer"},
            "admin_key": {
                "type": "http",
                "scheme": "bearer",
                "description": "An operator's (`keys create NAME --admin`), for /v1/admin alone.",
            },
            "metrics_token": {
                "type": "http",
                "scheme": "bearer",
                "description": "`METRICS_TOKEN`, for /metrics alone.",
            },
        },
        doc_ui=False,
        openapi_extensions={"webhooks": _WEBHOOKS},
        static_folder=None,
        # The library adds its own validation answer to each operation that does not declare this
        # status, and all of ours declare 500.
        validation_error_status=500,
        validation_error_model=ErrorEnvelope,
    )
    app.openapi_version = "3.1.0"  # the library would say 3.2.0
    for name in _TAGS:
        app.tags.append(tag(name))
        app.tag_names.append(name)
    return app


class _App(OpenAPI):
    def ensure_sync(self, func: Any) -> Any:
        """Flask looks, in every request, whether each function is a coroutine; none of ours is."""
        return func


def tag(name: str) -> Tag:
    return Tag(name=name, description=_TAGS[name])


def errors(*statuses: int) -> ResponseDict:
    """Declare error answers; 500 and 405 can come from any route."""
    return dict.fromkeys(sorted({*statuses, 405, 500}), ErrorEnvelope)


def make_blueprint(app: OpenAPI) -> Blueprint:
    """`GET /openapi.json` and `GET /docs`, for all that `app` has when they are asked for."""
    bp = Blueprint("docs", __name__, static_folder=str(_UI_FILES), static_url_path="/docs/assets")

    @bp.get("/openapi.json")
    def openapi_json() -> Response:
        return jsonify(app.api_doc)

    @bp.get("/docs")
    def docs() -> Response:
        return Response(_UI, mimetype="text/html", headers={"Content-Security-Policy": _UI_POLICY})

    return bp
