"""The task store: one record per task in Redis, changed only by guarded transitions.

`lua/` says what each operation does to a record, `records` reads what it says. Every public method
is one round trip, safe to call from many threads, and raises `StoreUnavailable` when Redis does not
answer or refuses the write.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson
import redis

from common.errors import LeaseLost, LimitExceeded, NameReused, QueueFull, RetryRefused
from common.limits import UNLIMITED, Limits, RequestsLeft, Usage, millionths, usage_from
from common.records import calls_from, entries, task_from
from common.script import PREFIX, Script, pairs
from common.settings import Settings
from common.task import (
    Billed,
    Call,
    CallState,
    Claim,
    Failure,
    ImageRequest,
    Result,
    Status,
    Task,
)
from common.webhook import Webhook

__all__ = [
    "CANCEL_CHANNEL",
    "ENDED_CHANNEL",
    "MOVED_CHANNEL",
    "Cancelling",
    "Created",
    "Grant",
    "Health",
    "Inspection",
    "Offer",
    "Once",
    "Outcomes",
    "Page",
    "Renewal",
    "Retry",
    "Shut",
    "Sweep",
    "TaskStore",
    "Verdict",
    "Why",
    "inspection_from",
    "paused_since",
    "shut_routes",
]

Why = Literal["no_credit", "bad_key", "not_served", "rate_limited", "failing", "full", "paused"]
"""Why a route takes no call at the moment: its account has no money, or its key is refused; the
provider does not have the model; it asked to wait; it fails again and again; its cap is reached; an
operator has paused it, its account, or the model that was asked for."""

Verdict = Literal["fine", "failing", "rate_limited", "no_credit", "bad_key", "not_served"]
"""What a call showed of its route."""

ENDED_CHANNEL = f"{PREFIX}ended"
"""Has the id of every task that reaches a final status, or turns out not to be cancelled."""

MOVED_CHANNEL = f"{PREFIX}moved"  # the id of every task that is taken up, or whose progress is told

CANCEL_CHANNEL = f"{PREFIX}cancels"  # the id of every task that its worker is to cancel

Cancelling = Literal["cancelled", "requested", "over", "sending", "in_doubt", "unstoppable"]
"""What came of the wish to cancel a task: it is over; its worker will see to it; it had ended
before; it is being sent to its provider; what became of a call is not known; its provider cannot be
told to stop."""

_MOST_LOOKED_AT = 1000  # records, for one page of a list

# What the timeline calls a state of a call, where that is not its name.
_EVENTS = {CallState.ACCEPTED: "job_accepted", CallState.FAILED: "call_failed"}

# Ends that say nothing about how well a model works: the caller's doing.
_NOT_THE_MODELS_FAULT = frozenset({"content_policy_violation", "invalid_value", "cancelled"})


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the generations of one model ended in the last 24 hours."""

    succeeded: int = 0
    failed: int = 0
    mean_seconds: float | None = None  # from submit to completed
    mean_run: float | None = None  # from the first claim to completed, in seconds

    @property
    def samples(self) -> int:
        return self.succeeded + self.failed


@dataclass(frozen=True, slots=True)
class Once:
    """The caller's name for a submit, and a digest of what was asked for: under the same name the
    same request is one task."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Retry:
    """A task is to be made in place of the failed task `of`, if that was billed as `bills` say: by
    default, if it was not. Once only."""

    of: str
    bills: tuple[Billed, ...] = ("no",)


@dataclass(frozen=True, slots=True)
class Created:
    """A task that was kept at `at`, in Unix milliseconds; `replayed` is how it stands if that was
    not now but when its name was first used. `left` is there with a limit on requests."""

    task_id: str
    at: int
    replayed: Task | None = None
    left: RequestsLeft | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of an owner's tasks. What comes next is asked for with `after=last`."""

    tasks: tuple[Task, ...]
    last: str | None
    more: bool


class Renewal(NamedTuple):
    """Of the tasks that a process holds: those that are not its own any more, and those that are
    to be cancelled."""

    lost: frozenset[str]
    to_cancel: frozenset[str]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one look for due tasks did. `lag` is how late, in seconds, the oldest one was seen."""

    due: int
    announced: int
    timed_out: int
    lag: float


@dataclass(frozen=True, slots=True)
class Health:
    """Names of the processes seen in the last hour, with the seconds since. `lag` is for how many
    seconds the oldest due task has been waiting for a sweep to look at it."""

    workers: Mapping[str, float]
    sweeps: Mapping[str, float]
    lag: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """A task with what its owner is not told. Times in Unix milliseconds."""

    task: Task
    calls: tuple[Call, ...]  # the journal
    attempts: int  # claims so far
    losses: int  # of them, those whose worker died
    sent: int  # how often calls were sent
    worker: str | None  # who holds it
    lease: int | None  # until when
    retry_at: int | None  # not to be claimed before
    retried: str | None  # the task that an operator had made of it when it had failed


@dataclass(frozen=True, slots=True)
class Offer:
    """Calls that could be sent, all on one route. `cap` is the most calls that the whole fleet may
    have in flight there, 0 for any number."""

    route: str
    cap: int
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """The calls that may be sent, already in the journal: some or all of one offer."""

    offer: int  # which one
    calls: tuple[Call, ...]
    trying: bool  # nobody knows yet whether the route works: it is to be judged
    sent: int  # how often calls of this task were sent, this time included


@dataclass(frozen=True, slots=True)
class Shut:
    """A route that takes no call, and in how many seconds it may; infinity where nobody knows."""

    why: Why
    wait: float


class TaskStore:
    """Keeps the tasks, and what is known of the routes. All times are in seconds.

    `lease` is how long a claim holds without being renewed, `retention` how long a finished task
    is kept, `check` how soon a task whose message may be lost is looked at. `most_failures` in a
    row shut a route. Of one queue `most_waiting` tasks may wait for a worker, 0 for any number.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        lease: float = 30,
        retention: float = 24 * 3600,
        check: float = 10,
        most_losses: int = 3,
        most_failures: int = 5,
        most_waiting: int = 0,
    ) -> None:
        self._run = Script(client).run
        self.lease = lease
        self._lease = _ms(lease)
        self._retention = _ms(retention)
        self._check = _ms(check)
        self._most_losses = most_losses
        self._most_failures = most_failures
        self._most_waiting = most_waiting
        self._named = _ms(24 * 3600)

    @classmethod
    def of(cls, client: redis.Redis, settings: Settings) -> TaskStore:
        """The store as the settings want it, the same in every process."""
        return cls(
            client,
            lease=settings.lease_seconds,
            retention=settings.retention_hours * 3600,
            check=settings.rehint_seconds,
            most_failures=settings.breaker_failures,
            most_waiting=settings.queue_limit,
        )

    def create(
        self,
        task_id: str,
        *,
        owner: str,
        queue: str,
        request: ImageRequest,
        deadline: float,
        route: str = "",
        warnings: Iterable[str] = (),
        sandbox: bool = False,
        once: Once | None = None,
        limits: Limits = UNLIMITED,
        price: float | None = None,
        metadata: Mapping[str, str] | None = None,
        webhook: Webhook | None = None,
        trace: str | None = None,
        retry: Retry | None = None,
    ) -> Created | None:
        """Keep a new pending task and have it announced to the workers, in one step.

        `deadline` is in seconds from now; `route` is the one that is tried first. `limits` are
        those of the owner; `price` is that of one image in US dollars, None when it is not known.
        Returns None when the id is taken. After `StoreUnavailable` the task may exist: the id
        tells. Raises QueueFull, LimitExceeded, NameReused where `once` says a name that stands
        for something else, and RetryRefused.
        """
        terms: dict[str, Any] = {
            "owner": owner,
            "queue": queue,
            "route": route,
            "summary": f"{request.model} n={request.n} {request.size}",
            "deadline": _ms(deadline),
            "retention": self._retention,
            "check": self._check,
            "most": self._most_waiting,
            "model": request.model,
            "images": request.n,
            "limits": limits.counted(),
        }
        if price is not None:
            terms["estimate"] = millionths(price * request.n)
        if once is not None:
            name = hashlib.sha256(once.name.encode()).hexdigest()
            terms["once"] = {"key": name, "of": once.digest, "kept": self._named}
        fields: dict[str, Any] = {
            "model": request.model,
            "request": _dumps(request),
            "warnings": _dumps(list(warnings)),
            "sandbox": int(sandbox),
        }
        if metadata is not None:
            fields["metadata"] = _dumps(metadata)
        if webhook is not None:
            asked = ("url", "host", "events", "base_url")
            fields["webhook"] = _dumps({name: getattr(webhook, name) for name in asked})
        if trace is not None:
            fields["trace"] = trace
        operation = ("create",) if retry is None else ("retry", retry.of, " ".join(retry.bills))
        match self._run(*operation, task_id, _dumps(terms), *_flat(fields)):
            case "created", at, *left:
                return Created(task_id, at, left=_requests_left(left, limits))
            case "replayed", record:
                task = task_from(pairs(record))
                return Created(task.id, task.created, replayed=task)
            case "reused", *_:
                raise NameReused
            case "full", wait:
                raise QueueFull(wait / 1000)
            case "exceeds", *why:
                raise _exceeded(why, limits)
            case str(reason), *about:
                raise RetryRefused(reason, *about)
            case _:
                return None

    def read(self, task_id: str) -> Task | None:
        """The task as it stands, None when there is none (any more)."""
        reply = self._run("look", task_id)
        if reply is None:
            return None
        record, place, wait = reply
        return task_from(pairs(record), place or None, wait / 1000 or None)

    def inspect(self, task_id: str) -> Inspection | None:
        """All that the record says, for people who look after the system; None when there is
        none."""
        reply = self._run("look", task_id)
        if reply is None:
            return None
        record, place, wait = reply
        return inspection_from(pairs(record), place or None, wait / 1000 or None)

    def open(self, *, limit: int) -> list[Inspection]:
        """At most so many tasks of anybody that have not ended, those first that are to be looked
        at next."""
        return [inspection_from(pairs(record)) for record in self._run("open", limit)]

    def list(
        self,
        owner: str,
        *,
        limit: int,
        after: str = "",
        status: Status | None = None,
        model: str = "",
    ) -> Page | None:
        """The tasks of an owner, the newest first, from behind the task `after`.

        So many records are looked at, at most, that a page may be empty though there is more.
        None when there is no task `after`.
        """
        reply = self._run("list", owner, after, limit, status or "", model, _MOST_LOOKED_AT)
        if reply is None:
            return None
        more, last, *records = reply
        return Page(tuple(task_from(pairs(record)) for record in records), last or None, bool(more))

    def read_many(self, task_ids: Iterable[str]) -> tuple[Task | None, ...]:
        """The tasks as they stand, but for their places in queues, in the order of the ids.

        None for one that is not there (any more).
        """
        records = self._run("read", *task_ids)
        return tuple(task_from(pairs(record)) if record else None for record in records)

    def claim(self, task_id: str, worker: str) -> Claim | None:
        """Take the right to work on a task.

        None when it is final, unknown, held by somebody else or not due yet: then there is
        nothing to do.
        """
        reply = self._run("claim", task_id, worker, self._lease, self._retention, self._most_losses)
        if reply is None:
            return None
        now, flat = reply
        record = pairs(flat)
        return Claim(
            task=task_from(record),
            calls=calls_from(record),
            attempt=int(record["attempts"]),
            time_left=(int(record["deadline"]) - now) / 1000,
        )

    def journal(self, claim: Claim, *calls: Call, progress: int | None = None) -> None:
        """Write how far paid calls have come, and renew the lease.

        Raises LeaseLost when the task is no longer the claim's.
        """
        fields = entries(calls)
        if progress is not None:
            fields["progress"] = progress
        told = _dumps([_told(call) for call in calls])
        args = (claim.task.id, claim.task.generation, self._lease, told)
        if not self._run("step", *args, *_flat(fields)):
            raise LeaseLost(claim.task.id)

    def begin(
        self,
        claim: Claim,
        offers: Sequence[Offer],
        *,
        ended: Sequence[Call] = (),
        going: Sequence[Call] = (),
    ) -> Grant | tuple[Shut, ...] | None:
        """Take the first of the offers whose route is open, and announce its calls in the journal.

        Of a capped route as many calls are granted as there is room for. `ended` and `going` are
        the calls of the task that stand, the latter with their places; every other entry of the
        journal goes: what was turned away, or announced by an attempt whose answer was lost.
        Without a grant there is a `Shut` for each offer; a task that met a full route waits in
        its line and is made due when it is its turn. None when the task is to be cancelled:
        nothing more may be bought for it. Raises LeaseLost.
        """
        named = [f"call:{call.first}" for call in (*going, *ended)]
        args: list[Any] = [len(named), len(going), *named]
        for offer in offers:
            args += [offer.route, offer.cap, len(offer.calls), *_flat(entries(offer.calls))]
        reply = self._run("begin", claim.task.id, claim.task.generation, self._lease, *args)
        if reply is None:
            raise LeaseLost(claim.task.id)
        number, *rest = reply
        if number < 0:
            return None
        if number == 0:
            return tuple(
                Shut(why, max(0, wait) / 1000)
                for why, wait in zip(rest[::2], rest[1::2], strict=True)
            )
        granted, trying, sent = rest
        return Grant(number - 1, offers[number - 1].calls[:granted], bool(trying), sent)

    def judge(self, route: str, verdict: Verdict, seconds: float = 0) -> None:
        """Tell the fleet what a call showed of its route, named `provider/upstream model`.

        `seconds` is for how long it, or its account, is to be shut; with `failing` only after
        several in a row, and longer each time.
        """
        self._run("judge", route, verdict, _ms(seconds), self._most_failures)

    def routes(self) -> dict[str, Shut]:
        """What is shut at the moment: routes and accounts by name, and models as `model:<id>`."""
        now, flat = self._run("routes")
        return shut_routes(now, flat)

    def adopt(self, task_id: str, call: Call) -> bool:
        """Hand in what became of a call whose claim was lost. False when it is known or over."""
        [(field, value)] = entries([call]).items()
        return bool(self._run("adopt", task_id, field, value))

    def complete(self, task_id: str, generation: int, result: Result) -> bool:
        """End a task with its pictures. False when it was not the generation's to end."""
        fields = {"result": _dumps(result), "progress": 100}
        return self._finish(task_id, generation, Status.COMPLETED, "ok", fields)

    def fail(self, task_id: str, generation: int | None, failure: Failure) -> bool:
        """End a task without pictures. False when it was not the generation's to end.

        `generation` None stands for a report on a task that nobody holds.
        """
        outcome = "" if failure.code in _NOT_THE_MODELS_FAULT else "failed"
        fields: dict[str, Any] = {"failure": _dumps(failure)}
        if failure.code == "cancelled":
            fields["cancelled"] = 1
        return self._finish(task_id, generation, Status.FAILED, outcome, fields)

    def defer(
        self, claim: Claim, wait: float, *, blocked: str = "", reason: str | None = None
    ) -> bool:
        """Put the lease down; the task is due again after `wait` seconds, for any worker.

        `reason` is why, in one word; `blocked` too, where it is that no provider takes it.
        """
        args = (claim.task.id, claim.task.generation, _ms(wait), blocked)
        return bool(self._run("defer", *args, reason or blocked or "later"))

    def cancel(self, task_id: str, owner: str) -> tuple[Cancelling, Task] | None:
        """Cancel a task of `owner`, or ask for it: what came of that, and the task as it is now.

        What has bought nothing and has nothing in flight is over at once. None when the owner has
        no such task.
        """
        reply = self._run("cancel", task_id, owner, self._retention)
        if reply is None:
            return None
        outcome, record = reply
        return outcome, task_from(pairs(record))

    def decline(self, claim: Claim) -> bool:
        """Say that a task that was to be cancelled cannot be: it goes on. False when it was not
        the claim's to say."""
        return bool(self._run("decline", claim.task.id, claim.task.generation))

    def renew(self, worker: str, held: Mapping[str, int]) -> Renewal:
        """Renew all leases of a process (task id to generation) and show that it lives."""
        lost, to_cancel = self._run("renew", worker, self._lease, *_flat(held))
        return Renewal(frozenset(lost), frozenset(to_cancel))

    def sweep(self, who: str, *, limit: int = 500) -> Sweep:
        """Announce what is due, end what is past its deadline. Any number may run at once."""
        due, announced, timed_out, lag = self._run(
            "sweep", f"sweep:{who}", limit, self._check, self._retention
        )
        return Sweep(due, announced, timed_out, lag / 1000)

    def health(self) -> Health:
        """Which processes were seen lately, and whether the sweep keeps up, by Redis' clock."""
        now, seen, lag = self._run("health")
        ages = {
            name: max(0.0, (now - float(at)) / 1000)
            for name, at in zip(seen[::2], seen[1::2], strict=True)
        }
        sweeps = {name: age for name, age in ages.items() if name.startswith("sweep:")}
        workers = {name: age for name, age in ages.items() if name not in sweeps}
        return Health(workers, sweeps, lag / 1000)

    def outcomes(self) -> dict[str, Outcomes]:
        """How each model did in the last 24 hours; models without an outcome are absent."""
        flat = self._run("outcomes")
        sums: dict[str, dict[str, int]] = {}
        for name, count in zip(flat[::2], flat[1::2], strict=True):
            model, _, what = name.rpartition(":")
            counts = sums.setdefault(model, {})
            counts[what] = counts.get(what, 0) + int(count)
        return {
            model: Outcomes(
                succeeded=counts.get("ok", 0),
                failed=counts.get("failed", 0),
                mean_seconds=counts["ms"] / 1000 / counts["ok"] if counts.get("ok") else None,
                mean_run=counts["run"] / 1000 / counts["ok"] if counts.get("ok") else None,
            )
            for model, counts in sums.items()
        }

    def usage(self, owner: str, limits: Limits = UNLIMITED, *, month: str = "") -> Usage:
        """What a key has used this month, today, and in `month` (as `2026-11`) if it is given."""
        reply = self._run("usage", owner, month, limits.requests_per_minute or 0)
        return usage_from(reply, month)

    def _finish(
        self,
        task_id: str,
        generation: int | None,
        status: Status,
        outcome: str,
        fields: Mapping[str, Any],
    ) -> bool:
        token = "" if generation is None else generation
        return bool(
            self._run("finish", task_id, token, status, self._retention, outcome, *_flat(fields))
        )


def _requests_left(reply: Sequence[int], limits: Limits) -> RequestsLeft | None:
    if limits.requests_per_minute is None:
        return None
    remaining, reset = reply
    return RequestsLeft(limits.requests_per_minute, remaining, reset / 1000)


def _exceeded(reply: Sequence[Any], limits: Limits) -> LimitExceeded:
    limit, used, wait, *left = reply
    return LimitExceeded(
        limit,
        used=used / 1_000_000 if limit == "usd_per_month" else used,
        wait=None if wait < 0 else wait / 1000,
        left=_requests_left(left, limits),
    )


def shut_routes(now: float, flat: Sequence[str]) -> dict[str, Shut]:
    """What is shut at `now`, in Unix milliseconds, of all that Redis knows of routes."""
    known = pairs(flat)
    shut = {
        name: Shut(known[f"{name}:why"], (float(until) - now) / 1000)
        for field, until in known.items()
        if field.endswith(":until") and float(until) > now
        for name in [field.removesuffix(":until")]
    }
    return shut | dict.fromkeys(paused_since(flat), Shut("paused", math.inf))


def paused_since(flat: Sequence[str]) -> dict[str, int]:
    """What an operator has paused, by name, and when, in Unix milliseconds."""
    return {
        field.removesuffix(":paused"): int(since)
        for field, since in pairs(flat).items()
        if field.endswith(":paused")
    }


def inspection_from(
    record: Mapping[str, str], place: int | None = None, wait: float | None = None
) -> Inspection:
    """All that a record says. `place` in its queue, and `wait` in seconds, where they are known."""

    def number(field: str) -> int | None:
        return int(record[field]) if field in record else None

    return Inspection(
        task=task_from(record, place, wait),
        calls=calls_from(record),
        attempts=number("attempts") or 0,
        losses=number("losses") or 0,
        sent=number("sent") or 0,
        worker=record.get("worker"),
        lease=number("lease"),
        retry_at=number("retry_at"),
        retried=record.get("retried"),
    )


def _told(call: Call) -> tuple[str, dict[str, Any]]:
    """What the timeline says of a call."""
    about: dict[str, Any] = {"call": call.first}
    if call.error:
        about["error"] = call.error
    if call.failure is not None:
        about["billed"] = call.failure.billed
    return _EVENTS.get(call.state, call.state), about


def _dumps(data: Any) -> str:
    return orjson.dumps(data).decode()


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    return [part for item in fields.items() for part in item]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
