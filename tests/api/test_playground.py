"""What `/` and `/llms.txt` answer, and to whom."""

from __future__ import annotations

import re

import pytest

from api import errors
from tests.api.conftest import ROOT, Stack

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (BROWSER, "text/html"),
        ("text/html", "text/html"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/json, text/html;q=0.9", "application/json"),
        ("text/html;q=0.5, application/json;q=0.5", "application/json"),
        ("image/png", "application/json"),
    ],
)
def test_who_prefers_html_gets_the_page(stack: Stack, accept: str, kind: str) -> None:
    answer = stack.get("/", headers={"Accept": accept})

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].partition(";")[0] == kind
    assert answer.headers["Vary"] == "Accept"


def test_the_page_is_nobody_elses(stack: Stack) -> None:
    for path in ("/", "/playground/app.js", "/playground/playground.css", "/playground/icon.svg"):
        headers = stack.get(path, headers={"Accept": BROWSER}).headers

        policy = headers["Content-Security-Policy"].split("; ")
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "style-src 'self'" in policy
        assert "img-src 'self' data: blob:" in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


def test_the_page_asks_for_nothing_from_elsewhere(stack: Stack) -> None:
    """And all that it asks for is there. Its addresses are relative: it may lie below a path."""
    files = sorted((ROOT / "api" / "static").iterdir())
    used = set()
    for file in files:
        text = file.read_text()
        text = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//\w+\.\w|@import|\burl\(", text), file.name
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
        used |= set(re.findall(r'(?:src|href)="(playground/[^"]+)"', text))
        used |= {f"playground/{name}" for name in re.findall(r'from "\./([^"]+)"', text)}

    assert used == {f"playground/{file.name}" for file in files if file.suffix != ".html"}
    for path in used:
        assert stack.get(f"/{path}").status_code == 200, path


def test_what_is_not_there_is_answered_in_json(stack: Stack) -> None:
    for path in ("/playground/nothing.js", "/playground/../app.py", "/playground/%2e%2e/app.py"):
        answer = stack.get(path)

        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"


def test_llms_txt_names_every_operation_and_field(stack: Stack) -> None:
    spec = stack.get("/openapi.json").json()

    answer = stack.get("/llms.txt")

    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    text = answer.text
    assert text.startswith("# Darkroom\n\n> ")
    for path, operations in spec["paths"].items():
        for method in operations:  # those of operators are nothing for a client
            is_clients = not path.startswith("/v1/admin/")
            assert (f"`{method.upper()} {path}`" in text) == is_clients
    fields = text.partition("## Fields of a submit")[2].partition("\n## ")[0]
    schema = spec["components"]["schemas"]["GenerationRequest"]
    assert re.findall(r"^- `(\w+)`", fields, re.MULTILINE) == list(schema["properties"])
    assert re.findall(r"^- `(\w+)` \([^)]*required", fields, re.MULTILINE) == schema["required"]
    for status in spec["components"]["schemas"]["ImageTask"]["properties"]["status"]["enum"]:
        assert f"`{status}`" in text


def test_what_llms_txt_says_is_in_the_description(stack: Stack) -> None:
    spec = stack.get("/openapi.json").json()
    schemas = spec["components"]["schemas"]
    text = stack.get("/llms.txt").text
    prose = text.partition("## Fields of a submit")[0] + text.partition("## Errors")[2]

    known = {"error", "validation_errors", "billed", "code", "Prefer"}
    for schema in schemas.values():
        known |= set(schema.get("properties", {}))
    known |= set(schemas["ImageTask"]["properties"]["status"]["enum"])
    known |= set(errors._CODES)
    words = set(re.findall(r"`([a-z_]+)`", prose))

    assert words - known == set()
    submit = spec["paths"]["/v1/images/generations"]["post"]
    named = {parameter["name"]: parameter for parameter in submit["parameters"]}
    assert {"Prefer", "Idempotency-Key"} <= set(named)
    assert f"N up to {re.search('N up to ([0-9]+)', submit['description'])[1]} seconds" in text
    (wait,) = spec["paths"]["/v1/tasks/{task_id}"]["get"]["parameters"][1:]
    most = re.search(r"at most *(\d+)\.", wait["description"].replace("\n", " "))
    assert most is not None
    assert f"(up to {most[1]} seconds) holds" in text


def test_llms_txt_lists_the_models_that_can_be_used(stack: Stack) -> None:
    text = stack.get("/llms.txt").text.partition("## Models")[2].partition("\n## ")[0]

    usable = {model["id"]: model["image"] for model in stack.get("/v1/models").json()["data"]}
    usable = {name: image for name, image in usable.items() if image["available"]}

    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("- ")}
    assert set(lines) == set(usable)
    for name, image in usable.items():
        for value in (*image["sizes"], *image["qualities"], *image["styles"]):
            assert value in lines[name]
