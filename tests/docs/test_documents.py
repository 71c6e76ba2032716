"""What the documents name exists, and what has to be named is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.settings import Settings
from tests.docs.documents import DOCUMENTS, ROOT, blocks, read

OTHER_VARIABLES = {"KEY", "POLL", "SANDBOX_SPEED", "SANDBOX_HOST", "SANDBOX_LEDGER"}
OTHER_VARIABLES |= {"DARKROOM_URL", "DARKROOM_API_KEY"}  # of ops/darkroom
OTHER_VARIABLES |= {"OTEL_TRACES_SAMPLER", "OTEL_EXPORTER_OTLP_TIMEOUT"}  # of OpenTelemetry
# What the providers' own clients read.
OTHER_VARIABLES |= {"FAL_RUN_HOST", "FAL_QUEUE_RUN_HOST", "REPLICATE_BASE_URL"}
OTHER_VARIABLES |= {"HF_HUB_DISABLE_TELEMETRY"}
# What the stores of pictures are reached with.
OTHER_VARIABLES |= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"}
OTHER_VARIABLES |= {"AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"}
OTHER_VARIABLES |= {"GOOGLE_APPLICATION_CREDENTIALS"}

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


@each_document
def test_every_link_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s#]+)", document.read_text("utf-8"))

    local = [target for target in targets if "://" not in target]

    assert [target for target in local if not (document.parent / target).exists()] == []


@each_document
def test_every_path_that_is_named_exists(document: Path) -> None:
    tops = "api|common|workers|tests|ops"
    named = re.findall(rf"`((?:{tops})/[\w./-]+)`", document.read_text("utf-8"))

    assert [path for path in named if not (ROOT / path).exists()] == []


@each_document
def test_every_variable_that_is_named_is_a_setting(document: Path) -> None:
    text = document.read_text("utf-8")
    code = " ".join([*re.findall(r"`([^`\n]+)`", text), *blocks(text, "sh")])
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b(?!\()|\b[A-Z]+(?==)", code))

    assert {name for name in named - OTHER_VARIABLES if name.lower() not in FIELDS} == set()


FIELDS = set(Settings.model_fields)


@each_document
def test_every_test_that_is_named_exists(document: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", document.read_text("utf-8")))

    assert named - _tests() == set()


def test_every_guarantee_is_proved() -> None:
    rows = re.findall(r"^\| (G\d) \|(.*)$", read("ops/ARCHITECTURE.md"), re.MULTILINE)

    assert [name for name, _ in rows] == [f"G{number}" for number in range(1, 8)]
    assert [name for name, row in rows if "`test_" not in row] == []


def test_every_decision_is_listed_under_its_title() -> None:
    text = read("ops/ARCHITECTURE.md")
    listed = dict(re.findall(r"^\* \[(\d{4} .+)\]\(decisions/(.+)\)$", text, re.MULTILINE))

    titles = {
        path.read_text("utf-8").splitlines()[0].removeprefix("# "): path.name
        for path in (ROOT / "ops" / "decisions").glob("*.md")
    }

    assert listed == titles


def test_every_setting_of_celery_has_its_reason() -> None:
    source = read("workers/celery.py").partition("def _configuration")[2].partition("\n\n\n")[0]
    settings = set(re.findall(r'^ +"(\w+)":', source, re.MULTILINE)) - {"broker_url"}
    section = re.search(r"## Celery's settings\n(.*?)\n## ", read("ops/ARCHITECTURE.md"), re.DOTALL)

    assert section is not None
    assert len(settings) > 20
    assert {name for name in settings if f"`{name}" not in section[1]} == set()


def test_every_field_of_the_record_is_explained() -> None:
    written = _fields_written(_script())
    table = re.search(r"## The record\n(.*?)\n\| operation", read("ops/ARCHITECTURE.md"), re.DOTALL)

    assert table is not None
    assert {"owner", "lease", "losses", "started", "hinted"} <= written
    assert {name for name in written if f"`{name}`" not in table[1]} == set()


def _fields_written(script: str) -> set[str]:
    """The fields of a record that have names of their own, from all calls that set some."""
    fields = set()
    for call in re.split(r"redis\.call\('HSET(?:NX)?', key, ", script)[1:]:
        depth, arguments = 0, [""]
        for letter in call:
            depth += (letter in "({") - (letter in ")}")
            if depth < 0:
                break
            if letter == "," and depth == 0:
                arguments.append("")
            else:
                arguments[-1] += letter
        names = [argument.strip() for argument in arguments[::2]]
        fields |= {name[1:-1] for name in names if re.fullmatch(r"'\w+'", name)}
    return fields


def test_every_operation_on_a_record_is_explained() -> None:
    operations = set(re.findall(r"^function ops\.(\w+)", _script(), re.MULTILINE))
    named = set(re.findall(r"^\| `(\w+)` \|", read("ops/ARCHITECTURE.md"), re.MULTILINE))

    # Which read, and change nothing.
    reading = {"health", "list", "look", "metrics", "open", "outcomes", "read", "routes"}
    reading |= {"failures", "history", "oldest", "usages", "working"}
    assert operations - named == reading


def _script() -> str:
    return "\n".join(file.read_text() for file in sorted((ROOT / "common" / "lua").iterdir()))


def _tests() -> set[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return {
        name
        for file in files
        for name in re.findall(r"^ *def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
