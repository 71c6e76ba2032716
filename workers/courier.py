"""Carries one paid call to its end: submits it, waits for it, fetches and stores what it brought.

Whatever it does can be cut off at any line: the journal says how far each call had come, and the
next claim goes on from there. The journal is what keeps an image from being bought twice. A call
is written down as `submitting` before the first byte is sent, and as `accepted` or `received`
before anything is done with the answer. A call found `submitting` by a later claim may have been
bought: it is looked for where the provider can be asked, and never sent again where not.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from common.catalog import Model, Route
from common.errors import (
    BadAnswer,
    DarkroomError,
    JobFailed,
    LeaseLost,
    ModelNotServed,
    NotAuthorised,
    OutcomeUnknown,
    OutOfCredit,
    ProviderError,
    RateLimited,
    StoreUnavailable,
    Unavailable,
)
from common.hub import off_the_hub
from common.logging import get_logger, same_lines
from common.pictures import ImageLimits
from common.storage import ImageStorage
from common.store import TaskStore, Verdict, Why
from common.task import (
    Billed,
    Call,
    CallState,
    Claim,
    Failure,
    ImageRequest,
    Input,
    StoredImage,
)
from common.tracing import OFF, Span, Tracing
from workers.cancels import Cancels
from workers.images import mask_in, verify
from workers.providers.base import Image, Job, Order, Outcome, Picture, Pictures, Provider

__all__ = [
    "CANCELLED",
    "MARGIN",
    "STOPS",
    "Courier",
    "Deferred",
    "Delivery",
    "Patience",
    "Work",
    "backoff",
    "failure_of",
    "kind_of",
]

T = TypeVar("T")

log = get_logger(__name__)

STOPS = "worker_stops"  # why a task is put back
MARGIN = 2.0  # seconds kept back from the deadline, to store what came and write it down

_FORMATS = ("png", "jpeg", "webp")
_LONGEST_BACKOFF = 30.0
_LOOKS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each look for a call that was not answered
_STOP_SECONDS = 5.0  # for a provider to answer that it stops a job
_MOST_FAILED_STOPS = 3  # times that it does not answer this
_MOST_SENT_UNKNOWN = 3  # times that a call is sent whose outcome is never learned, if at all
_LOST = "The picture was made, but lost before it was kept."
_FEWER = "The provider sent fewer pictures than asked."

CANCELLED = Failure("cancelled", "The task was cancelled.")

_VERDICTS: dict[type[ProviderError], Verdict] = {
    RateLimited: "rate_limited",
    Unavailable: "failing",
    OutcomeUnknown: "failing",
    BadAnswer: "failing",
    OutOfCredit: "no_credit",
    NotAuthorised: "bad_key",
    ModelNotServed: "not_served",
}
"""What an answer to a submit says of the route, beside what it says of the call."""


class Deferred(DarkroomError):
    """Nothing went wrong for good: the task was put back and is due again after `wait` seconds.

    `reason` is one word, for the task's timeline. `blocked` says why, where it is that no provider
    takes it at the moment.
    """

    def __init__(self, reason: str, wait: float, *, blocked: Why | None = None) -> None:
        super().__init__(reason, wait)
        self.reason = reason
        self.wait = wait
        self.blocked = blocked


@dataclass(frozen=True, slots=True)
class Patience:
    """How long trouble is waited out. All in seconds.

    `doubt`: a late answer to a call whose worker was lost. `shut`: a route whose account has no
    credit or whose key is refused is not asked again so soon. `failing`: a route that fails again
    and again; doubled each further time. `retry_unknown` names the routes on which a call whose
    outcome cannot be learned is sent again, at the risk of paying twice.
    """

    doubt: float = 30.0
    shut: float = 300.0
    failing: float = 30.0
    retry_unknown: Callable[[str], bool] = lambda route: False


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one call: pictures and failures, a wait before it goes on, or nothing at all.

    `turned_away` says why it was not carried out: nothing was bought, and it may be sent again.
    """

    call: Call
    images: tuple[StoredImage, ...] = ()
    failures: tuple[Failure, ...] = ()
    again: Deferred | None = None
    turned_away: ProviderError | None = None


@dataclass(eq=False)
class Work:
    """One claim being worked on: the claim, its clock, and what is shared by its calls."""

    claim: Claim
    model: Model
    sent: int = 0  # how often calls of the task were sent
    announced: float = (
        0.0  # when the last ones were about to be written into the journal, monotonic
    )
    progress: dict[int, int] = field(default_factory=dict)
    images: tuple[Image, ...] | None = None  # that it starts from, once they were read
    mask: bytes = b""
    ends: float = field(init=False)

    def __post_init__(self) -> None:
        self.ends = time.monotonic() + self.claim.time_left

    @property
    def request(self) -> ImageRequest:
        return self.claim.task.request

    @property
    def time_left(self) -> float:
        """Seconds until the deadline; negative when it has passed."""
        return self.ends - time.monotonic()


class Courier:
    """Carries calls. One instance serves all threads of a worker.

    `stopping` is set when the worker is told to stop: calls in flight are finished, jobs that
    only wait for their provider are put down for another worker.
    """

    def __init__(
        self,
        store: TaskStore,
        storage: ImageStorage,
        providers: Mapping[str, Provider],
        *,
        limits: ImageLimits,
        patience: Patience,
        stopping: threading.Event,
        cancels: Cancels,
        tracing: Tracing = OFF,
    ) -> None:
        self._store = store
        self._storage = storage
        self._providers = providers
        self._limits = limits
        self._patience = patience
        self._stopping = stopping
        self._cancels = cancels
        self._tracing = tracing

    def carry(
        self, work: Work, route: Route, call: Call, *, fresh: bool, trying: bool = False
    ) -> Delivery:
        """Carry one call to its end. The only place that acts on what a provider did.

        `fresh`: it is in the journal and has not been sent. `trying`: whether its route works is
        what the whole fleet waits to learn from it. Raises LeaseLost when somebody else has taken
        the task, StoreUnavailable when the store stayed away until the deadline.
        """
        try:
            if not fresh and (stored := self._already_stored(work, route, call)) is not None:
                return stored
            outcome: Outcome | Deferred
            if fresh:
                call, outcome = self._submit(work, route, call, trying=trying)
            else:
                call, outcome = self._resume(work, route, call)
            if isinstance(outcome, Job):
                with self._span("await job", work, call):
                    outcome = self._await(work, route, call, outcome)
            if isinstance(outcome, Deferred):
                return Delivery(call, again=outcome)
            return self._receive(work, route, call, outcome)
        except ProviderError as error:
            return self._failed(work, route, call, error)

    def to_cancel(self, work: Work) -> bool:
        """Whether the task's owner wants it to be cancelled, as far as is known here."""
        return self._cancels.asked(work.claim.task.id)

    def load(self, work: Work) -> None:
        """Read what the task starts from, if that was not done yet.

        Raises a ProviderError when it is not in the store any more as it was, StoreUnavailable
        when the store stayed away until the deadline.
        """
        if work.images is None:
            request = work.request
            work.images = tuple(
                Image(self._input(work, told), told.format) for told in request.inputs
            )
            work.mask = self._input(work, request.mask) if request.mask else b""

    def until_stored(self, work: Work, write: Callable[[], T]) -> T:
        """Repeat a write until the store takes it, or the task's time is over."""
        trouble = 0
        while True:
            try:
                return write()
            except StoreUnavailable as error:
                trouble += 1
                if work.time_left <= 0:
                    raise
                log.warning("waiting for the store", reason=str(error))
                time.sleep(min(0.1 * 2**trouble, 2.0))

    def _input(self, work: Work, told: Input) -> bytes:
        name = told.name(work.claim.task.id)
        data = self.until_stored(work, lambda: self._storage.get(name))
        if data is None or off_the_hub(lambda: hashlib.sha256(data).hexdigest()) != told.sha256:
            raise _InputLost("An image that the task starts from is not stored any more.")
        return data

    # -- buying

    def _order(self, work: Work, route: Route, call: Call) -> Order:
        self.load(work)
        form = self._providers[route.provider].mask_form
        mask = None
        if work.mask:
            mask = Image(off_the_hub(lambda: mask_in(form, work.mask, self._limits)), "png")
        return Order(
            work.request,
            route,
            count=call.count,
            first=call.first,
            key=f"{work.claim.task.id}/{call.first}",
            images=work.images or (),
            mask=mask,
        )

    def _submit(
        self, work: Work, route: Route, call: Call, *, trying: bool
    ) -> tuple[Call, Outcome]:
        provider, order = self._providers[route.provider], self._order(work, route, call)
        if time.monotonic() - work.announced > self._store.lease / 2:
            self._ask_before_sending(work, call)
        try:
            with (
                self._span("call provider", work, call),
                self._following(work, call, provider, order),
            ):
                outcome: Outcome = provider.submit(order, timeout=_submit_timeout(work, provider))
        except ProviderError as error:
            self._judge(route, error, trying=trying)
            if not isinstance(error, OutcomeUnknown):
                raise
            outcome = self._clear_up(work, provider, order, error)
        else:
            if trying:
                self._judge(route, None, trying=True)
        return self._bought(work, call, outcome)

    def _ask_before_sending(self, work: Work, call: Call) -> None:
        """This process stood still since the call was announced: somebody else may have the task,
        and have to think that it was sent. Only we know that it was not."""
        try:
            self._keep(work, call)
        except LeaseLost:
            unsent = Unavailable("The call was announced, and never sent.")
            call = replace(
                call,
                state=CallState.TURNED_AWAY,
                failure=failure_of(unsent),
                error=kind_of(unsent),
            )
            self.until_stored(work, lambda: self._store.adopt(work.claim.task.id, call))
            raise

    @contextlib.contextmanager
    def _following(
        self, work: Work, call: Call, provider: Provider, order: Order
    ) -> Iterator[None]:
        """Pass on how far a submit has come while it is in flight, if its provider tells."""
        every, over = provider.progress_every, threading.Event()
        if every is None:
            yield
            return

        def follow() -> None:
            while not over.wait(every):
                # What goes wrong here says nothing of the submit, and is met there again.
                with contextlib.suppress(ProviderError, LeaseLost, StoreUnavailable):
                    self._tell_progress(work, call, provider.progress(order, timeout=every))

        follower = threading.Thread(target=same_lines(follow), name="progress", daemon=True)
        follower.start()
        try:
            yield
        finally:
            over.set()
            follower.join()

    def _bought(self, work: Work, call: Call, outcome: Outcome) -> tuple[Call, Outcome]:
        """The answer is in the journal before anything else is done with it."""
        match outcome:
            case Job():
                # Should even this write fail for good, the line is the last copy of the job id.
                log.info("accepted", job_id=outcome.id)
                job = {"id": outcome.id, "state": outcome.state}
                call = replace(call, state=CallState.ACCEPTED, job=job, usage=outcome.usage)
            case Pictures():
                about = tuple(_about(picture) for picture in outcome.pictures)
                call = replace(call, state=CallState.RECEIVED, pictures=about, usage=outcome.usage)
        try:
            self._keep(work, call)
        except LeaseLost:
            self._hand_in(work, call, outcome)
            raise
        return call, outcome

    def _hand_in(self, work: Work, call: Call, outcome: Outcome) -> None:
        """What a worker that was thought dead has bought is of use to whoever has the task now."""
        if isinstance(outcome, Pictures):
            self._receive_pictures(work, call, outcome)  # they have to be there to be adopted
        adopted = self.until_stored(work, lambda: self._store.adopt(work.claim.task.id, call))
        log.info("handed in a late answer", adopted=adopted)

    def _resume(self, work: Work, route: Route, call: Call) -> tuple[Call, Outcome | Deferred]:
        """Go on with a call that an earlier claim had begun."""
        provider = self._providers[route.provider]
        match call:
            case Call(state=CallState.FAILED, failure=Failure() as failure):
                raise _Ended(failure)
            case Call(job={"id": str(job_id), "state": state}):
                return call, Job(job_id, state, usage=call.usage)
            case Call(state=CallState.SUBMITTING) if provider.in_doubt == "none":
                call = replace(call, state=CallState.IN_DOUBT)
                self._keep(work, call)
                return call, Deferred("in_doubt", self._patience.doubt)
            case Call(state=CallState.SUBMITTING | CallState.IN_DOUBT):
                unknown = OutcomeUnknown(
                    "The worker was lost while the provider was being asked; the picture may have "
                    "been made and charged. It was not asked for again."
                )
                outcome = self._clear_up(work, provider, self._order(work, route, call), unknown)
                return self._bought(work, call, outcome)
            case _:  # received: its worker may be frozen, not dead, and store what it holds yet
                call = replace(call, state=CallState.MISSED)
                self._keep(work, call)
                return call, Deferred("missed", self._patience.doubt)

    def _clear_up(
        self, work: Work, provider: Provider, order: Order, unknown: OutcomeUnknown
    ) -> Outcome:
        """Learn what became of a call whose answer never came. Raises `unknown` if nobody can."""
        match provider.in_doubt:
            case "key":
                return provider.submit(order, timeout=_submit_timeout(work, provider))
            case "lookup":
                # It may still be on its way, so one look is not enough.
                for wait in _LOOKS:
                    if work.time_left <= wait + 2 * MARGIN:
                        break
                    time.sleep(wait)
                    try:
                        job = provider.lookup(order, timeout=work.time_left - MARGIN)
                    except ProviderError as error:
                        if not error.retryable:
                            raise unknown from error
                        continue
                    if job is not None:
                        return job
        raise unknown

    def _judge(self, route: Route, error: ProviderError | None, *, trying: bool) -> None:
        """Tell the fleet what the answer to a submit showed of its route."""
        verdict = _VERDICTS.get(type(error)) if error is not None else None
        if verdict is None and not trying:
            return
        wait = self._patience.shut
        if verdict == "rate_limited" and error is not None:
            wait = backoff(1) if error.retry_after is None else error.retry_after
        elif verdict == "failing":
            wait = self._patience.failing
        try:
            self._store.judge(route.name, verdict or "fine", wait)
        except StoreUnavailable as trouble:  # the call matters more
            log.warning("a route was not judged", route=route.name, reason=str(trouble))

    def _await(self, work: Work, route: Route, call: Call, job: Job) -> Pictures | Deferred:
        """Poll until the provider is done, or has stopped because the task is to be cancelled;
        trouble on the way is cured by the next poll."""
        provider = self._providers[route.provider]
        stop = _Stop(provider)
        trouble = 0
        while True:
            wait = provider.poll_every if not trouble else backoff(trouble)
            if self._stopping.wait(min(wait, max(0.0, work.time_left - MARGIN))):
                return Deferred(STOPS, 0)
            if work.time_left <= MARGIN:
                raise _TimedOut("The provider did not finish the job in time.", billed="yes")
            cancelling = self.to_cancel(work)
            if cancelling:
                stop.ask(job)
            try:
                outcome = provider.poll(job, timeout=max(MARGIN, work.time_left - MARGIN))
            except JobFailed as error:
                if cancelling:
                    raise _Cancelled(billed=error.billed) from error
                raise
            except ProviderError as error:
                if not error.retryable:
                    raise
                trouble += 1
                continue
            trouble = 0
            if isinstance(outcome, Pictures):
                return replace(outcome, usage=call.usage | outcome.usage)
            job = outcome
            self._tell_progress(work, call, outcome.progress)
            if cancelling and stop.is_refused:
                log.info("not cancelled", job_id=job.id)
                self._cancels.forget(work.claim.task.id)
                self.until_stored(work, lambda: self._store.decline(work.claim))
                stop = _Stop(provider)

    # -- what came of it

    def _receive(self, work: Work, route: Route, call: Call, outcome: Pictures) -> Delivery:
        images, failures = self._receive_pictures(work, call, outcome)
        usage = dict(outcome.usage)
        if call.begun is not None:
            usage.setdefault("seconds", round(max(0.0, time.time() - call.begun), 3))
        made = sum(isinstance(picture, Picture) for picture in outcome.pictures)
        usage = _with_cost(usage, work.model.price(route), made)
        return Delivery(replace(call, usage=usage), images, failures)

    def _receive_pictures(
        self, work: Work, call: Call, outcome: Pictures
    ) -> tuple[tuple[StoredImage, ...], tuple[Failure, ...]]:
        """Verify and store what came. A call may bring fewer pictures than were asked for."""
        images: list[StoredImage] = []
        failures: list[Failure] = []
        for index, picture in enumerate(outcome.pictures[: call.count], start=call.first):
            try:
                if isinstance(picture, ProviderError):
                    raise picture
                images.append(self._store_picture(work, index, picture))
            except ProviderError as error:
                failures.append(failure_of(error))
        absent = call.count - len(outcome.pictures)
        failures += [failure_of(BadAnswer(_FEWER))] * absent
        return tuple(images), tuple(failures)

    def _store_picture(self, work: Work, index: int, picture: Picture) -> StoredImage:
        verified = off_the_hub(
            lambda: verify(picture.data, work.request, self._limits, quarter=picture.quarter)
        )
        name = f"{work.claim.task.id}/{index}.{verified.format}"
        with self._tracing.span(
            "store picture", parent=work.claim.trace, picture=index, bytes=len(verified.data)
        ):
            self.until_stored(work, lambda: self._storage.put(name, verified.data))
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

    def _already_stored(self, work: Work, route: Route, call: Call) -> Delivery | None:
        """What is left of a call whose worker died between storing pictures and the last write."""
        if call.state not in (CallState.ACCEPTED, CallState.RECEIVED, CallState.MISSED):
            return None
        said = call.pictures or ({},) * call.count
        withheld = tuple(Failure(**about["withheld"]) for about in said if "withheld" in about)
        found = [
            self._adopt(work, call.first + at, about)
            for at, about in enumerate(said)
            if "withheld" not in about
        ]
        images = tuple(image for image in found if image is not None)
        lost = len(found) - len(images)
        if lost and call.state is not CallState.MISSED:
            return None  # a job is asked for all of its pictures again; others are waited for
        failures = withheld + (failure_of(BadAnswer(_LOST, billed="yes")),) * lost
        failures += (failure_of(BadAnswer(_FEWER)),) * (call.count - len(said))
        usage = _with_cost(call.usage, work.model.price(route), len(found))
        return Delivery(replace(call, usage=usage), images, failures)

    def _adopt(self, work: Work, index: int, about: dict[str, Any]) -> StoredImage | None:
        for suffix in _FORMATS:
            name = f"{work.claim.task.id}/{index}.{suffix}"
            data = self.until_stored(work, lambda name=name: self._storage.get(name))  # type: ignore[misc]
            if data is not None:
                return self._store_picture(work, index, Picture(data, **about))
        return None

    def _failed(self, work: Work, route: Route, call: Call, error: ProviderError) -> Delivery:
        log.info(
            "call failed",
            provider=call.provider,
            error=type(error).__name__,
            billed=error.billed,
            request_id=error.request_id or call.usage.get("request_id"),
        )
        again = error.elsewhere and error.billed == "no"
        if isinstance(error, OutcomeUnknown) and self._patience.retry_unknown(route.name):
            again = work.sent < _MOST_SENT_UNKNOWN
        state = CallState.TURNED_AWAY if again else CallState.FAILED
        if call.state is not CallState.FAILED:
            call = replace(
                call, state=state, failure=failure_of(error), error=kind_of(error), job=None
            )
            self._keep(work, call)
        if again:
            return Delivery(call, turned_away=error)
        return Delivery(call, failures=(failure_of(error),) * call.count)

    def _span(self, name: str, work: Work, call: Call) -> AbstractContextManager[Span]:
        """What a provider does for a call, as a part of the trace of the task."""
        return self._tracing.span(
            name,
            kind="client",
            parent=work.claim.trace,
            provider=call.provider,
            provider_model=call.model,
            pictures=call.count,
        )

    def _tell_progress(self, work: Work, call: Call, progress: int | None) -> None:
        if progress is None or progress <= work.progress.get(call.first, 0):
            return
        work.progress[call.first] = progress
        overall = sum(work.progress.values()) * call.count // work.request.n
        self.until_stored(work, lambda: self._store.journal(work.claim, progress=min(99, overall)))

    def _keep(self, work: Work, call: Call) -> None:
        """Write to the journal, for as long as it takes: what it says decides over money."""
        self.until_stored(work, lambda: self._store.journal(work.claim, call))


def failure_of(error: ProviderError) -> Failure:
    """The error as a record keeps it."""
    return Failure(error.code, error.message, error.retryable, error.billed)


def kind_of(error: ProviderError) -> str:
    """The kind of an error as journal and timeline have it: `RateLimited` is `rate_limited`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.lstrip("_")).lower()


def backoff(attempt: int) -> float:
    """Full jitter: a fleet that was turned away together must not come back together."""
    return random.uniform(0.5, min(_LONGEST_BACKOFF, 2.0 ** min(attempt, 10)))  # noqa: S311


class _TimedOut(ProviderError):
    """The deadline came while the provider was still at it."""

    code = "timeout"


class _InputLost(ProviderError):
    """Our own store has lost what the task starts from; nobody was asked for anything."""

    code = "internal_error"
    billed: Billed = "no"


class _Cancelled(ProviderError):
    """The job was stopped because the task is to be cancelled."""

    code = "cancelled"

    def __init__(self, *, billed: Billed) -> None:
        super().__init__(CANCELLED.message, billed=billed)


@dataclass
class _Stop:
    """Tells a provider to stop one job, between polls."""

    provider: Provider
    is_refused: bool = False  # it goes on, unless the next poll says that it is over
    asked: bool = False
    failed: int = 0

    def ask(self, job: Job) -> None:
        """Ask, if that has any sense. Raises _Cancelled when the job was stopped."""
        if self.asked or self.is_refused:
            return
        if not self.provider.cancels:
            self.is_refused = True
            return
        try:
            stopped = self.provider.cancel(job, timeout=_STOP_SECONDS)
        except ProviderError as error:
            self.failed += 1
            self.is_refused = self.failed >= _MOST_FAILED_STOPS
            log.warning("could not ask to stop", job_id=job.id, error=type(error).__name__)
            return
        self.asked, self.is_refused = stopped == "asked", stopped is None
        if stopped is not None and stopped != "asked":
            raise _Cancelled(billed=stopped)


class _Ended(ProviderError):
    """A call that had failed for good under an earlier claim."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, billed=failure.billed)
        self.code = failure.code  # type: ignore[misc]  # the recorded code, not the class's


def _submit_timeout(work: Work, provider: Provider) -> float:
    return min(provider.longest_submit, work.time_left - MARGIN)


def _with_cost(usage: dict[str, Any], price: float | None, made: int) -> dict[str, Any]:
    """The usage with what `made` pictures cost by the list, where the provider does not tell."""
    if price is None or "cost_usd" in usage:
        return usage
    return usage | {"cost_usd": round(price * made, 6), "cost_estimated": True}


def _about(picture: Picture | ProviderError) -> dict[str, Any]:
    if isinstance(picture, ProviderError):
        return {"withheld": asdict(failure_of(picture))}
    return {"revised_prompt": picture.revised_prompt, "seed": picture.seed}
