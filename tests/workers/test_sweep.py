"""The sweep as it runs: until it is told to stop, and with regard for the living."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import StoreUnavailable
from common.storage import ImageStorage
from common.store import Sweep, TaskStore
from common.task import new_task_id
from tests.common.tasks import QUEUE, claimed, create, let_deadline_pass, let_lease_run_out
from tests.processes import until
from tests.valkey import Valkey
from workers.sweep import Sweeper


@pytest.fixture
def storage(tmp_path: Path) -> ImageStorage:
    return ImageStorage.open(tmp_path.as_uri())


@contextlib.contextmanager
def sweeping(store: TaskStore, storage: ImageStorage, every: float = 0.02) -> Iterator[None]:
    stop = threading.Event()
    sweeper = Sweeper(store, storage, name="a", every=every, retention=3600)
    thread = threading.Thread(target=sweeper.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def test_what_is_lost_is_announced_again(
    make_store: Callable[..., TaskStore], storage: ImageStorage, valkey: Valkey
) -> None:
    store = make_store(check=0.01)
    create(store)
    valkey.redis.delete(QUEUE)

    with sweeping(store, storage):
        until(lambda: valkey.redis.llen(QUEUE) == 1)


def test_the_task_of_a_dead_worker_is_announced(
    store: TaskStore, storage: ImageStorage, valkey: Valkey
) -> None:
    held = claimed(store)
    valkey.redis.delete(QUEUE)

    with sweeping(store, storage):
        let_lease_run_out(valkey, held)
        until(lambda: valkey.redis.llen(QUEUE) == 1)


def test_what_is_late_is_ended(
    make_store: Callable[..., TaskStore], storage: ImageStorage, valkey: Valkey
) -> None:
    store = make_store(check=0.01)
    task_id = create(store)
    let_deadline_pass(valkey, task_id)

    with sweeping(store, storage):
        until(lambda: (task := store.read(task_id)) and task.status.final)


def test_one_look_goes_through_everything_that_is_due(
    make_store: Callable[..., TaskStore], storage: ImageStorage, valkey: Valkey
) -> None:
    store = make_store(check=0.001)
    for n in range(1200):
        create(store, owner=f"key_{n}")
    valkey.redis.delete(QUEUE)
    ((_, last),) = valkey.redis.zrange("darkroom:due", -1, -1, withscores=True)
    until(lambda: valkey.now() > last, "all of them are due")

    with sweeping(store, storage, every=600):
        until(lambda: valkey.redis.llen(QUEUE) == 1200)


def test_the_sweep_shows_that_it_lives(store: TaskStore, storage: ImageStorage) -> None:
    with sweeping(store, storage):
        until(lambda: "sweep:a" in store.health().sweeps)


def test_a_sweep_shows_that_it_gets_on_whether_redis_answers_or_not(
    store: TaskStore, storage: ImageStorage, valkey: Valkey
) -> None:
    turns: list[int] = []
    stop = threading.Event()
    sweeper = Sweeper(
        store, storage, name="a", every=0.02, retention=3600, turned=lambda: turns.append(1)
    )
    thread = threading.Thread(target=sweeper.run, args=(stop,))
    thread.start()

    until(lambda: len(turns) > 3)
    with valkey.refusing():
        turned = len(turns)
        until(lambda: len(turns) > turned + 3)
    stop.set()
    thread.join(30)


def test_a_sweep_that_waits_stops_at_once(store: TaskStore, storage: ImageStorage) -> None:
    with sweeping(store, storage, every=600):
        until(lambda: "sweep:a" in store.health().sweeps)
        start = time.monotonic()

    assert time.monotonic() - start < 10


def test_old_images_are_deleted(store: TaskStore, storage: ImageStorage, tmp_path: Path) -> None:
    old, new = (f"{new_task_id()}/0.png" for _ in range(2))
    storage.put(old, b"old")
    storage.put(new, b"new")
    long_ago = time.time() - 2 * 3600
    os.utime(tmp_path / old, (long_ago, long_ago))

    with sweeping(store, storage):
        until(lambda: storage.get(old) is None)

    assert storage.get(new) == b"new"


class Slow:
    """An image store that takes its time to delete."""

    def __init__(self) -> None:
        self.deleting = threading.Event()
        self.go_on = threading.Event()

    def delete_older_than(self, age: object) -> int:
        self.deleting.set()
        self.go_on.wait(20)
        return 0


def test_a_large_store_of_images_does_not_hold_the_sweep_up(
    make_store: Callable[..., TaskStore], valkey: Valkey
) -> None:
    store, slow = make_store(check=0.01), Slow()
    storage: Any = slow

    with sweeping(store, storage):
        assert slow.deleting.wait(20)
        create(store)
        valkey.redis.delete(QUEUE)
        until(lambda: valkey.redis.llen(QUEUE) == 1)
        slow.go_on.set()


class Absent:
    """A store that can be away, and keeps the times at which it was asked."""

    def __init__(self) -> None:
        self.away = False
        self.looks: list[float] = []
        self.refusals: list[float] = []

    def sweep(self, who: str, *, limit: int) -> Sweep:
        self.health()
        self.looks.append(time.monotonic())
        return Sweep(0, 0, 0, 0.0)

    def health(self) -> None:
        if self.away:
            self.refusals.append(time.monotonic())
            raise StoreUnavailable("away")


def test_after_an_outage_the_living_may_renew_before_anybody_looks_for_the_dead(
    storage: ImageStorage,
) -> None:
    absent = Absent()
    store: Any = absent

    with sweeping(store, storage):
        until(lambda: absent.looks)
        absent.away = True
        until(lambda: len(absent.refusals) >= 3, seconds=2)
        looks = len(absent.looks)
        absent.away = False
        back = time.monotonic()
        until(lambda: len(absent.looks) > looks)

    assert absent.looks[looks] - back >= 2.5
