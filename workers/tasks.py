"""The one Celery task: what Celery needs to know of a generation, and nothing more."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Retry

from common.errors import GenerationFailed, LeaseLost, StoreUnavailable
from common.logging import get_logger
from common.queue import GENERATE
from common.store import TaskStore
from common.task import Claim, Failure, Result
from common.tracing import Tracing
from workers.courier import Deferred
from workers.heartbeat import Heartbeat
from workers.runner import Runner
from workers.watchdog import Watchdog

__all__ = ["register"]

log = get_logger(__name__)


def register(
    app: Celery,
    *,
    store: TaskStore,
    runner: Runner,
    heartbeat: Heartbeat,
    watchdog: Watchdog,
    tracing: Tracing,
    worker: str,
) -> None:
    """Make `app` handle generations. The message's own id is the task; it has no arguments.

    What is returned or raised here reaches the record through `common.backend`; the generation
    number travels there on the request.
    """

    def generate(self: Any) -> Result:
        task_id: str = self.request.id
        begun = time.time_ns()
        try:
            claim = store.claim(task_id, worker)
        except StoreUnavailable as error:
            log.warning("could not claim", reason=str(error))
            raise Ignore() from None  # the sweep announces it again
        if claim is None:
            log.debug("nothing to claim")
            raise Ignore()  # a doubled or late hint
        self.request.generation = claim.task.generation
        log.info("claimed", model=claim.task.request.model, attempt=claim.attempt)
        try:
            with (
                heartbeat.holding(claim),
                watchdog.busy(claim.time_left),
                _traced(tracing, claim, begun) as trace,
            ):
                self.request.trace = trace
                return runner.run(replace(claim, trace=trace))
        except Deferred as deferred:
            # Nothing is published here: the task waits in the due set. Flower shows a retry.
            log.info("put back", reason=deferred.reason, seconds=round(deferred.wait, 1))
            raise Retry(f"{deferred.reason}, again in {deferred.wait:.0f} s") from None
        except (LeaseLost, StoreUnavailable) as error:
            log.warning("gave up a claim", reason=type(error).__name__)
            raise Ignore() from None
        except GenerationFailed:
            raise
        except Exception:
            # Its text may quote a prompt: it reaches neither record nor Flower.
            log.exception("unexpected")
            raise GenerationFailed(
                Failure("internal_error", "The worker met an unexpected error.", billed="unknown")
            ) from None

    app.task(name=GENERATE, bind=True, throws=(GenerationFailed,))(generate)


@contextlib.contextmanager
def _traced(tracing: Tracing, claim: Claim, begun: int) -> Iterator[str | None]:
    """The work on a claim as a span of its task's trace, with the claim in it, which was begun at
    `begun`; gives the traceparent for what is a part of the work."""
    task = claim.task
    with tracing.span(
        "work",
        kind="consumer",
        parent=task.trace,
        begun=begun,
        fine=(Deferred,),
        task_id=task.id,
        model=task.request.model,
        attempt=claim.attempt,
    ) as span:
        with tracing.span("claim", parent=span.traceparent, begun=begun):
            pass
        yield span.traceparent
