"""Something of each kind that is counted, so that every number has its labels."""

from __future__ import annotations

from dataclasses import replace

from common.catalog import Catalog
from common.outbox import Outbox
from common.oversight import Oversight
from common.store import Offer
from common.task import Call, CallState, Failure
from common.webhook import Try
from tests.api.conftest import Stack

ROUTE = "bfl/flux-pro-1.1"


def make(stack: Stack) -> None:
    """A task that completes and has its webhook, one that fails; a worker, a shut and a paused
    route."""
    store = stack.store
    store.renew("worker", {})
    store.sweep("sweep")
    store.judge(ROUTE, "no_credit", 300)
    Oversight(stack.redis, Catalog.load()).pause("fal")
    task_id = stack.submit(webhook_url="https://shop.example.com/")
    claim = stack.claim(task_id)
    call = Call(0, 1, "bfl", "flux-pro-1.1", CallState.SUBMITTING, 1.0)
    store.begin(claim, [Offer("openai/x", 0, (call,))])
    store.journal(claim, replace(call, state=CallState.RECEIVED))
    assert store.defer(claim, 0)
    stack.complete(task_id, usage={"seconds": 2.0, "cost_usd": 0.04})
    outbox = Outbox(stack.redis, waits=(60,), lease=30)
    (due,) = outbox.take(1)
    assert outbox.told(due, Try(due.at, 500, None, 3))

    claim = stack.claim(stack.submit())
    store.begin(claim, [Offer("openai/x", 0, (call,))])
    failure = Failure("outcome_unknown", "Nobody knows.", billed="unknown")
    store.journal(
        claim, replace(call, state=CallState.FAILED, failure=failure, error="outcome_unknown")
    )
    assert store.fail(claim.task.id, claim.task.generation, failure)
