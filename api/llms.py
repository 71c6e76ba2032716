"""`GET /llms.txt`: the API in a page of plain text, for language models that write clients of it.

Paths, fields and models come from what describes and checks them elsewhere, so none can be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import Any

from flask import Blueprint, Response
from flask_openapi.openapi import OpenAPI

from api.submit import LONGEST_WAIT
from common.catalog import Catalog, Model

__all__ = ["make_blueprint"]

_TEXT = """# Darkroom

> One HTTP API for many image models, in the form of OpenAI's Images API. A submit answers at once
> with a pending task; asking for the task brings the pictures. JSON in, JSON out, errors included.

Base address: {base}. Key: the header `Authorization: Bearer sk-...`, on everything under /v1 but
/v1/models. The whole description: [openapi.json]({base}/openapi.json) (OpenAPI 3.1).

## Make a picture

```
curl -sS {base}/v1/images/generations -H "Authorization: Bearer $DARKROOM_API_KEY" \\
  -H "Content-Type: application/json" -H "Prefer: wait=60" \\
  -d '{{"model": "{model}", "prompt": "a red apple"}}'
```

- Without `Prefer` the answer is 202 and a task: `id`, `status`, `poll_url`, and `data` with an
  empty `url` for each picture.
- With `Prefer: wait=N` (N up to {longest} seconds) it is 200 and `{{"created", "data": [{{"url",
  "revised_prompt"}}]}}` when the pictures are ready in time, else the same 202. An unmodified
  OpenAI SDK works with `base_url="{base}/v1"` and `default_headers={{"Prefer": "wait=60"}}`.
- Poll `{base}` + `poll_url`; `?wait=N` (up to 60 seconds) holds the answer. Polling is not limited.
- `status` is one of {statuses}; it never goes back, and `completed` and `failed` are final.
- Completed: `data[i].url` loads without a key until `expires_at` (Unix seconds); with
  `&thumbnail=256` behind it, it is a small WebP. Failed: `error` is a sentence, `error_detail` has
  `code`, `retryable` and `billed` ("no", "yes" or "unknown").
- To repeat a submit safely, send the same `Idempotency-Key` with the same body: it is one task.

## Fields of a submit

{fields}

A field that the model does not take is ignored, and named in `warnings`.

## Models

{models}

`GET /v1/models?recommended_for=image` lists those that can be used now, the best first.

## All operations

{operations}

## Errors

`{{"error": {{"message", "type", "code", "param"}}}}`, with `did_you_mean`, `suggestions`, `hint` or
`retry_after` where they help, and `validation_errors` (`field`, `message`) beside it when fields
are wrong. 400: correct the request. 401: the key. 402: the key's quota. 404: unknown, expired, or
not yours. 429: wait `Retry-After` seconds. 503 with `retryable`: later. `outcome_unknown`: it may
have been charged.
"""


def make_blueprint(
    app: OpenAPI, catalog: Catalog, providers: Collection[str], base_url: Callable[[], str]
) -> Blueprint:
    """`base_url` gives the scheme and host by which the current request reached us."""
    bp = Blueprint("llms", __name__)

    @cache
    def parts() -> dict[str, str]:
        spec = app.api_doc
        schemas = spec["components"]["schemas"]
        models = [model for model in catalog if model.route(providers) is not None]
        statuses = schemas["ImageTask"]["properties"]["status"]["enum"]
        return {
            "longest": str(LONGEST_WAIT),
            "model": models[0].id if models else "dall-e-3",
            "statuses": ", ".join(f"`{status}`" for status in statuses),
            "fields": "\n".join(_fields(schemas["GenerationRequest"])),
            "models": "\n".join(map(_model, models)) or "None can be used: no provider is set up.",
            "operations": "\n".join(_operations(spec["paths"])),
        }

    @bp.get("/llms.txt")
    def llms() -> Response:
        text = _TEXT.format(base=base_url(), **parts())
        return Response(text, mimetype="text/plain", headers={"X-Content-Type-Options": "nosniff"})

    return bp


def _fields(schema: Mapping[str, Any]) -> Iterator[str]:
    for name, field in schema["properties"].items():
        kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
        words = kinds[0].get("enum")
        facts = [" | ".join(map(repr, words)) if words else kinds[0].get("type", "object")]
        if name in schema["required"]:
            facts.append("required")
        elif field.get("default") is not None:
            facts.append(f"default {field['default']}")
        least, most = kinds[0].get("minimum"), kinds[0].get("maximum")
        if least is not None and most is not None:
            facts.append(f"{least} to {most}")
        yield f"- `{name}` ({', '.join(facts)}): {field.get('description', '')}".rstrip(": ")


def _model(model: Model) -> str:
    facts = [
        f"sizes {', '.join(model.sizes)} (default {model.default_size})",
        f"n up to {model.max_n}",
        f"prompt up to {model.max_prompt_characters} characters",
    ]
    for name, values in (("quality", model.qualities), ("style", model.styles)):
        if values and name in model.parameters:
            facts.append(f"{name} {', '.join(values)}")
    others = [name for name in model.parameters if name not in ("quality", "style")]
    if others:
        facts.append(f"takes {', '.join(others)}")
    return f"- `{model.id}`: {model.description} {'; '.join(facts)}."


def _operations(paths: Mapping[str, Any]) -> Iterator[str]:
    for path, operations in paths.items():
        for method, operation in operations.items():
            if "admin" in operation["tags"]:
                continue  # nothing for a client
            yield f"- `{method.upper()} {path}`: {operation['summary']}"
