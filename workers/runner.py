"""Takes one task from its claim to its end: which calls are sent, on which route, and what comes of
them all.

Knows no Celery and no HTTP. A task goes down the routes of its model for as long as nothing was
bought for it; from then on it stays where it is. What cannot be sent now, because every route is
shut, waits in the due set.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from common.catalog import Catalog, Route
from common.errors import (
    GenerationFailed,
    ModelNotServed,
    NotAuthorised,
    OutcomeUnknown,
    OutOfCredit,
    ProviderError,
    RateLimited,
    Unavailable,
)
from common.logging import same_lines
from common.store import Grant, Offer, Shut, TaskStore, Why
from common.task import Billed, Call, CallState, Claim, Failure, Result
from workers.courier import (
    CANCELLED,
    MARGIN,
    STOPS,
    Courier,
    Deferred,
    Delivery,
    Work,
    backoff,
    failure_of,
    kind_of,
)
from workers.providers.base import Provider

__all__ = ["Runner"]

_MOST_SENT_WITHOUT_ANSWER = 8  # about two minutes of providers that cannot be reached

_SHUT: dict[Why, tuple[type[ProviderError], str]] = {
    "no_credit": (OutOfCredit, "has no credit left"),
    "bad_key": (NotAuthorised, "does not accept the key"),
    "not_served": (ModelNotServed, "does not serve the model"),
    "rate_limited": (RateLimited, "asked to wait"),
    "failing": (Unavailable, "failed again and again"),
    "full": (RateLimited, "has as many calls in flight as it may"),
    "paused": (Unavailable, "is paused by the operator"),
}
_PASSING: frozenset[Why] = frozenset({"rate_limited", "failing", "full", "paused"})  # worth a wait
_CALLED_UP: frozenset[Why] = frozenset({"full", "paused"})  # made due most likely long before


@dataclass(frozen=True, slots=True)
class _Errand:
    """A call to carry, and how."""

    route: Route
    call: Call
    fresh: bool
    trying: bool = False


@dataclass(eq=False)
class _Plan:
    """What is known, while a claim is worked on, of the task's pictures and of its routes."""

    work: Work
    routes: list[Route]  # that can be taken; one, once something was bought
    calls: dict[int, Call]  # that stand for pictures, by the first of them
    deliveries: list[Delivery] = field(default_factory=list)
    turned_away: dict[str, ProviderError] = field(
        default_factory=dict
    )  # by route, under this claim
    shut: dict[str, Shut] = field(default_factory=dict)  # by route, when it was last looked at
    cancelling: bool = False  # nothing more may be bought

    @property
    def missing(self) -> list[int]:
        """The numbers of the pictures for which no call stands."""
        calls = self.calls.values()
        covered = {n for call in calls for n in range(call.first, call.first + call.count)}
        return [n for n in range(self.work.request.n) if n not in covered]

    def note(self, route: Route, delivery: Delivery) -> None:
        """Take down what became of a call."""
        if delivery.turned_away is None:
            self.deliveries.append(delivery)
            self.routes = [route]
        else:
            del self.calls[delivery.call.first]
            self.turned_away[route.name] = delivery.turned_away


class Runner:
    """Works on claims. One instance serves all threads of a worker.

    `stopping` is set when the worker is told to stop: then no new call is sent.
    """

    def __init__(
        self,
        store: TaskStore,
        catalog: Catalog,
        providers: Mapping[str, Provider],
        courier: Courier,
        *,
        stopping: threading.Event,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._providers = providers
        self._courier = courier
        self._stopping = stopping

    def run(self, claim: Claim) -> Result:
        """Finish the claim's task and return what its record is to hold.

        Raises GenerationFailed when it has come to nothing, Deferred when it was put back,
        LeaseLost when somebody else has taken it, StoreUnavailable when the store stayed away
        until the deadline.
        """
        if self._stopping.is_set():
            self._defer(claim, Deferred(STOPS, 0))
        plan = self._plan(claim)
        errands = [_Errand(plan.routes[0], call, fresh=False) for call in plan.calls.values()]
        while True:
            errands += self._send_next(plan, going=[errand.call for errand in errands])
            if not errands:
                return self._end(plan)
            for errand, delivery in zip(errands, self._carry(plan.work, errands), strict=True):
                plan.note(errand.route, delivery)
            errands = []

    def _plan(self, claim: Claim) -> _Plan:
        request = claim.task.request
        begun = {c.first: c for c in claim.calls if c.state is not CallState.TURNED_AWAY}
        model = self._catalog.get(request.model)
        able = [r for r in model.routes if request.operation in r.operations] if model else []
        routes = [r for r in able if r.provider in self._providers]
        for call in begun.values():
            routes = [r for r in routes if (r.provider, r.model) == (call.provider, call.model)]
        if model is None or not routes:
            raise GenerationFailed(
                Failure(
                    "model_unavailable",
                    f"No provider of {request.model} is configured on the worker.",
                    billed=_worst(call.failure for call in claim.calls),
                )
            )
        return _Plan(Work(claim, model), routes, begun)

    def _send_next(self, plan: _Plan, going: list[Call]) -> list[_Errand]:
        """Announce calls for what is missing, as many as the first open route takes now."""
        work, missing = plan.work, plan.missing
        routes = [route for route in plan.routes if route.name not in plan.turned_away]
        if not missing or not routes or self._stopping.is_set() or work.time_left <= 2 * MARGIN:
            return []
        try:
            self._courier.load(work)  # before anything is announced that could then not be sent
        except ProviderError as lost:
            plan.turned_away[routes[0].name] = lost
            return []
        offers = [Offer(r.name, r.cap, tuple(self._calls(r, missing))) for r in routes]
        ended = [call for call in plan.calls.values() if call not in going]
        work.announced = time.monotonic()
        reply = self._courier.until_stored(
            work, lambda: self._store.begin(work.claim, offers, ended=ended, going=going)
        )
        plan.cancelling = reply is None
        if reply is None:
            return []
        if not isinstance(reply, Grant):
            plan.shut = {r.name: shut for r, shut in zip(routes, reply, strict=True)}
            return []
        work.sent = reply.sent
        plan.calls |= {call.first: call for call in reply.calls}
        route = routes[reply.offer]
        return [_Errand(route, call, fresh=True, trying=reply.trying) for call in reply.calls]

    def _calls(self, route: Route, missing: list[int]) -> Iterable[Call]:
        """The calls that would bring the missing pictures: one for each unbroken row of them."""
        provider = self._providers[route.provider]
        begun = time.time()
        row: list[int] = []
        for number in [*missing, None]:
            if row and (
                number is None or number != row[-1] + 1 or len(row) == provider.pictures_per_call
            ):
                yield Call(
                    row[0],
                    len(row),
                    route.provider,
                    route.model,
                    CallState.SUBMITTING,
                    begun,
                    stoppable=provider.cancels,
                )
                row = []
            if number is not None:
                row.append(number)

    def _carry(self, work: Work, errands: list[_Errand]) -> list[Delivery]:
        """Carry calls side by side."""

        def carry(errand: _Errand) -> Delivery:
            return self._courier.carry(
                work, errand.route, errand.call, fresh=errand.fresh, trying=errand.trying
            )

        if len(errands) == 1:
            return [carry(errands[0])]
        with ThreadPoolExecutor(len(errands), thread_name_prefix="call") as pool:
            return list(pool.map(same_lines(carry), errands))

    def _end(self, plan: _Plan) -> Result:
        waits = [delivery.again for delivery in plan.deliveries if delivery.again is not None]
        failures: list[Failure] = []
        missing = plan.missing
        if missing and (plan.cancelling or self._courier.to_cancel(plan.work)):
            errors = [failure_of(error) for error in plan.turned_away.values()]
            bill = _worst([*(call.failure for call in plan.work.claim.calls), *errors])
            failures = [replace(CANCELLED, billed=bill)] * len(missing)
        elif missing:
            wait = Deferred(STOPS, 0) if self._stopping.is_set() else _wait(plan)
            if wait is not None:
                waits.append(wait)
            failures = [_why_not(plan)] * len(missing)
        if waits:
            self._defer(plan.work.claim, max(waits, key=lambda deferred: deferred.wait))
        return _result(plan, failures)

    def _defer(self, claim: Claim, deferred: Deferred) -> None:
        self._store.defer(
            claim, deferred.wait, blocked=deferred.blocked or "", reason=deferred.reason
        )
        raise deferred


def _wait(plan: _Plan) -> Deferred | None:
    """The shortest wait after which what is missing may be sent. None when there is none, or none
    that leaves time to do it."""
    sent = plan.work.sent
    waits = [
        Deferred(
            kind_of(error),
            error.retry_after or backoff(sent),
            blocked="rate_limited" if isinstance(error, RateLimited) else "failing",
        )
        for error in plan.turned_away.values()
        if error.retryable or isinstance(error, OutcomeUnknown)
        if error.retry_after is not None or sent < _MOST_SENT_WITHOUT_ANSWER
    ]
    for shut in plan.shut.values():
        wait = shut.wait * random.uniform(1, 1.2)  # noqa: S311
        if shut.why in _CALLED_UP:
            wait = min(wait, plan.work.time_left / 2)
        if shut.why in _PASSING:
            waits.append(Deferred(shut.why, wait, blocked=shut.why))
    soonest = min(waits, key=lambda deferred: deferred.wait, default=None)
    fits = soonest is not None and soonest.wait < plan.work.time_left - MARGIN
    return soonest if fits else None


def _why_not(plan: _Plan) -> Failure:
    """Why a picture could not be had on any route."""
    errors = [*plan.turned_away.values()]
    for name, shut in plan.shut.items():
        kind, what = _SHUT[shut.why]
        text = (
            f"{name.partition('/')[0]} {what}; it is asked again in {max(1, round(shut.wait))} s."
        )
        errors.append(kind(text, billed="no"))
    if not errors:
        return Failure("timeout", "The task's turn came too late.", retryable=True)
    failures = [failure_of(error) for error in errors]
    if len(failures) == 1:
        return failures[0]
    return Failure(
        "all_channels_failed",
        " ".join(failure.message for failure in failures),
        retryable=any(failure.retryable for failure in failures),
        billed=_worst(failures),
    )


def _result(plan: _Plan, missing: list[Failure]) -> Result:
    deliveries = sorted(plan.deliveries, key=lambda delivery: delivery.call.first)
    images = tuple(image for delivery in deliveries for image in delivery.images)
    failures = [failure for delivery in deliveries for failure in delivery.failures] + missing
    if not images:
        cancelled = [failure for failure in failures if failure.code == CANCELLED.code]
        raise GenerationFailed(replace((cancelled or failures)[0], billed=_worst(failures)))
    route = plan.routes[0]
    return Result(
        images=images,
        provider=route.provider,
        provider_model=route.model,
        usage=_total([delivery.call.usage for delivery in deliveries]),
        missing=tuple(failures),
    )


def _total(usages: list[dict[str, Any]]) -> dict[str, Any]:
    """One usage of several calls: costs are added up, the longest counts, of the rest the first
    call speaks."""
    total = {name: value for usage in reversed(usages) for name, value in usage.items()}
    if "cost_usd" in total:
        total["cost_usd"] = round(sum(usage.get("cost_usd", 0.0) for usage in usages), 6)
    if "seconds" in total:
        total["seconds"] = max(usage.get("seconds", 0.0) for usage in usages)
    return total


def _worst(failures: Iterable[Failure | None]) -> Billed:
    bills = {failure.billed for failure in failures if failure is not None}
    return "yes" if "yes" in bills else "unknown" if "unknown" in bills else "no"
