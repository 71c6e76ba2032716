"""Whose task is announced next: callers take turns, and nobody's task is forgotten in a line."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
)

from common.errors import NameReused, QueueFull
from common.store import Once, TaskStore
from common.task import Claim, Status, new_task_id
from tests.common.tasks import (
    FAILURE,
    QUEUE,
    REQUEST,
    RESULT,
    claim,
    create,
    let_deadline_pass,
    pass_milliseconds,
    record_key,
)
from tests.common.test_store import MakeStore, messages, read
from tests.machines import try_orders
from tests.valkey import Valkey, open_store

SHARE = 4  # messages of one caller in a broker queue


def take(valkey: Valkey, store: TaskStore) -> Claim | None:
    """What a worker does with the oldest message."""
    waiting = messages(valkey)
    valkey.redis.rpop(QUEUE)
    return store.claim(waiting[0], "worker")


def work_off(valkey: Valkey, store: TaskStore) -> list[str]:
    """Whose tasks are claimed, in their order, until no message is left."""
    owners = []
    while messages(valkey):
        held = take(valkey, store)
        assert held is not None
        owners.append(held.task.owner)
    return owners


def test_of_one_caller_a_few_tasks_are_announced_at_a_time(
    store: TaskStore, valkey: Valkey
) -> None:
    ids = [create(store) for _ in range(20)]

    assert messages(valkey) == ids[:SHARE]
    for number in range(20):
        held = take(valkey, store)
        assert held is not None
        assert held.task.id == ids[number]
        assert messages(valkey) == ids[number + 1 :][:SHARE]


def test_somebody_else_does_not_wait_for_all_of_it(store: TaskStore, valkey: Valkey) -> None:
    for _ in range(10_000):
        create(store, owner="many")
    one = create(store, owner="one")
    took = [take(valkey, store) for _ in range(SHARE + 1)]

    assert read(store, one).started is not None
    assert [held.task.owner for held in took if held] == ["many"] * SHARE + ["one"]


def test_callers_take_turns(store: TaskStore, valkey: Valkey) -> None:
    for owner in ("a", "b", "c"):
        for _ in range(20):
            create(store, owner=owner)

    order = work_off(valkey, store)

    assert Counter(order) == {"a": 20, "b": 20, "c": 20}
    for end in range(12, 60, 12):
        assert set(Counter(order[:end]).values()) == {end // 3}


@pytest.mark.parametrize("how", ["fail", "sweep"])
def test_a_task_that_is_over_before_its_turn_is_passed_over(
    make_store: MakeStore, valkey: Valkey, how: str
) -> None:
    store = make_store(check=0.001)
    ids = [create(store) for _ in range(SHARE + 2)]
    over = [ids[0], ids[SHARE]]  # one that is announced, one in line
    pass_milliseconds(valkey, 2)

    for task_id in over:
        if how == "fail":
            assert store.fail(task_id, None, FAILURE)
        else:
            let_deadline_pass(valkey, task_id)
            valkey.redis.zadd("darkroom:due", {task_id: 1})
            store.sweep("a")

    assert messages(valkey)[-1] == ids[SHARE + 1]
    assert valkey.redis.hgetall(f"darkroom:shares:{QUEUE}") == {"key_a": str(SHARE)}
    assert not valkey.redis.exists("darkroom:waiting", f"darkroom:lines:{QUEUE}")


def test_a_lost_message_holds_up_the_line_until_it_is_sent_again(
    make_store: MakeStore, valkey: Valkey
) -> None:
    store = make_store(check=0.001)
    ids = [create(store) for _ in range(SHARE + 2)]
    valkey.redis.delete(QUEUE)
    pass_milliseconds(valkey, 2)

    store.sweep("a")
    found = work_off(valkey, store)

    assert len(found) == len(ids)


def test_who_moves_up_within_a_sweep_is_looked_at_soon(
    make_store: MakeStore, valkey: Valkey
) -> None:
    store = make_store(check=0.001)
    ids = [create(store) for _ in range(SHARE + 1)]
    let_deadline_pass(valkey, ids[0])
    valkey.redis.zadd("darkroom:due", {ids[SHARE]: 1, ids[0]: 2})  # first it is seen in its line

    store.sweep("a")

    assert messages(valkey)[-1] == ids[SHARE]
    now = valkey.redis.time()[0] * 1000
    assert (valkey.redis.zscore("darkroom:due", ids[SHARE]) or 0) < now + 20_000


def test_a_task_that_waits_in_line_costs_the_sweep_little(
    make_store: MakeStore, valkey: Valkey
) -> None:
    store = make_store(check=0.001)
    for _ in range(1000):
        create(store)
    pass_milliseconds(valkey, 2)

    seen = store.sweep("a", limit=2000)

    assert (seen.due, seen.announced) == (SHARE, 0)


def test_a_task_that_comes_back_goes_before_those_that_came_later(
    make_store: MakeStore, valkey: Valkey
) -> None:
    store = make_store(check=0.001)
    first = claim(store, create(store))
    valkey.redis.delete(QUEUE)
    later = [create(store) for _ in range(SHARE + 3)]
    store.defer(first, 0)
    pass_milliseconds(valkey, 2)
    store.sweep("a")

    for _ in range(SHARE):
        take(valkey, store)

    assert messages(valkey)[0] == first.task.id
    assert len(later) > SHARE


# -- what a caller is told


def test_the_place_in_the_queue_is_told_until_the_task_begins(
    store: TaskStore, valkey: Valkey
) -> None:
    ids = [create(store) for _ in range(SHARE + 3)]

    assert [read(store, task_id).queue_position for task_id in ids] == list(range(1, SHARE + 4))
    held = take(valkey, store)
    assert held is not None
    assert read(store, ids[0]).queue_position is None
    assert [read(store, task_id).queue_position for task_id in ids[1:]] == list(range(1, SHARE + 3))


def test_the_place_counts_who_comes_before_when_callers_take_turns(
    store: TaskStore, valkey: Valkey
) -> None:
    for _ in range(100):
        create(store, owner="many")
    mine = [create(store, owner="few") for _ in range(SHARE + 2)]
    told = [read(store, task_id).queue_position for task_id in mine]

    order = []
    while messages(valkey):
        held = take(valkey, store)
        assert held is not None
        order.append(held.task.id)

    # 4 of many and 4 of few are announced; then one of each in turn.
    assert told == [5, 6, 7, 8, 10, 12]
    assert [order.index(task_id) + 1 for task_id in mine[:SHARE]] == told[:SHARE]
    for task_id, place in zip(mine[SHARE:], told[SHARE:], strict=True):
        assert place is not None
        assert abs(order.index(task_id) + 1 - place) <= SHARE


def test_how_long_it_takes_to_begin_is_known_once_tasks_ended_while_others_waited(
    store: TaskStore, valkey: Valkey
) -> None:
    ids = [create(store) for _ in range(9)]
    assert read(store, ids[8]).begins_in is None

    for _ in range(6):
        held = take(valkey, store)
        assert held is not None
        pass_milliseconds(valkey, 20)
        store.complete(held.task.id, held.task.generation, RESULT)
    found = read(store, ids[8])

    assert found.queue_position == 3
    assert found.begins_in is not None
    assert 0.05 < found.begins_in < 30


def test_a_pause_says_little_of_the_pace(store: TaskStore, valkey: Valkey) -> None:
    pace = {f"{QUEUE}:every": 100, f"{QUEUE}:measured": 10, f"{QUEUE}:last": 1}
    valkey.redis.hset("darkroom:pace", mapping=pace)
    create(store)
    held = claim(store, create(store))
    store.complete(held.task.id, held.task.generation, RESULT)

    assert float(valkey.redis.hget("darkroom:pace", f"{QUEUE}:every") or 0) == 130


def test_a_task_that_never_began_says_nothing_of_the_pace(store: TaskStore, valkey: Valkey) -> None:
    for task_id in [create(store) for _ in range(3)][:2]:
        store.fail(task_id, None, FAILURE)

    assert not valkey.redis.exists("darkroom:pace")


def test_time_in_which_nobody_waits_says_nothing_of_the_pace(
    store: TaskStore, valkey: Valkey
) -> None:
    for _ in range(2):
        held = claim(store, create(store))
        store.complete(held.task.id, held.task.generation, RESULT)

    assert not valkey.redis.exists("darkroom:pace")


# -- a queue that is too long


def one_each_second(valkey: Valkey) -> None:
    """Let the queue look as if it was worked off so fast."""
    valkey.redis.hset("darkroom:pace", mapping={f"{QUEUE}:every": 1000, f"{QUEUE}:measured": 10})


def test_a_full_queue_takes_nothing_more(make_store: MakeStore, valkey: Valkey) -> None:
    store = make_store(most_waiting=6)
    for _ in range(6):
        create(store)
    before = valkey.redis.dbsize()

    with pytest.raises(QueueFull):
        create(store, owner="somebody else")

    assert valkey.redis.dbsize() == before
    take(valkey, store)
    create(store, owner="somebody else")


def test_a_task_that_would_wait_for_half_its_time_is_not_taken(
    store: TaskStore, valkey: Valkey
) -> None:
    for _ in range(10):
        create(store)
    one_each_second(valkey)

    with pytest.raises(QueueFull) as caught:
        create(store, deadline=10)
    create(store, deadline=30)
    create(store, deadline=10, owner="other")  # whose turn comes after four others

    assert caught.value.wait == pytest.approx(5.0)


def test_tasks_that_wait_for_the_provider_count_as_well(store: TaskStore, valkey: Valkey) -> None:
    one_each_second(valkey)
    valkey.redis.zadd("darkroom:routes:waits:bfl/flux", {f"task-{n}": n for n in range(100)})

    create(store, deadline=100)
    with pytest.raises(QueueFull):
        create(store, deadline=100, route="bfl/flux")


# -- the same submit again


def test_a_submit_that_is_named_is_one_task(store: TaskStore, valkey: Valkey) -> None:
    once = Once("order 1", "what was asked for")
    first = store.create(
        new_task_id(), owner="a", queue=QUEUE, request=REQUEST, deadline=60, once=once
    )
    again = store.create(
        new_task_id(), owner="a", queue=QUEUE, request=REQUEST, deadline=60, once=once
    )

    assert first is not None
    assert again is not None
    assert first.replayed is None
    assert again.replayed is not None
    assert (again.task_id, again.at) == (first.task_id, first.at)
    assert messages(valkey) == [first.task_id]


def test_a_name_stands_for_one_request(store: TaskStore) -> None:
    create(store, once=Once("order 1", "this"))

    with pytest.raises(NameReused):
        create(store, once=Once("order 1", "that"))


def test_a_name_is_its_owners(store: TaskStore, valkey: Valkey) -> None:
    for owner in ("a", "b"):
        create(store, owner=owner, once=Once("order 1", owner))

    assert len(messages(valkey)) == 2


def test_a_name_is_forgotten_after_a_day_or_with_its_task(store: TaskStore, valkey: Valkey) -> None:
    task_id = create(store, once=Once("order 1", "this"))
    [key] = valkey.redis.scan_iter("darkroom:once:*")

    assert 23.9 * 3600 < valkey.redis.ttl(key) <= 24 * 3600
    assert "order 1" not in key
    valkey.redis.delete(record_key(task_id))
    create(store, once=Once("order 1", "that"))


def test_a_repeated_submit_is_answered_though_the_queue_is_full(make_store: MakeStore) -> None:
    store = make_store(most_waiting=1)
    once = Once("order 1", "this")
    task_id = create(store, once=once)

    again = store.create(
        new_task_id(), owner="key_a", queue=QUEUE, request=REQUEST, deadline=60, once=once
    )

    assert again is not None
    assert again.task_id == task_id


# -- the list of a caller's tasks


def test_an_owner_sees_its_own_tasks_the_newest_first(store: TaskStore, valkey: Valkey) -> None:
    mine = []
    for _ in range(5):
        mine.append(create(store))
        create(store, owner="key_b")

    seen: list[str] = []
    after, more = "", True
    while more:
        page = store.list("key_a", limit=2, after=after)
        assert page is not None
        assert len(page.tasks) <= 2
        seen += [task.id for task in page.tasks]
        after, more = page.last or "", page.more

    assert seen == mine[::-1]


def test_a_list_can_be_of_one_status_or_model(store: TaskStore) -> None:
    failed, kept = create(store), create(store)
    store.fail(failed, None, FAILURE)

    by_status = store.list("key_a", limit=10, status=Status.FAILED)
    by_model = store.list("key_a", limit=10, model="another")

    assert by_status is not None
    assert [task.id for task in by_status.tasks] == [failed]
    assert by_model is not None
    assert by_model.tasks == ()
    assert not by_model.more
    assert by_model.last in (failed, kept)


def test_a_list_that_goes_on_behind_a_foreign_task_does_not_go_on(store: TaskStore) -> None:
    create(store)

    assert store.list("key_a", limit=10, after=create(store, owner="key_b")) is None


def test_a_page_looks_at_so_many_tasks_only(
    store: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.store._MOST_LOOKED_AT", 3)
    ids = [create(store) for _ in range(4)]
    store.fail(ids[0], None, FAILURE)

    first = store.list("key_a", limit=1, status=Status.FAILED)

    assert first is not None
    assert first.tasks == ()
    assert first.more
    second = store.list("key_a", limit=1, status=Status.FAILED, after=first.last or "")
    assert second is not None
    assert [task.id for task in second.tasks] == [ids[0]]
    assert not second.more


# -- whatever is done, in whatever order


class TurnsMachine(RuleBasedStateMachine):
    """Three callers, whose tasks come, are claimed, put back, lost and ended."""

    def __init__(self, valkey: Valkey, store: TaskStore) -> None:
        super().__init__()
        self.valkey = valkey
        self.store = store
        self.tasks: dict[str, str] = {}  # id -> owner, of those that are not over
        self.held: dict[str, Claim] = {}
        valkey.redis.flushall()

    @rule(owner=st.sampled_from("abc"), many=st.integers(1, 7))
    def submit(self, owner: str, many: int) -> None:
        for _ in range(many):
            self.tasks[create(self.store, owner=owner)] = owner

    @rule()
    def take(self) -> None:
        waiting = messages(self.valkey)
        if waiting:
            self.valkey.redis.rpop(QUEUE)
            held = self.store.claim(waiting[0], "worker")
            if held is not None:
                self.held[held.task.id] = held

    @rule()
    def lose_all_messages(self) -> None:
        self.valkey.redis.delete(QUEUE)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.tasks:
            task_id = data.draw(st.sampled_from(list(self.tasks)))
            held = self.held.pop(task_id, None)
            generation = held.task.generation if held is not None else None
            assert self.store.fail(task_id, generation, FAILURE)
            del self.tasks[task_id]

    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        if self.held:
            task_id = data.draw(st.sampled_from(list(self.held)))
            assert self.store.defer(self.held.pop(task_id), 0)

    @rule()
    def sweep(self) -> None:
        pass_milliseconds(self.valkey, 2)
        self.store.sweep("a")

    @invariant()
    def everything_is_counted(self) -> None:
        redis: Any = self.valkey.redis
        called = set(redis.zrange(f"darkroom:called:{QUEUE}", 0, -1))
        lines = {o: set(redis.zrange(f"darkroom:line:{QUEUE}:{o}", 0, -1)) for o in "abc"}
        in_line = set().union(*lines.values())

        assert not called & in_line
        assert called | in_line <= self.tasks.keys() - self.held.keys()
        pending = {t for t in self.tasks if redis.hget(record_key(t), "status") == "pending"}
        assert pending <= called | in_line
        shares = Counter(self.tasks[task_id] for task_id in called)
        assert {o: int(n) for o, n in redis.hgetall(f"darkroom:shares:{QUEUE}").items()} == shares
        assert max(shares.values(), default=0) <= SHARE
        for owner, line in lines.items():
            assert not line or shares[owner] == SHARE
        for task_id in in_line:  # no message stands for it, and nobody looks at it before its turn
            deadline, hinted = redis.hmget(record_key(task_id), "deadline", "hinted")
            assert (redis.zscore("darkroom:due", task_id), hinted) == (float(deadline), "0")
        lengths = {owner: len(line) for owner, line in lines.items() if line}
        found = redis.hgetall(f"darkroom:lines:{QUEUE}")
        assert {o: int(n) for o, n in found.items()} == lengths
        assert int(redis.hget("darkroom:waiting", QUEUE) or 0) == len(in_line)

    def teardown(self) -> None:
        """Whatever was lost, everything is claimed in the end."""
        for held in self.held.values():
            self.store.fail(held.task.id, held.task.generation, FAILURE)
        left = self.tasks.keys() - self.held.keys()
        for _ in range(2 * len(left) + 2):
            self.valkey.redis.zadd("darkroom:due", dict.fromkeys(left, 1), xx=True) if left else 0
            self.store.sweep("a")
            for task_id in messages(self.valkey):
                self.valkey.redis.rpop(QUEUE)
                if self.store.claim(task_id, "worker") is not None:
                    left -= {task_id}
        assert not left


def test_nobody_is_forgotten_in_a_line(valkey: Valkey) -> None:
    with open_store(valkey.url, check=0.001) as store:
        try_orders(lambda: TurnsMachine(valkey, store), examples=30)
