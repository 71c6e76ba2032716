"""`/openapi.json` is valid, complete and true; `/docs` needs nothing from elsewhere."""

from __future__ import annotations

import copy
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import requests
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.app import create_app
from common.settings import load_settings
from common.task import Failure
from tests.api.conftest import Stack


@pytest.fixture(scope="module")
def spec(stack: Stack) -> dict[str, Any]:
    return dict(stack.get("/openapi.json").json())


def test_it_is_valid_3_1(spec: dict[str, Any]) -> None:
    assert spec["openapi"] == "3.1.0"
    errors = list(OpenAPIV31SpecValidator(spec).iter_errors())
    assert errors == []


def test_every_route_is_in_it(spec: dict[str, Any], stack: Stack) -> None:
    app = create_app(load_settings(redis_url=stack.valkey.url, data_dir=stack.data_dir))
    pages = {"/", "/docs", "/docs/assets/{filename}", "/openapi.json", "/llms.txt"}
    pages |= {"/playground/{filename}", "/admin"}
    routes = {
        (re.sub(r"<(?:[^:>]+:)?([^>]+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
    }
    described = {(path, method) for path, item in spec["paths"].items() for method in item}

    assert {route for route in routes if route[0] not in pages} == described


def test_every_operation_says_what_it_can_answer(spec: dict[str, Any]) -> None:
    for path, item in spec["paths"].items():
        for operation in item.values():
            statuses = set(operation["responses"])
            assert {"405", "500"} <= statuses
            assert statuses & {"200", "202"}
            assert operation["summary"] and operation["operationId"] and operation["tags"]
            needs_key = path.startswith("/v1/") and not path.startswith("/v1/models")
            needs_key = needs_key or path == "/metrics"  # or a token, where one is set
            assert bool(operation.get("security")) == needs_key
            assert ("401" in statuses) == needs_key


def test_every_document_has_an_example_that_is_true(spec: dict[str, Any]) -> None:
    for name in (
        "GenerationRequest",
        "ImageTask",
        "InlineImages",
        "ErrorEnvelope",
        "ModelObject",
        "UsageReport",
        "Health",
        "Readiness",
    ):
        schema = spec["components"]["schemas"][name]
        assert schema["examples"]
        for example in schema["examples"]:
            check(spec, name, example)


def check(spec: dict[str, Any], name: str, document: Any) -> None:
    """Validate, and allow no field that is not described."""
    closed = copy.deepcopy(spec["components"])
    for schema in closed["schemas"].values():
        if "properties" in schema and schema.get("additionalProperties") is not True:
            schema["additionalProperties"] = False
    root = {"$ref": f"#/components/schemas/{name}", "components": closed}
    jsonschema.Draft202012Validator(root).validate(document)


def schema_of(spec: dict[str, Any], method: str, path: str, status: int) -> str:
    response = spec["paths"][path][method]["responses"][str(status)]
    ref: str = response["content"]["application/json"]["schema"]["$ref"]
    return ref.rpartition("/")[2]


def test_real_answers_are_as_described(spec: dict[str, Any], stack: Stack) -> None:
    own = {"metadata": {"order": "4711"}, "webhook_url": "https://shop.example.com/hook?x=1"}
    done, failed = stack.submit(n=2, **own), stack.submit()
    lost = stack.submit(response_format="b64_json")
    stack.complete(done, missing=(Failure("x", "y"),))
    stack.fail(failed, Failure("upstream_error", "The provider broke."))
    stack.complete(lost)
    (stack.data_dir / "images" / lost / "0.png").unlink()
    task, submit = "/v1/tasks/{task_id}", "/v1/images/generations"
    redeliver = f"{task}/webhook/redeliver"
    answers = [
        ("post", submit, stack.post({"prompt": "x", "foo": 1})),
        ("post", submit, stack.post({"prompt": 1, "model": "y"})),
        ("post", submit, stack.post({"prompt": "x", "model": "midjourney"})),
        ("get", task, stack.get(f"/v1/tasks/{stack.submit(model='dall-e-3')}")),
        ("get", task, stack.get(f"/v1/tasks/{done}")),
        ("get", task, stack.get(f"/v1/tasks/{failed}")),
        ("get", task, stack.get(f"/v1/tasks/{lost}")),
        ("get", task, stack.get("/v1/tasks/nothing")),
        ("delete", task, stack.http.delete(f"{stack.base}/v1/tasks/{stack.submit()}", timeout=10)),
        ("delete", task, stack.http.delete(f"{stack.base}/v1/tasks/{done}", timeout=10)),
        ("post", redeliver, stack.call("POST", f"/v1/tasks/{done}/webhook/redeliver")),
        ("post", redeliver, stack.call("POST", f"/v1/tasks/{failed}/webhook/redeliver")),
        ("get", task, requests.get(f"{stack.base}/v1/tasks/{done}", timeout=10)),
        ("get", "/v1/models", stack.get("/v1/models")),
        ("get", "/v1/models", stack.get("/v1/models?recommended_for=image")),
        ("get", "/v1/models/{model_id}", stack.get("/v1/models/flux-pro")),
        ("get", "/v1/models/{model_id}", stack.get("/v1/models/nothing")),
        ("get", "/healthz", stack.get("/healthz")),
        ("get", "/readyz", stack.get("/readyz")),
        ("get", "/files/{task_id}/{file}", stack.get("/files/a/0.png")),
    ]

    for method, path, answer in answers:
        check(spec, schema_of(spec, method, path, answer.status_code), answer.json())


def test_a_webhook_is_described_too(spec: dict[str, Any], stack: Stack) -> None:
    operation = spec["webhooks"]["task"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]

    assert schema == {"$ref": "#/components/schemas/ImageTask"}
    assert {p["name"] for p in operation["parameters"]} == {
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    }


def test_the_page_loads_nothing_from_elsewhere(stack: Stack) -> None:
    page = stack.get("/docs")

    assert page.headers["Content-Type"].startswith("text/html")
    assert "http" not in page.text.replace("http-equiv", "")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "validatorUrl: null" in page.text
    used = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(used) == 3
    for address in used:
        assert stack.get(address).status_code == 200, address


def test_the_front_page_points_on(stack: Stack) -> None:
    body = stack.get("/").json()

    for name in ("docs", "openapi", "models", "llms"):
        assert stack.get(body[name]).ok
