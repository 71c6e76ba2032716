"""Traces by OpenTelemetry, where wanted: one for each task, from its submit to its end.

Few spans, of our own: what a task spends its time on, and which process did it. A trace follows
its task through the record and not through the message, so that it goes on whoever takes the task
up. Attributes are ids, names and numbers: no prompts, no keys, no addresses, and of an error its
class alone, for its text may quote the prompt.

Without an endpoint nothing of OpenTelemetry is imported, and a span is one call that does nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Literal, Protocol

from common.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Span as TheirSpan
    from opentelemetry.trace import Tracer

    from common.settings import Settings

__all__ = ["OFF", "Kind", "Span", "Tracing", "make_tracing"]

Kind = Literal["server", "consumer", "client", "internal"]
"""Who asks whom: we were asked, we took up a message, we ask, or neither."""

Value = str | int | float | bool


class Span(Protocol):
    """Something that takes time."""

    @property
    def traceparent(self) -> str | None:
        """What makes another span, in any process, a part of this one (W3C Trace Context)."""

    def tell(self, **about: Value) -> None:
        """Attributes that were not known when it began; `task_id` is `darkroom.task_id` there."""


class Tracing:
    """Makes spans; this one, which is `OFF`, makes none."""

    def span(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: str | None,
        begun: int | None = None,
        fine: tuple[type[Exception], ...] = (),
        **about: Value,
    ) -> AbstractContextManager[Span]:
        """The block as a span of the trace that `parent` is in; of a new one if that is None, or no
        traceparent.

        `begun`: Unix nanoseconds, for one that began before. What the block raises is noted by its
        class and passed on; it is an error unless it is `fine`.
        """
        return _NOTHING


class _Nothing(contextlib.nullcontext["_Nothing"]):
    traceparent = None

    def __enter__(self) -> _Nothing:
        return self

    def tell(self, **about: Value) -> None:
        pass


_NOTHING = _Nothing()
OFF = Tracing()


def make_tracing(settings: Settings, process: str) -> Tracing:
    """What the settings say. `process` is a part of the service's name: web, worker.

    Raises ConfigurationError when traces are wanted and cannot be made.
    """
    endpoint = settings.otel_exporter_otlp_endpoint
    if not endpoint:
        return OFF
    if importlib.util.find_spec("opentelemetry") is None:
        raise ConfigurationError(
            "OTEL_EXPORTER_OTLP_ENDPOINT: traces need packages that are not installed: "
            "ops/python ops/environment.py otel brings them. Leave it empty to have no traces."
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.util.re import parse_env_headers

    named = {"service.name": f"darkroom-{process}", "service.namespace": "darkroom"}
    provider = TracerProvider(resource=Resource.create(named))
    # In a thread of its own, from a queue that loses what it has no room for: whoever collects
    # traces may be slow or away, and no task waits for that.
    exporter = OTLPSpanExporter(
        endpoint=f"{endpoint.rstrip('/')}/v1/traces",
        headers=parse_env_headers(
            settings.otel_exporter_otlp_headers.get_secret_value(), liberal=True
        ),
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return _OpenTelemetry(provider.get_tracer("darkroom"))


class _OpenTelemetry(Tracing):
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @contextlib.contextmanager
    def span(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: str | None,
        begun: int | None = None,
        fine: tuple[type[Exception], ...] = (),
        **about: Value,
    ) -> Iterator[Span]:
        from opentelemetry.trace import SpanKind, StatusCode

        # Nothing is kept in the context of the thread: calls of one task run in several.
        started = self._tracer.start_span(
            name, context=_context(parent), kind=SpanKind[kind.upper()], start_time=begun
        )
        span = _Started(started)
        span.tell(**about)
        try:
            yield span
        except BaseException as error:
            span.tell(left_by=type(error).__name__)
            if isinstance(error, Exception) and not isinstance(error, fine):
                started.set_attribute("error.type", type(error).__name__)
                started.set_status(StatusCode.ERROR)
            raise
        finally:
            started.end()


class _Started:
    def __init__(self, span: TheirSpan) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        _propagator().inject(carrier, set_span_in_context(self._span))
        return carrier.get("traceparent")

    def tell(self, **about: Value) -> None:
        self._span.set_attributes({f"darkroom.{name}": value for name, value in about.items()})


def _context(traceparent: str | None) -> Context:
    from opentelemetry.context import Context

    return _propagator().extract({"traceparent": traceparent or ""}, Context())


@cache
def _propagator() -> TextMapPropagator:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()
