"""Alerts and dashboard ask for what there is, and say what to do about it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.api.conftest import Stack, running
from tests.ops import happenings

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "ops" / "observability"
OPERATING = (ROOT / "ops" / "OPERATING.md").read_text("utf-8")

RULES = [
    rule
    for group in yaml.safe_load((FILES / "alerts.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((FILES / "dashboard.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {rule["alert"]: rule["expr"] for rule in RULES} | {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in PANELS
    for target in panel["targets"]
}
NOT_OURS = {"up": {"job", "instance"}}  # which Prometheus makes itself

Exposed = dict[str, set[str]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("observability"), SANDBOX="on") as stack:
        yield stack


@pytest.fixture(scope="module")
def exposition(stack: Stack) -> str:
    """What a front end says when something of each kind has happened."""

    happenings.make(stack)
    return stack.get("/metrics").text


@pytest.fixture(scope="module")
def exposed(exposition: str) -> Exposed:
    """The labels of every number, by the name that it is asked for by."""
    found: Exposed = dict(NOT_OURS)
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Every number that an expression asks for, with the labels by which it chooses."""
    found: list[tuple[str, set[str]]] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            labels = {matcher.name for matcher in node.matchers.matchers}
            found.append((node.name, labels))

    promql_parser.walk(_parsed(expression), visit)
    return found


def groupings(expression: str) -> list[tuple[set[str], list[str]]]:
    """The labels by which an expression groups, with the numbers that are grouped."""
    found: list[tuple[set[str], list[str]]] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            names = [name for name, _ in selectors(node.expr.prettify())]
            found.append((set(node.modifier.labels), names))

    promql_parser.walk(_parsed(expression), visit)
    return found


def _parsed(expression: str) -> Any:
    return promql_parser.parse(expression.replace("$__rate_interval", "5m"))


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_is_asked_for_is_there(exposed: Exposed, name: str) -> None:
    asked = selectors(EXPRESSIONS[name])

    assert asked
    assert [number for number, _ in asked if number not in exposed] == []
    assert [(number, labels) for number, labels in asked if not labels <= exposed[number]] == []


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_is_grouped_by_is_there(exposed: Exposed, name: str) -> None:
    for labels, numbers in groupings(EXPRESSIONS[name]):
        assert [number for number in numbers if not labels <= exposed[number]] == []


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_the_fleet_is_not_counted_once_for_each_front_end(name: str) -> None:
    """Each of them tells the same: a sum over them would be too much."""
    for expression in re.split(r"\bsum\b(?: by \([^)]*\))? ?\(", EXPRESSIONS[name])[1:]:
        if not expression.startswith(("max", "rate(darkroom_http", "darkroom_http")):
            pytest.fail(f"sum of {expression}")


def test_every_number_is_asked_for_or_explained(exposition: str) -> None:
    families = list(text_string_to_metric_families(exposition))
    asked = " ".join(EXPRESSIONS.values())

    assert [family.name for family in families if not family.documentation] == []
    unused = {family.name for family in families if family.name not in asked}
    assert unused == set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    document, _, anchor = notes["runbook_url"].partition("#")
    assert document == "OPERATING.md"
    assert f"\n### {rule['alert']}\n" in OPERATING
    assert anchor == rule["alert"].lower()
    labels = set(re.findall(r"\$labels\.(\w+)", " ".join(notes.values())))
    by = {label for found, _ in groupings(rule["expr"]) for label in found}
    assert labels <= by | {"instance"}


def test_no_section_is_about_an_alert_that_is_gone() -> None:
    sections = re.findall(r"^### (Darkroom\w+)$", OPERATING, re.MULTILINE)

    assert sections == [rule["alert"] for rule in RULES]


def test_every_panel_is_explained_and_has_its_place() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)


def promtool(*arguments: str, stdin: str = "") -> str:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not here: it comes with Debian's package prometheus")
    done = subprocess.run([tool, *arguments], input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_prometheus_takes_the_files() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", str(FILES / "alerts.yml"))
    promtool("check", "config", str(FILES / "prometheus.yml"))


def test_prometheus_takes_the_numbers(exposition: str) -> None:
    assert promtool("check", "metrics", stdin=exposition) == ""


def test_the_alerts_go_off_when_they_should() -> None:
    promtool("test", "rules", str(Path(__file__).with_name("alerts_test.yml")))
