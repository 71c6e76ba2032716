"""Traces: one for each task, over all processes, told to a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.processes import until
from tests.stack import KEY, ROOT, Stack, running

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"


@dataclass(frozen=True)
class Span:
    """One span as it arrived."""

    name: str
    service: str
    trace: str
    id: str
    parent: str
    about: dict[str, Any]
    failed: bool
    begun: int
    ended: int


@dataclass
class Collector:
    """What was collected, and the bytes that it came in."""

    url: str
    spans: list[Span] = field(default_factory=list)
    raw: bytes = b""
    headers: list[str | None] = field(default_factory=list)

    def trace(self, task: dict[str, Any], *wanted: str) -> list[Span]:
        """The spans of a task's trace, once those that are wanted are there."""

        def come() -> list[Span]:
            traces = {s.trace for s in self.spans if s.about.get("task_id") == task["id"]}
            spans = [span for span in self.spans if span.trace in traces]
            return spans if set(wanted) <= {span.name for span in spans} else []

        found: list[Span] = until(come, f"spans {wanted}")
        return found


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            made.raw += body
            made.headers.append(self.headers.get("x-collector-key"))
            made.spans += _spans(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for of_service in request.resource_spans:
        named = {pair.key: pair.value.string_value for pair in of_service.resource.attributes}
        for scope in of_service.scope_spans:
            for span in scope.spans:
                about = {
                    pair.key.removeprefix("darkroom."): getattr(
                        pair.value, str(pair.value.WhichOneof("value"))
                    )
                    for pair in span.attributes
                }
                yield Span(
                    span.name,
                    named["service.name"],
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    about,
                    span.status.code == Status.STATUS_CODE_ERROR,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Stack]:
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"{collector.url}/",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-collector-key=a%20secret",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with running(tmp_path_factory.mktemp("stack"), **settings) as whole:
        whole.fault(picture="plain")
        yield whole


def submitted(stack: Stack, prompt: str, model: str = "flux-pro", **body: Any) -> Any:
    """A task of a caller that has a trace of its own."""
    answer = stack.post(
        {"model": model, "prompt": prompt, "size": "512x512", **body},
        traceparent=f"00-{TRACE}-{CALLER}-01",
    )
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_one_trace_leads_from_the_caller_to_the_end(stack: Stack, collector: Collector) -> None:
    task = submitted(stack, "a fox, and nobody else's business")
    stack.finished(task)

    spans = {span.name: span for span in collector.trace(task, "complete", "work", "submit")}
    parents = {name: _name(span.parent, spans) for name, span in spans.items()}

    assert parents == {
        "submit": CALLER,
        "work": "submit",
        "claim": "work",
        "call provider": "work",
        "await job": "work",
        "store picture": "work",
        "complete": "work",
    }
    assert {span.trace for span in spans.values()} == {TRACE}
    services = {name: span.service for name, span in spans.items()}
    assert services.pop("submit") == "darkroom-web"
    assert set(services.values()) == {"darkroom-worker"}
    assert spans["call provider"].about == {
        "provider": "bfl",
        "provider_model": "flux-pro-1.1",
        "pictures": 1,
    }
    assert spans["work"].about == {"task_id": task["id"], "model": "flux-pro", "attempt": 1}
    assert [span.name for span in spans.values() if span.failed] == []
    assert spans["submit"].begun <= spans["work"].begun == spans["claim"].begun
    assert spans["claim"].ended <= spans["call provider"].begun
    assert spans["work"].ended <= spans["complete"].begun
    assert collector.headers[0] == "a secret"


def _name(parent: str, spans: dict[str, Span]) -> str:
    return next((name for name, span in spans.items() if span.id == parent), parent)


def test_calls_side_by_side_are_parts_of_the_same_work(stack: Stack, collector: Collector) -> None:
    task = stack.submit("two foxes", n=2)
    stack.finished(task)

    spans = collector.trace(task, "complete")

    (work,) = [span for span in spans if span.name == "work"]
    calls = [span for span in spans if span.name == "call provider"]
    assert [span.parent for span in calls] == [work.id] * 2
    assert TRACE not in {span.trace for span in spans}  # this caller had none: it is our own
    assert [span.parent for span in spans if span.name == "submit"] == [""]


def test_a_trace_goes_on_in_the_worker_that_takes_over(stack: Stack, collector: Collector) -> None:
    task = stack.submit("a fox sim:never_ready@poll*1")
    stack.accepted(task)

    stack.kill("worker")
    stack.start("worker")  # it learns of the task from the sweep
    stack.finished(task)
    spans = collector.trace(task, "submit", "complete", "work")

    assert len({span.trace for span in spans}) == 1
    (submit,) = [span for span in spans if span.name == "submit"]
    (work,) = [span for span in spans if span.name == "work"]
    assert work.parent == submit.id
    assert work.about["attempt"] == 2
    # What the one that died had bought is not bought again.
    assert "call provider" not in {span.name for span in spans if span.parent == work.id}


def test_a_failure_is_told_by_its_class(stack: Stack, collector: Collector) -> None:
    task = stack.submit("confidential sim:moderated", "dall-e-3", size="1024x1024")
    stack.finished(task)

    spans = {span.name: span for span in collector.trace(task, "fail", "work")}

    assert spans["call provider"].failed
    assert spans["call provider"].about["error.type"] == "ContentRefused"
    assert spans["work"].about["error.type"] == "GenerationFailed"
    assert spans["fail"].about["code"] == "content_policy_violation"


def test_a_task_that_is_put_back_has_not_failed(stack: Stack, collector: Collector) -> None:
    task = stack.submit("a fox sim:rate_limited*1")
    stack.finished(task)

    works = [span for span in collector.trace(task, "complete", "work") if span.name == "work"]

    assert [(span.failed, span.about.get("left_by")) for span in works] == [
        (False, "Deferred"),
        (False, None),
    ]


def test_a_submit_that_is_repeated_names_the_same_task(stack: Stack, collector: Collector) -> None:
    body = {"model": "flux-pro", "prompt": "once", "size": "512x512"}
    tasks = [stack.post(body, **{"Idempotency-Key": "once"}).json() for _ in range(2)]

    def both() -> list[Span]:
        named = [s for s in collector.spans if s.about.get("task_id") == tasks[0]["id"]]
        submits = [span for span in named if span.name == "submit"]
        return submits if len(submits) == 2 else []

    assert sorted(span.about.get("replayed", False) for span in until(both, "two submits")) == [
        False,
        True,
    ]


def test_no_prompt_and_no_key_is_told(stack: Stack, collector: Collector) -> None:
    """After all of the above."""
    assert b"flux-pro" in collector.raw
    for secret in (
        "business",
        "foxes",
        "confidential",
        "once upon",
        KEY,
        "a secret",
        "sandbox-key",
    ):
        assert secret.encode() not in collector.raw


def test_what_is_said_in_the_env_file_holds_and_an_end_tells_the_rest(
    collector: Collector, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        f"OTEL_EXPORTER_OTLP_ENDPOINT={collector.url}\n"
        "OTEL_EXPORTER_OTLP_HEADERS=x-collector-key=of-the-file\n"
    )
    code = """
from common.settings import load_settings
from common.tracing import make_tracing
with make_tracing(load_settings(), "test").span("last words", parent=None):
    pass
"""

    said = _python(code, directory=tmp_path)

    assert said.returncode == 0, said.stderr
    assert [span.name for span in collector.spans if span.service == "darkroom-test"] == [
        "last words"
    ]
    assert collector.headers[-1] == "of-the-file"


def test_nobody_waits_for_a_collector_that_is_away(stack: Stack) -> None:
    stack.kill("worker", signal.SIGTERM)
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    stack.start("worker", **away)

    task = stack.finished(stack.submit("a fox"))

    assert task["status"] == "completed"
    stack.kill("worker", signal.SIGTERM)  # and it stops as well
    stack.start("worker")


def test_without_an_endpoint_nothing_of_it_is_needed_or_imported() -> None:
    loaded = _python(
        "import sys, api.wsgi, workers.celery\n"
        # redis-py looks for the interfaces by itself, where they are installed.
        "print([name for name in sys.modules if 'otlp' in name or name.endswith('sdk.trace')])"
    )
    absent = _python("import sys; sys.modules['opentelemetry'] = None; import api.wsgi")

    assert (loaded.returncode, loaded.stdout) == (0, "[]\n"), loaded.stderr
    assert absent.returncode == 0, absent.stderr


def test_an_endpoint_without_the_packages_stops_the_start() -> None:
    said = _python(
        "import sys; sys.modules['opentelemetry'] = None; import workers.celery",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
    )

    assert said.returncode != 0
    assert said.stderr.startswith("OTEL_EXPORTER_OTLP_ENDPOINT: traces need packages")
    assert "environment.py otel" in said.stderr


def _python(code: str, directory: Path = ROOT, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"REDIS_URL": "redis://127.0.0.1:9/0", "SANDBOX": "on", **settings}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=environment, capture_output=True, text=True
    )
