"""Takes one task from its claim to its pictures.

Knows no Celery and no HTTP. Whatever it does can be cut off at any line: the journal says how far
each paid call had come, and the next claim goes on from there.

The journal is what keeps an image from being bought twice. A call is written down as `submitting`
before the first byte is sent, and as `accepted` or `received` before anything is done with the
answer. A call found `submitting` by a later claim may have been bought and is never sent again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from common.catalog import Catalog, Model, Route
from common.errors import (
    BadAnswer,
    DarkroomError,
    GenerationFailed,
    OutcomeUnknown,
    ProviderError,
    StoreUnavailable,
)
from common.hub import off_the_hub
from common.logging import get_logger
from common.storage import ImageStorage
from common.store import TaskStore
from common.task import Billed, Call, CallState, Claim, Failure, ImageRequest, Result, StoredImage
from workers.images import ImageLimits, verify
from workers.providers.base import Job, Order, Outcome, Picture, Pictures, Provider

__all__ = ["Deferred", "Runner"]

T = TypeVar("T")

log = get_logger(__name__)

_FORMATS = ("png", "jpeg", "webp")
_MOST_ATTEMPTS_WITHOUT_ANSWER = 8  # about two minutes of a provider that cannot be reached
_LONGEST_BACKOFF = 30.0
_LOST = "The picture was made, but lost before it was kept."
_FEWER = "The provider sent fewer pictures than asked."
_MARGIN = 2.0  # seconds kept back from the deadline, to store what came and write it down


class Deferred(DarkroomError):
    """Nothing went wrong for good: the task was put back and is due again after `wait` seconds."""

    def __init__(self, reason: str, wait: float) -> None:
        super().__init__(reason, wait)
        self.reason = reason
        self.wait = wait


@dataclass(frozen=True, slots=True)
class _Delivery:
    """What became of one call: pictures, or a failure, or a wait before it goes on."""

    call: Call
    images: tuple[StoredImage, ...] = ()
    failures: tuple[Failure, ...] = ()
    again: Deferred | None = None


class _Run:
    """One claim being worked on: the claim, its clock, and what is shared by its calls."""

    def __init__(self, claim: Claim, provider: Provider, route: Route) -> None:
        self.claim = claim
        self.provider = provider
        self.route = route
        self.progress: dict[int, int] = {}
        self._ends = time.monotonic() + claim.time_left

    @property
    def request(self) -> ImageRequest:
        return self.claim.task.request

    @property
    def time_left(self) -> float:
        """Seconds until the deadline; negative when it has passed."""
        return self._ends - time.monotonic()


class Runner:
    """Works on claims. One instance serves all threads of a worker.

    `stopping` is set when the worker is told to stop: calls in flight are finished, jobs that
    only wait for their provider are put down for another worker.
    """

    def __init__(
        self,
        store: TaskStore,
        storage: ImageStorage,
        catalog: Catalog,
        providers: Mapping[str, Provider],
        *,
        limits: ImageLimits,
        stopping: threading.Event,
    ) -> None:
        self._store = store
        self._storage = storage
        self._catalog = catalog
        self._providers = providers
        self._limits = limits
        self._stopping = stopping

    def run(self, claim: Claim) -> Result:
        """Finish the claim's task and return what its record is to hold.

        Raises GenerationFailed when it has come to nothing, Deferred when it was put back,
        LeaseLost when somebody else has taken it, StoreUnavailable when the store stayed away
        until the deadline.
        """
        if self._stopping.is_set():
            self._defer(claim, Deferred("this worker stops", 0))
        run = self._prepare(claim)
        calls, fresh = self._plan(run)
        if fresh:
            if run.time_left <= 2 * _MARGIN:
                raise GenerationFailed(
                    Failure("timeout", "The task's turn came too late.", retryable=True)
                )
            self._keep(run, *fresh)  # one write announces all calls that are now going to be sent
        sent = {call.first for call in fresh}
        deliveries = _side_by_side(lambda c: self._deliver(run, c, fresh=c.first in sent), calls)
        waits = [delivery.again for delivery in deliveries if delivery.again is not None]
        if waits:
            self._defer(claim, max(waits, key=lambda deferred: deferred.wait))
        return _result(run, deliveries)

    def _prepare(self, claim: Claim) -> _Run:
        request = claim.task.request
        model = self._catalog.get(request.model)
        route = _route(model, claim.calls, self._providers) if model else None
        if route is None:
            raise GenerationFailed(
                Failure(
                    "model_unavailable",
                    f"No provider of {request.model} is configured on the worker.",
                    billed=_worst(call.failure for call in claim.calls),
                )
            )
        return _Run(claim, self._providers[route.provider], route)

    def _plan(self, run: _Run) -> tuple[list[Call], list[Call]]:
        """All calls of the task, and those of them that are to be sent now."""
        per_call = run.provider.pictures_per_call
        calls = list(run.claim.calls) or [
            _fresh_call(run, first, min(per_call, run.request.n - first))
            for first in range(0, run.request.n, per_call)
        ]
        if not run.claim.calls:
            return calls, calls
        for at, call in enumerate(calls):
            if _may_be_sent_again(call):
                calls[at] = _fresh_call(run, call.first, call.count)
        return calls, [c for c, old in zip(calls, run.claim.calls, strict=True) if c is not old]

    def _deliver(self, run: _Run, call: Call, *, fresh: bool) -> _Delivery:
        """Carry one call to its end. The only place that acts on what a provider did."""
        try:
            if not fresh and (stored := self._already_stored(run, call)) is not None:
                return stored
            outcome: Outcome
            if fresh:
                call, outcome = self._submit(run, call)
            else:
                outcome = _resume(call)
            received = self._await(run, call, outcome) if isinstance(outcome, Job) else outcome
            if isinstance(received, Deferred):
                return _Delivery(call, again=received)
            return self._receive(run, call, received)
        except ProviderError as error:
            return self._failed(run, call, error)

    def _submit(self, run: _Run, call: Call) -> tuple[Call, Outcome]:
        """Buy. The answer is in the journal before anything else is done with it."""
        timeout = min(run.provider.longest_submit, run.time_left - _MARGIN)
        outcome = run.provider.submit(
            Order(
                run.request,
                run.route,
                count=call.count,
                first=call.first,
                key=f"{run.claim.task.id}/{call.first}",
            ),
            timeout=timeout,
        )
        match outcome:
            case Job():
                # Should even this write fail for good, the line is the last copy of the job id.
                log.info("accepted", task_id=run.claim.task.id, job_id=outcome.id)
                job = {"id": outcome.id, "state": outcome.state}
                call = replace(call, state=CallState.ACCEPTED, job=job, usage=outcome.usage)
            case Pictures():
                about = tuple(_about(picture) for picture in outcome.pictures)
                call = replace(call, state=CallState.RECEIVED, pictures=about, usage=outcome.usage)
        self._keep(run, call)
        return call, outcome

    def _await(self, run: _Run, call: Call, job: Job) -> Pictures | Deferred:
        """Poll until the provider is done; trouble on the way is cured by the next poll."""
        trouble = 0
        while True:
            wait = run.provider.poll_every if not trouble else _backoff(trouble)
            if self._stopping.wait(min(wait, max(0.0, run.time_left - _MARGIN))):
                return Deferred("this worker stops", 0)
            if run.time_left <= _MARGIN:
                raise _TimedOut("The provider did not finish the job in time.", billed="yes")
            try:
                outcome = run.provider.poll(job, timeout=max(_MARGIN, run.time_left - _MARGIN))
            except ProviderError as error:
                if not error.retryable:
                    raise
                trouble += 1
                continue
            trouble = 0
            if isinstance(outcome, Pictures):
                return replace(outcome, usage=call.usage | outcome.usage)
            job = outcome
            self._tell_progress(run, call, outcome)

    def _receive(self, run: _Run, call: Call, outcome: Pictures) -> _Delivery:
        """Verify and store what came. A call may bring fewer pictures than were asked for."""
        images: list[StoredImage] = []
        failures: list[Failure] = []
        for index, picture in enumerate(outcome.pictures[: call.count], start=call.first):
            try:
                if isinstance(picture, ProviderError):
                    raise picture
                images.append(self._store_picture(run, index, picture))
            except ProviderError as error:
                failures.append(_failure(error))
        absent = call.count - len(outcome.pictures)
        failures += [_failure(BadAnswer(_FEWER))] * absent
        return _Delivery(replace(call, usage=outcome.usage), tuple(images), tuple(failures))

    def _store_picture(self, run: _Run, index: int, picture: Picture) -> StoredImage:
        verified = off_the_hub(
            lambda: verify(picture.data, run.request, self._limits, quarter=picture.quarter)
        )
        name = f"{run.claim.task.id}/{index}.{verified.format}"
        self._until_stored(run, lambda: self._storage.put(name, verified.data))
        return StoredImage(
            name=name,
            format=verified.format,
            width=verified.width,
            height=verified.height,
            bytes=len(verified.data),
            sha256=verified.sha256,
            revised_prompt=picture.revised_prompt,
            seed=picture.seed,
        )

    def _already_stored(self, run: _Run, call: Call) -> _Delivery | None:
        """What is left of a call whose worker died between storing pictures and the last write."""
        if call.state not in (CallState.ACCEPTED, CallState.RECEIVED):
            return None
        said = call.pictures or ({},) * call.count
        withheld = tuple(Failure(**about["withheld"]) for about in said if "withheld" in about)
        found = [
            self._adopt(run, call.first + at, about)
            for at, about in enumerate(said)
            if "withheld" not in about
        ]
        images = tuple(image for image in found if image is not None)
        lost = len(found) - len(images)
        if not images or (lost and call.state is CallState.ACCEPTED):
            return None  # a job is asked for all of its pictures again
        failures = withheld + (_failure(BadAnswer(_LOST, billed="yes")),) * lost
        failures += (_failure(BadAnswer(_FEWER)),) * (call.count - len(said))
        return _Delivery(call, images, failures)

    def _adopt(self, run: _Run, index: int, about: dict[str, Any]) -> StoredImage | None:
        for suffix in _FORMATS:
            data = self._stored(run, f"{run.claim.task.id}/{index}.{suffix}")
            if data is not None:
                return self._store_picture(run, index, Picture(data, **about))
        return None

    def _stored(self, run: _Run, name: str) -> bytes | None:
        return self._until_stored(run, lambda: self._storage.get(name))

    def _failed(self, run: _Run, call: Call, error: ProviderError) -> _Delivery:
        log.info(
            "call failed",
            task_id=run.claim.task.id,
            provider=call.provider,
            error=type(error).__name__,
            billed=error.billed,
            request_id=error.request_id or call.usage.get("request_id"),
        )
        if call.state is not CallState.FAILED:
            call = replace(call, state=CallState.FAILED, failure=_failure(error))
            self._keep(run, call)
        if error.retryable and error.billed == "no":
            wait = error.retry_after or _backoff(run.claim.attempt)
            patient = (
                error.retry_after is not None or run.claim.attempt < _MOST_ATTEMPTS_WITHOUT_ANSWER
            )
            if patient and wait < run.time_left - _MARGIN:
                return _Delivery(call, again=Deferred(type(error).__name__, wait))
        return _Delivery(call, failures=(_failure(error),) * call.count)

    def _tell_progress(self, run: _Run, call: Call, job: Job) -> None:
        if job.progress is None or job.progress <= run.progress.get(call.first, 0):
            return
        run.progress[call.first] = job.progress
        overall = sum(run.progress.values()) * call.count // run.request.n
        self._until_stored(run, lambda: self._store.journal(run.claim, progress=min(99, overall)))

    def _keep(self, run: _Run, *calls: Call) -> None:
        """Write to the journal, for as long as it takes: what it says decides over money."""
        self._until_stored(run, lambda: self._store.journal(run.claim, *calls))

    def _defer(self, claim: Claim, deferred: Deferred) -> None:
        self._store.defer(claim, deferred.wait)
        raise deferred

    def _until_stored(self, run: _Run, write: Callable[[], T]) -> T:
        """Repeat a write until the store takes it, or the task's time is over."""
        trouble = 0
        while True:
            try:
                return write()
            except StoreUnavailable as error:
                trouble += 1
                if run.time_left <= 0:
                    raise
                log.warning("waiting for the store", task_id=run.claim.task.id, reason=str(error))
                time.sleep(min(0.1 * 2**trouble, 2.0))


class _TimedOut(ProviderError):
    """The deadline came while the provider was still at it."""

    code = "timeout"


def _resume(call: Call) -> Job:
    """How to go on with a call that an earlier claim had begun."""
    match call:
        case Call(state=CallState.FAILED, failure=Failure() as failure):
            raise _Ended(failure)
        case Call(job={"id": str(job_id), "state": state}):
            return Job(job_id, state, usage=call.usage)
        case Call(state=CallState.SUBMITTING):
            raise OutcomeUnknown(
                "The worker was lost while the provider was being asked; the picture may have "
                "been made and charged. It was not asked for again."
            )
        case _:
            raise BadAnswer(_LOST, billed="yes")


class _Ended(ProviderError):
    """A call that had failed for good under an earlier claim."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, billed=failure.billed)
        self.code = failure.code  # type: ignore[misc]  # the recorded code, not the class's


def _route(
    model: Model, calls: tuple[Call, ...], providers: Mapping[str, Provider]
) -> Route | None:
    """The route on which the task already is, else the first one that can be taken."""
    if calls:
        on = calls[0]
        usable = (r for r in model.routes if r.provider in providers)
        return next((r for r in usable if (r.provider, r.model) == (on.provider, on.model)), None)
    return model.route(providers.keys())


def _fresh_call(run: _Run, first: int, count: int) -> Call:
    return Call(first, count, run.route.provider, run.route.model, CallState.SUBMITTING)


def _may_be_sent_again(call: Call) -> bool:
    return (
        call.state is CallState.FAILED
        and call.failure is not None
        and call.failure.retryable
        and call.failure.billed == "no"
    )


def _side_by_side(work: Callable[[Call], _Delivery], calls: list[Call]) -> list[_Delivery]:
    if len(calls) == 1:
        return [work(calls[0])]
    with ThreadPoolExecutor(len(calls), thread_name_prefix="call") as pool:
        return list(pool.map(work, calls))


def _result(run: _Run, deliveries: list[_Delivery]) -> Result:
    images = tuple(image for delivery in deliveries for image in delivery.images)
    failures = tuple(failure for delivery in deliveries for failure in delivery.failures)
    if not images:
        raise GenerationFailed(replace(failures[0], billed=_worst(failures)))
    return Result(
        images=images,
        provider=run.route.provider,
        provider_model=run.route.model,
        usage=_total(delivery.call.usage for delivery in deliveries),
        missing=failures,
    )


def _total(usages: Any) -> dict[str, Any]:
    """One usage of several calls: costs are added up, of the rest the first call speaks."""
    usages = list(usages)
    total = {name: value for usage in reversed(usages) for name, value in usage.items()}
    if "cost_usd" in total:
        total["cost_usd"] = round(sum(usage.get("cost_usd", 0.0) for usage in usages), 6)
    return total


def _worst(failures: Any) -> Billed:
    bills = {failure.billed for failure in failures if failure is not None}
    return "yes" if "yes" in bills else "unknown" if "unknown" in bills else "no"


def _failure(error: ProviderError) -> Failure:
    return Failure(error.code, error.message, error.retryable, error.billed)


def _about(picture: Picture | ProviderError) -> dict[str, Any]:
    if isinstance(picture, ProviderError):
        return {"withheld": asdict(_failure(picture))}
    return {"revised_prompt": picture.revised_prompt, "seed": picture.seed}


def _backoff(attempt: int) -> float:
    """Full jitter: a fleet that was turned away together must not come back together."""
    return random.uniform(0.5, min(_LONGEST_BACKOFF, 2.0**attempt))  # noqa: S311
