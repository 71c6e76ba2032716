"""`GET /metrics`: the numbers of the whole fleet, and of the HTTP requests of this front end.

Those of the fleet come from Redis in one round trip, so that any front end answers for all
processes. Labels are models, routes and queues of the catalog, templates of paths and words of
ours: their number is bounded, whatever callers send.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Iterable, Iterator, Mapping

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics import disable_created_metrics
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from api.errors import ApiError
from api.openapi import TOKEN_OR_THIS_MACHINE, errors, tag
from common.errors import StoreUnavailable
from common.fleet import Figures, Fleet, Spread
from common.logging import get_logger

__all__ = ["HttpMetrics", "make_blueprint"]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")  # what proxies add
_SHARED_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # which gunicorn's configuration sets

log = get_logger(__name__)


class HttpMetrics:
    """What this front end has answered; several processes of one front end count together.

    `waiters` is how many requests are held at the moment until their task ends.
    """

    def __init__(self) -> None:
        # When a series began helps nobody here, and doubles their number.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "darkroom_http_requests",
            "Requests answered, by template of their path, method and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "darkroom_http_request_seconds",
            "Time to answer requests that were not held until a task ends.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.waiters = Gauge(
            "darkroom_http_waiters",
            "Requests that are held until their task ends.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        # To look a child up costs more than to count.
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def count(self, method: str, route: str, status: int, seconds: float, *, held: bool) -> None:
        """Count one answer. `route` is the template of its path, empty when there is none."""
        kind = (method, route, status)
        children = self._known.get(kind)
        if children is None:
            method = method if method in _METHODS else "other"
            children = self._known[method, route, status] = (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(method, route),
            )
        requests, times = children
        requests.inc()
        if not held:
            times.observe(seconds)

    def collected(self) -> CollectorRegistry:
        """A registry with the sums of all processes of this front end."""
        if _SHARED_DIRECTORY not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry


def make_blueprint(http: HttpMetrics, fleet: Fleet, *, token: str, alive: float) -> APIBlueprint:
    """`/metrics`, for whoever knows `token`; without one, for this machine alone. A process that
    was seen within `alive` seconds counts as there."""
    bp = APIBlueprint("metrics", __name__, abp_tags=[tag("operation")])

    @bp.get(
        "/metrics",
        summary="Numbers for Prometheus",
        description="In the text format of Prometheus. With `METRICS_TOKEN` it wants that as "
        "`Authorization: Bearer …`; without, it answers requests of the machine itself.",
        operation_id="metrics",
        security=TOKEN_OR_THIS_MACHINE,
        responses={
            200: {
                "description": "The numbers.",
                "content": {
                    "text/plain": {
                        "schema": {"type": "string"},
                        "example": 'darkroom_tasks_accepted_total{model="flux-pro"} 42.0\n',
                    }
                },
            },
            **errors(401, 403),
        },
    )
    def metrics() -> Response:
        _require_access(token)
        text = generate_latest(http.collected()) + generate_latest(_of(fleet, alive))
        response = Response(text, content_type=CONTENT_TYPE_LATEST)
        response.headers["Cache-Control"] = "no-store"
        return response

    return bp


def _require_access(token: str) -> None:
    if token:
        if not hmac.compare_digest(_bearer(), token.encode()):
            raise ApiError(
                "invalid_api_key",
                "This needs METRICS_TOKEN, as a header: Authorization: Bearer …",
                headers={"WWW-Authenticate": 'Bearer realm="darkroom metrics"'},
            )
    elif not _is_of_this_machine():
        raise ApiError(
            "metrics_not_allowed",
            "Without METRICS_TOKEN, the metrics are for requests of the machine itself.",
            hint="Set METRICS_TOKEN, and send it as a header: Authorization: Bearer …",
        )


def _bearer() -> bytes:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip().encode() if scheme.lower() == "bearer" else b""


def _is_of_this_machine() -> bool:
    """Whether the peer is, and says nothing of speaking for somebody else."""
    try:
        peer = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return False
    return peer.is_loopback and not any(name in request.headers for name in _FORWARDED)


def _of(fleet: Fleet, alive: float) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    try:
        figures = fleet.look()
    except StoreUnavailable as error:
        log.warning("no numbers of the fleet", reason=str(error))
        figures = None
    registry.register(_FleetCollector(figures, alive))
    return registry


class _FleetCollector(Collector):
    """The figures as Prometheus has them: names end in their unit, counters in `_total`."""

    def __init__(self, figures: Figures | None, alive: float) -> None:
        self._figures = figures
        self._alive = alive

    def describe(self) -> Iterable[Metric]:
        return ()  # it is made for one answer; nothing can clash

    def collect(self) -> Iterator[Metric]:
        yield _gauge(
            "darkroom_redis_up",
            "Whether Redis answered; if not, there are no numbers of the fleet.",
            {(): float(self._figures is not None)},
        )
        if self._figures is not None:
            yield from _tasks(self._figures)
            yield from _providers(self._figures)
            yield from _queues(self._figures)
            yield from _processes(self._figures, self._alive)


def _tasks(of: Figures) -> Iterator[Metric]:
    yield _counter("darkroom_tasks_accepted", "Tasks accepted.", of.accepted, "model")
    yield _counter("darkroom_pictures_asked", "Pictures of accepted tasks.", of.asked, "model")
    yield _counter(
        "darkroom_tasks_ended",
        "Tasks ended. A failed one has a code, and whether it was billed: no, yes or unknown.",
        of.ended,
        *("model", "route", "status", "code", "billed"),
    )
    yield _histogram("darkroom_task_seconds", "From submit to completed.", of.task_times, "model")
    yield _counter(
        "darkroom_spend_usd",
        "US dollars spent, estimated where the provider does not tell.",
        of.spent,
        *("model", "route"),
    )
    yield _counter("darkroom_leases_lost", "Claims whose worker died.", {(): float(of.leases_lost)})
    yield _counter(
        "darkroom_tasks_announced_again",
        "Messages sent by the sweep: retries, takeovers, and lost messages.",
        {(): float(of.announced_again)},
    )
    yield _gauge("darkroom_tasks_open", "Tasks that have not ended.", {(): of.open_tasks})
    yield _gauge(
        "darkroom_tasks_due", "Open tasks that a sweep has to look at now.", {(): of.due_tasks}
    )
    yield _gauge(
        "darkroom_sweep_lag_seconds", "How late the oldest due task is.", {(): of.sweep_lag}
    )
    yield _counter(
        "darkroom_webhook_tries",
        "Tries to deliver a webhook: delivered, gone, or again when it failed.",
        of.webhook_tries,
        "outcome",
    )
    yield _gauge("darkroom_webhooks_owed", "Webhooks not delivered yet.", {(): of.webhooks_owed})
    yield _gauge(
        "darkroom_webhook_lag_seconds",
        "How late the oldest webhook is that could be tried.",
        {(): of.webhook_lag},
    )


def _providers(of: Figures) -> Iterator[Metric]:
    yield _counter(
        "darkroom_calls",
        "Paid calls that came to a state of the journal: submitting is sent, accepted and "
        "received are bought; of turned_away and failed, with the kind of the error.",
        of.calls,
        *("route", "state", "error"),
    )
    yield _counter(
        "darkroom_pictures_bought",
        "Pictures in calls that a provider took.",
        of.bought,
        "route",
    )
    yield _histogram(
        "darkroom_provider_seconds",
        "From sending a call to its pictures, of completed tasks; the longest of several.",
        of.provider_times,
        "route",
    )
    yield _gauge(
        "darkroom_route_shut_seconds",
        "Routes, and accounts, that take no calls: why, and for how long still.",
        {(name, shut.why): shut.wait for name, shut in of.shut.items() if name not in of.paused},
        *("route", "reason"),
    )
    yield _gauge(
        "darkroom_paused_seconds",
        "Routes, accounts and models (model:…) that an operator has paused: for how long.",
        {(name,): seconds for name, seconds in of.paused.items()},
        "name",
    )
    yield _gauge(
        "darkroom_route_calls_in_flight",
        "Calls in flight, of routes with a cap.",
        {(route,): count for route, count in of.in_flight.items()},
        "route",
    )
    yield _gauge(
        "darkroom_route_waiting",
        "Tasks that wait for a place, of routes with a cap.",
        {(route,): count for route, count in of.waiting.items()},
        "route",
    )


def _queues(of: Figures) -> Iterator[Metric]:
    yield _gauge(
        "darkroom_queue_waiting",
        "Tasks that no worker has taken up, those in their caller's line included.",
        {(queue,): backlog.waiting for queue, backlog in of.queues.items()},
        "queue",
    )
    yield _gauge(
        "darkroom_queue_taken",
        "Tasks that a worker has taken up.",
        {(queue,): backlog.taken for queue, backlog in of.queues.items()},
        "queue",
    )
    yield _gauge(
        "darkroom_queue_oldest_seconds",
        "For how long the oldest task has been waiting for a worker.",
        {(queue,): backlog.oldest for queue, backlog in of.queues.items()},
        "queue",
    )


def _processes(of: Figures, alive: float) -> Iterator[Metric]:
    kinds = {"worker": of.workers, "sweep": of.sweeps}
    yield _gauge(
        "darkroom_processes",
        "Processes that live: seen within three times LEASE_SECONDS.",
        {(kind,): sum(age <= alive for age in ages.values()) for kind, ages in kinds.items()},
        "kind",
    )
    yield _gauge(
        "darkroom_last_seen_seconds",
        "Since when no process of a kind was seen; absent after an hour.",
        {(kind,): min(ages.values()) for kind, ages in kinds.items() if ages},
        "kind",
    )
    about = {
        "darkroom_redis_memory_bytes": ("Memory that Redis uses.", of.memory),
        "darkroom_redis_memory_limit_bytes": ("Its maxmemory; 0 is none.", of.memory_limit),
        "darkroom_redis_writes_to_disk": (
            "Whether the last write of Redis to its append-only file went well.",
            of.writes_to_disk,
        ),
    }
    for name, (documentation, value) in about.items():
        yield _gauge(name, documentation, {} if value is None else {(): value})


def _counter(
    name: str, documentation: str, counts: Mapping[tuple[str, ...], float], *labels: str
) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(values, count)
    return family


def _gauge(
    name: str, documentation: str, values: Mapping[tuple[str, ...], float], *labels: str
) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for names, value in sorted(values.items()):
        family.add_metric(names, value)
    return family


def _histogram(name: str, documentation: str, spreads: Mapping[str, Spread], label: str) -> Metric:
    family = HistogramMetricFamily(name, documentation, labels=[label])
    for value, spread in sorted(spreads.items()):
        family.add_metric([value], list(spread.buckets), spread.total)
    return family
