"""What a key has used against a model of it: whatever is done in whatever order, nothing is counted
twice, nothing is forgotten, and no limit is passed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from common.errors import LimitExceeded
from common.limits import Limits
from common.store import TaskStore
from common.task import (
    CallState,
    Claim,
    Failure,
    ImageRequest,
    Result,
    StoredImage,
    new_task_id,
)
from tests.common.tasks import call, let_deadline_pass
from tests.machines import try_orders
from tests.valkey import Valkey, open_store

LIMITS = {
    "key_a": Limits(tasks_in_flight=3, images_per_day=7, usd_per_month=0.4),
    "key_b": Limits(tasks_in_flight=2),
}
MODELS = ("flux-pro", "dall-e-3")
PRICES = (0.04, 0.1, 0.0, None)
BILLED = ("no", "yes", "unknown")
IMAGE = StoredImage("name/0.png", "png", 64, 48, 123, "0" * 64)


@dataclass
class Expected:
    """A task, and what it counts as. Money in millionths."""

    owner: str
    model: str
    n: int
    price: int | None
    images: int
    spent: int
    estimated: int
    unpriced: int
    claim: Claim | None = None
    asked: bool = False  # a provider; nobody knows what came of it
    over: bool = False

    def count(self, images: int, spent: int, estimated: int, *, priced: bool) -> None:
        self.images, self.spent, self.estimated = images, spent, estimated
        self.unpriced = 0 if priced else images
        self.over = True


class LimitsMachine(RuleBasedStateMachine):
    def __init__(self, valkey: Valkey, store: TaskStore) -> None:
        super().__init__()
        self.valkey = valkey
        self.store = store
        self.tasks: dict[str, Expected] = {}
        valkey.redis.flushall()

    def of(self, owner: str) -> list[Expected]:
        return [task for task in self.tasks.values() if task.owner == owner]

    @property
    def midnight_has_passed(self) -> bool:
        """Of which the model knows nothing."""
        return self.store.usage("key_a").today.period != self.day

    def pick(self, data: st.DataObject) -> tuple[str, Expected] | None:
        """A task, one that is over now and then."""
        ids = list(self.tasks)
        wanted = [i for i in ids if not self.tasks[i].over] or ids
        if data.draw(st.integers(0, 5)) == 0:
            wanted = ids
        if not wanted:
            return None
        task_id = data.draw(st.sampled_from(wanted))
        return task_id, self.tasks[task_id]

    @initialize()
    def begin(self) -> None:
        self.day = self.store.usage("key_a").today.period

    @rule(
        owner=st.sampled_from(sorted(LIMITS)),
        model=st.sampled_from(MODELS),
        n=st.integers(1, 4),
        price=st.sampled_from(PRICES),
    )
    def submit(self, owner: str, model: str, n: int, price: float | None) -> None:
        if self.midnight_has_passed:
            return
        limits, mine = LIMITS[owner], self.of(owner)
        estimate = None if price is None else round(price * 1_000_000) * n
        spent, images = sum(t.spent for t in mine), sum(t.images for t in mine)
        why = None
        assert limits.tasks_in_flight is not None
        if sum(not t.over for t in mine) >= limits.tasks_in_flight:
            why = "tasks_in_flight"
        if limits.images_per_day is not None and images + n > limits.images_per_day:
            why = "images_per_day"
        if limits.usd_per_month is not None and estimate != 0:
            needed = 1 if estimate is None else estimate
            if spent + needed > round(limits.usd_per_month * 1_000_000):
                why = "usd_per_month"

        task_id = new_task_id()
        try:
            created = self.store.create(
                task_id,
                owner=owner,
                queue="images.bfl",
                request=ImageRequest(model, "x", n=n),
                deadline=3600,
                limits=limits,
                price=price,
            )
        except LimitExceeded as error:
            assert error.limit == why
            assert self.store.read(task_id) is None
        else:
            assert created is not None and why is None
            cost = estimate or 0
            unpriced = n if estimate is None else 0
            self.tasks[task_id] = Expected(owner, model, n, estimate, n, cost, cost, unpriced)

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        if picked := self.pick(data):
            task_id, task = picked
            claim = self.store.claim(task_id, "worker")
            assert (claim is not None) is (not task.over and task.claim is None)
            task.claim = claim or task.claim

    @rule(data=st.data())
    def ask_a_provider(self, data: st.DataObject) -> None:
        if (picked := self.pick(data)) and picked[1].claim and not picked[1].over:
            self.store.journal(picked[1].claim, call(CallState.SUBMITTING))
            picked[1].asked = True

    @rule(
        data=st.data(),
        cost=st.one_of(st.none(), st.integers(0, 500_000)),
        estimated=st.booleans(),
        missing=st.lists(st.sampled_from(BILLED), max_size=3),
    )
    def complete(
        self, data: st.DataObject, cost: int | None, estimated: bool, missing: list[Any]
    ) -> None:
        if not (picked := self.pick(data)) or picked[1].claim is None:
            return
        task_id, task = picked
        assert task.claim is not None
        missing = missing[: task.n - 1]
        usage: dict[str, Any] = {} if cost is None else {"cost_usd": cost / 1_000_000}
        if cost is not None and estimated:
            usage["cost_estimated"] = True
        result = Result(
            (IMAGE,) * (task.n - len(missing)),
            "bfl",
            "flux-pro-1.1",
            usage,
            tuple(Failure("x", "y", billed=billed) for billed in missing),
        )
        done = self.store.complete(task_id, task.claim.task.generation, result)
        assert done is not task.over
        if not done:
            return
        images = task.n - missing.count("no")
        doubtful = len(missing) - missing.count("no")
        share = (task.price or 0) // task.n
        if cost is None:
            task.count(images, images * share, images * share, priced=task.price is not None)
        else:
            spent = max(cost, min(task.price or 0, cost + doubtful * share))
            task.count(images, spent, spent if estimated else spent - cost, priced=True)

    @rule(data=st.data(), billed=st.sampled_from(BILLED), cancelled=st.booleans())
    def fail(self, data: st.DataObject, billed: Any, cancelled: bool) -> None:
        if not (picked := self.pick(data)):
            return
        task_id, task = picked
        failure = Failure("cancelled" if cancelled else "upstream_error", "x", billed=billed)
        generation = task.claim.task.generation if task.claim else None
        done = self.store.fail(task_id, generation, failure)
        assert done is not task.over
        if done:
            self.ended(task, billed)

    @rule(data=st.data())
    def time_out(self, data: st.DataObject) -> None:
        if not (picked := self.pick(data)) or picked[1].over:
            return
        task_id, task = picked
        let_deadline_pass(self.valkey, task_id)
        self.valkey.redis.zadd("darkroom:due", {task_id: 0})
        assert self.store.sweep("a").timed_out == 1
        self.ended(task, "unknown" if task.asked else "no")

    @staticmethod
    def ended(task: Expected, billed: str) -> None:
        if billed == "no":
            task.count(0, 0, 0, priced=True)
        else:
            priced = task.price is not None
            task.count(task.n, task.price or 0, task.price or 0, priced=priced)

    @invariant()
    def what_is_kept_is_what_was_used(self) -> None:
        for owner, limits in LIMITS.items():
            usage, mine = self.store.usage(owner), self.of(owner)
            if usage.today.period != self.day:
                return
            assert usage.open_tasks == sum(not task.over for task in mine)
            assert limits.tasks_in_flight is not None
            assert usage.open_tasks <= limits.tasks_in_flight
            assert usage.month.models == usage.today.models
            for model in MODELS:
                tasks = [task for task in mine if task.model == model]
                expected = (
                    sum(task.images for task in tasks),
                    sum(task.spent for task in tasks),
                    sum(task.estimated for task in tasks),
                    sum(task.unpriced for task in tasks),
                )
                found = usage.month.models.get(model)
                assert expected == (
                    (
                        found.images,
                        round(found.spend_usd * 1_000_000),
                        round(found.estimated_usd * 1_000_000),
                        found.unpriced_images,
                    )
                    if found
                    else (0, 0, 0, 0)
                )


def test_no_order_of_events_makes_the_counts_wrong(valkey: Valkey) -> None:
    with open_store(valkey.url, lease=10_000, check=10_000, retention=3600) as store:
        try_orders(lambda: LimitsMachine(valkey, store), examples=80, steps=40)
