"""The task store against a model of it: whatever is done in whatever order, its rules hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from common.errors import LeaseLost
from common.store import TaskStore
from common.task import CallState, Claim, Failure, Status, Task, new_task_id
from tests.common.tasks import (
    FAILURE,
    QUEUE,
    REQUEST,
    RESULT,
    call,
    let_deadline_pass,
    let_lease_run_out,
    record_key,
)
from tests.machines import try_orders
from tests.valkey import Valkey, open_store

MOST_LOSSES = 3
OF_CLAIMS = ["journal", "renew", "defer", "end", "decline"]
ACTIONS = [
    *["claim"] * 5,
    *["lease_runs_out"] * 3,
    *["journal", "defer", "sweep"] * 2,
    *["renew", "end", "create_again", "deadline_passes", "a_message_is_lost"],
    *["cancel", "decline"],
]


@dataclass
class Expected:
    """What the record of one task must say."""

    status: Status = Status.PENDING
    lease: str = "none"  # none, live or expired
    losses: int = 0
    waits: bool = False  # deferred to a time that does not come
    late: bool = False  # past its deadline
    due: bool = False  # the sweep would look at it
    announced: bool = True  # since it was last claimed or put down
    code: str | None = None  # of its failure
    journal: dict[int, CallState] = field(default_factory=dict)
    stoppable: set[int] = field(default_factory=set)  # of the journal
    to_be_cancelled: bool = False
    claims: list[Claim] = field(default_factory=list)
    final: Any = None  # the whole record, once it is final

    @property
    def over(self) -> bool:
        return self.status.final

    @property
    def billed(self) -> str:
        states = self.journal.values()
        if CallState.ACCEPTED in states or CallState.RECEIVED in states:
            return "yes"
        doubtful = {CallState.SUBMITTING, CallState.IN_DOUBT} & set(states)
        return "unknown" if doubtful else "no"

    @property
    def obstacle(self) -> str | None:
        """What keeps it from being cancelled at once."""
        found = None
        for first, state in sorted(self.journal.items()):
            match state:
                case CallState.IN_DOUBT | CallState.MISSED:
                    return "in_doubt"
                case CallState.SUBMITTING:
                    return "sending" if first in self.stoppable else "unstoppable"
                case CallState.ACCEPTED if first not in self.stoppable:
                    return "unstoppable"
                case CallState.ACCEPTED | CallState.RECEIVED:
                    found = "requested"
        return found

    def may_write(self, claim: Claim) -> bool:
        return not self.over and self.lease != "none" and claim is self.claims[-1]

    def end(self, status: Status, code: str | None = None) -> None:
        self.status, self.code, self.lease, self.due = status, code, "none", False


class StoreMachine(RuleBasedStateMachine):
    """Time passes only by rules: leases and checks are long, and run out when a rule says so."""

    def __init__(self, valkey: Valkey, store: TaskStore) -> None:
        super().__init__()
        self.valkey = valkey
        self.store = store
        self.tasks: dict[str, Expected] = {}
        valkey.redis.flushall()

    def pick(self, data: st.DataObject) -> tuple[str, Expected]:
        task_id = data.draw(st.sampled_from(sorted(self.tasks, key=list(self.tasks).index)))
        return task_id, self.tasks[task_id]

    def pick_claim(self, data: st.DataObject) -> tuple[str, Expected, Claim]:
        held = [claim for task in self.tasks.values() for claim in task.claims]
        claim = data.draw(st.sampled_from(held[-8:]))
        return claim.task.id, self.tasks[claim.task.id], claim

    @property
    def claimed(self) -> bool:
        return any(task.claims for task in self.tasks.values())

    @initialize()
    def begin(self) -> None:
        for _ in range(2):
            self.create()

    # One rule and not a rule for each: Hypothesis leaves rules out at random, and what matters
    # here happens only after a claim, its loss and another claim.
    @rule(data=st.data(), action=st.sampled_from(ACTIONS))
    def act(self, data: st.DataObject, action: str) -> None:
        if self.claimed or action not in OF_CLAIMS:
            getattr(self, action)(data)

    def create(self) -> None:
        task_id = new_task_id()
        assert self.store.create(task_id, owner="o", queue=QUEUE, request=REQUEST, deadline=3600)
        self.tasks[task_id] = Expected()

    def create_again(self, data: st.DataObject) -> None:
        task_id, _ = self.pick(data)
        again = self.store.create(task_id, owner="o", queue=QUEUE, request=REQUEST, deadline=1)
        assert again is None

    def claim(self, data: st.DataObject) -> None:
        task_id, task = self.pick(data)
        got = self.store.claim(task_id, "worker")
        if task.over or task.lease == "live" or (task.waits and not task.late):
            assert got is None
        elif task.late:
            assert got is None
            task.end(Status.FAILED, "timeout")
        elif task.lease == "expired" and task.losses + 1 == MOST_LOSSES:
            assert got is None
            task.end(Status.FAILED, "attempts_exhausted")
        else:
            assert got is not None
            assert got.task.generation == got.attempt == len(task.claims) + 1
            assert {c.first: c.state for c in got.calls} == task.journal
            task.losses += task.lease == "expired"
            task.claims.append(got)
            task.status, task.lease = Status.PROCESSING, "live"
            task.waits = task.due = task.announced = False

    def journal(self, data: st.DataObject) -> None:
        _, task, claim = self.pick_claim(data)
        state, first = data.draw(st.sampled_from(CallState)), data.draw(st.integers(0, 1))
        failure = Failure("x", "y", billed="no") if state is CallState.FAILED else None
        stoppable = data.draw(st.booleans())
        try:
            self.store.journal(claim, call(state, first, failure=failure, stoppable=stoppable))
        except LeaseLost:
            assert not task.may_write(claim)
        else:
            assert task.may_write(claim)
            task.journal[first] = state
            (task.stoppable.add if stoppable else task.stoppable.discard)(first)
            task.lease, task.due = "live", False

    def renew(self, data: st.DataObject) -> None:
        task_id, task, claim = self.pick_claim(data)
        lost, to_cancel = self.store.renew("worker", {task_id: claim.task.generation})
        may = task.may_write(claim)
        assert to_cancel == ({task_id} if may and task.to_be_cancelled else frozenset())
        assert lost == (frozenset() if task.may_write(claim) else {task_id})
        if not lost:
            task.lease, task.due = "live", False

    def defer(self, data: st.DataObject) -> None:
        _, task, claim = self.pick_claim(data)
        wait = data.draw(st.sampled_from([0, 0, 3000]))
        assert self.store.defer(claim, wait) is task.may_write(claim)
        if task.may_write(claim):
            task.waits = wait > 0 and not task.late
            task.lease, task.due, task.announced = "none", not task.waits, False

    def end(self, data: st.DataObject) -> None:
        task_id, task, claim = self.pick_claim(data)
        how = data.draw(st.sampled_from(["complete", "fail", "fail without a claim"]))
        generation = claim.task.generation
        may = task.may_write(claim)
        match how:
            case "complete":
                done = self.store.complete(task_id, generation, RESULT)
            case "fail":
                done = self.store.fail(task_id, generation, FAILURE)
            case _:
                done = self.store.fail(task_id, None, FAILURE)
                may = not task.over and task.lease != "live"
        assert done is may
        if done and how == "complete":
            task.end(Status.COMPLETED)
        elif done:
            task.end(Status.FAILED, FAILURE.code)

    def cancel(self, data: st.DataObject) -> None:
        task_id, task = self.pick(data)
        answer = self.store.cancel(task_id, "o")
        assert answer is not None
        outcome, told = answer
        if task.over:
            assert outcome == ("cancelled" if task.code == "cancelled" else "over")
        elif task.obstacle is None:
            assert outcome == told.cancellation == "cancelled"
            task.end(Status.FAILED, "cancelled")
        else:
            assert outcome == task.obstacle
        if not task.over and outcome == "requested":
            task.to_be_cancelled = True
            if task.lease == "none":
                task.waits, task.due = False, True

    def decline(self, data: st.DataObject) -> None:
        _, task, claim = self.pick_claim(data)
        assert self.store.decline(claim) is task.may_write(claim)
        if task.may_write(claim):
            task.to_be_cancelled = False

    def lease_runs_out(self, data: st.DataObject) -> None:
        _, task = self.pick(data)
        if task.lease == "live":
            let_lease_run_out(self.valkey, task.claims[-1])
            task.lease, task.due = "expired", True

    def deadline_passes(self, data: st.DataObject) -> None:
        task_id, task = self.pick(data)
        if not task.over and not task.late:
            let_deadline_pass(self.valkey, task_id)
            task.late = True

    def a_message_is_lost(self, _: st.DataObject) -> None:
        self.valkey.redis.rpop(QUEUE)

    def sweep(self, _: st.DataObject) -> None:
        due = {task_id: task for task_id, task in self.tasks.items() if task.due}
        late = [task for task in due.values() if task.late]
        waiting = self.messages()
        must = [i for i, t in due.items() if not t.late and (not t.announced or not waiting)]

        seen = self.store.sweep("a")

        new = self.messages()[len(waiting) :]
        assert (seen.due, seen.timed_out, seen.announced) == (len(due), len(late), len(new))
        assert sorted(set(new)) == sorted(new)
        assert set(must) <= set(new) <= due.keys()
        assert not {i for i in new if due[i].announced and i in waiting}
        for task_id, task in due.items():
            task.due = False
            task.announced = task.announced or task_id in new
            if task.late:
                task.end(Status.FAILED, "timeout")

    def messages(self) -> list[str]:
        found: Any = self.valkey.redis.lrange(QUEUE, 0, -1)
        return [message.split('"id": "')[1].split('"')[0] for message in reversed(found)]

    @invariant()
    def records_say_what_they_must(self) -> None:
        for task_id, expected in self.tasks.items():
            task = self.store.read(task_id)
            assert task is not None
            assert task.status is expected.status
            assert task.generation == len(expected.claims)
            if expected.code in ("timeout", "attempts_exhausted", "cancelled"):
                self.ended_by_the_store(task, expected)

    def ended_by_the_store(self, task: Task, expected: Expected) -> None:
        assert task.failure is not None
        assert task.failure.code == expected.code
        assert task.failure.billed == expected.billed

    @invariant()
    def final_records_never_change(self) -> None:
        for task_id, expected in self.tasks.items():
            if expected.over:
                record = self.valkey.redis.hgetall(record_key(task_id))
                expected.final = expected.final or record
                assert record == expected.final

    @invariant()
    def what_is_open_will_be_looked_at_and_what_is_over_will_not(self) -> None:
        due: Any = self.valkey.redis.zrange("darkroom:due", 0, -1, withscores=True)
        scores = dict(due)
        assert scores.keys() == {i for i, task in self.tasks.items() if not task.over}
        now = self.valkey.now()
        for task_id, score in scores.items():
            assert (score <= now) is self.tasks[task_id].due

    @invariant()
    def the_records_of_what_is_over_expire_and_no_others(self) -> None:
        for task_id, task in self.tasks.items():
            assert (self.valkey.redis.pttl(record_key(task_id)) > 0) is task.over


def test_no_order_of_events_breaks_the_rules_of_the_store(valkey: Valkey) -> None:
    with open_store(
        valkey.url, lease=10_000, check=10_000, retention=3600, most_losses=MOST_LOSSES
    ) as store:
        try_orders(lambda: StoreMachine(valkey, store), examples=80)
