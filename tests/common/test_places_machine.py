"""Places on a capped route, whatever is done in whatever order: none too many, none forgotten."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from common.errors import LeaseLost
from common.store import Grant, Offer, TaskStore
from common.task import Call, CallState, Claim, new_task_id
from tests.common.tasks import FAILURE, QUEUE, REQUEST, RESULT, let_lease_run_out
from tests.machines import try_orders
from tests.valkey import Valkey, open_store

CAP = 3
ROUTE = "bfl/flux-pro-1.1"
CALLS = f"darkroom:routes:calls:{ROUTE}"
WAITS = f"darkroom:routes:waits:{ROUTE}"
ACTIONS = ["begin"] * 5 + ["answer", "end", "defer", "claim", "claim", "lease_runs_out"]


class PlacesMachine(RuleBasedStateMachine):
    """Three tasks of two pictures each, on a route that bears three calls."""

    def __init__(self, valkey: Valkey, store: TaskStore) -> None:
        super().__init__()
        self.valkey = valkey
        self.store = store
        self.held: dict[str, Claim | None] = {}
        self.begun: dict[str, set[int]] = {}
        self.ended: set[str] = set()
        valkey.redis.flushall()

    @initialize()
    def tasks(self) -> None:
        for _ in range(3):
            task_id = new_task_id()
            self.store.create(task_id, owner="o", queue=QUEUE, request=REQUEST, deadline=3600)
            self.held[task_id] = self.store.claim(task_id, "worker")
            self.begun[task_id] = set()

    @rule(data=st.data(), action=st.sampled_from(ACTIONS))
    def act(self, data: st.DataObject, action: str) -> None:
        task_id = data.draw(st.sampled_from(list(self.held)))
        if task_id not in self.ended:
            getattr(self, action)(task_id, data)

    def begin(self, task_id: str, data: st.DataObject) -> None:
        claim = self.held[task_id]
        missing = [n for n in (0, 1) if n not in self.begun[task_id]]
        if claim is None or not missing:
            return
        others = self.live() - {f"{task_id}/{n}" for n in (0, 1)}
        calls = tuple(Call(n, 1, "bfl", "flux-pro-1.1", CallState.SUBMITTING) for n in missing)
        going = [c for c in self.calls(task_id) if c.state is CallState.ACCEPTED]
        try:
            got = self.store.begin(
                claim, [Offer(ROUTE, CAP, calls)], ended=self.ended_calls(task_id), going=going
            )
        except LeaseLost:
            self.held[task_id] = None
            return
        if isinstance(got, Grant):
            assert 1 <= len(got.calls) <= CAP - len(others) - len(going)
            assert self.valkey.redis.zscore(WAITS, task_id) is None
            self.begun[task_id] |= {call.first for call in got.calls}
        else:
            assert [shut.why for shut in got] == ["full"]
            ahead = self.valkey.redis.zrank(WAITS, task_id)
            assert ahead is not None
            assert CAP - len(others) - len(going) - int(ahead) < 1

    def answer(self, task_id: str, data: st.DataObject) -> None:
        claim = self.held[task_id]
        if claim is None or not self.begun[task_id]:
            return
        state = data.draw(st.sampled_from([CallState.ACCEPTED, CallState.RECEIVED]))
        first = data.draw(st.sampled_from(sorted(self.begun[task_id])))
        self.store.journal(claim, Call(first, 1, "bfl", "flux-pro-1.1", state))

    def end(self, task_id: str, data: st.DataObject) -> None:
        claim = self.held[task_id]
        if claim is None:
            return
        generation = claim.task.generation
        if data.draw(st.booleans()):
            assert self.store.complete(task_id, generation, RESULT)
        else:
            assert self.store.fail(task_id, generation, FAILURE)
        self.ended.add(task_id)

    def defer(self, task_id: str, _: st.DataObject) -> None:
        claim = self.held[task_id]
        if claim is not None:
            assert self.store.defer(claim, 0)
            self.held[task_id] = None

    def lease_runs_out(self, task_id: str, _: st.DataObject) -> None:
        claim = self.held[task_id]
        if claim is not None:
            let_lease_run_out(self.valkey, claim)
            self.held[task_id] = None

    def claim(self, task_id: str, _: st.DataObject) -> None:
        if self.held[task_id] is None:
            self.held[task_id] = self.store.claim(task_id, "another")

    def calls(self, task_id: str) -> tuple[Call, ...]:
        claim = self.held[task_id]
        assert claim is not None
        record: Any = self.valkey.redis.hgetall(f"darkroom:task:{task_id}")
        known = [name for name in record if name.startswith("call:")]
        return tuple(
            Call(int(name[5:]), 1, "bfl", "flux-pro-1.1", CallState.ACCEPTED)
            for name in known
            if '"accepted"' in record[name]
        )

    def ended_calls(self, task_id: str) -> list[Call]:
        going = {call.first for call in self.calls(task_id)}
        firsts = self.begun[task_id] - going
        return [Call(n, 1, "bfl", "flux-pro-1.1", CallState.RECEIVED) for n in sorted(firsts)]

    def live(self) -> set[str]:
        now = self.valkey.now()
        return set(self.valkey.redis.zrangebyscore(CALLS, now, "+inf"))

    @invariant()
    def whoever_is_over_holds_and_waits_for_nothing(self) -> None:
        names: Any = self.valkey.redis.zrange(CALLS, 0, -1) + self.valkey.redis.zrange(WAITS, 0, -1)
        assert not [name for name in names if name.partition("/")[0] in self.ended]
        lines: Any = self.valkey.redis.hgetall("darkroom:routes:lines")
        assert lines == ({ROUTE: str(CAP)} if self.valkey.redis.exists(WAITS) else {})

    @invariant()
    def whoever_waits_is_due_some_day(self) -> None:
        for task_id in self.valkey.redis.zrange(WAITS, 0, -1):
            assert self.valkey.redis.zscore("darkroom:due", task_id) is not None


def test_no_order_of_events_gives_a_place_too_many_or_forgets_one(valkey: Valkey) -> None:
    with open_store(valkey.url, lease=10_000, most_losses=1000) as store:
        try_orders(lambda: PlacesMachine(valkey, store), examples=60)
