"""What holds requests, by itself: what it asks of Redis, whom it lets go, what it survives."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from api.waiting import Held, Waiting
from common.store import ENDED_CHANNEL, MOVED_CHANNEL, TaskStore
from common.task import ImageRequest, Status, Task
from tests.api.conftest import open_waiting
from tests.common.tasks import FAILURE, claim, create
from tests.half_open import running_proxy
from tests.processes import until
from tests.valkey import Valkey

Wait = Callable[..., "Future[Task | None]"]


@pytest.fixture
def wait(waiting: Waiting, store: TaskStore) -> Iterator[Wait]:
    """Waits for the end of a task, each in a thread of its own, for a minute."""
    with ThreadPoolExecutor(400) as pool:
        yield lambda task_id, connection=None, on=waiting: pool.submit(
            on.until_final, task_id, 60, lambda: store.read(task_id), connection
        )
        waiting.release()


def listening(valkey: Valkey, channel: str = ENDED_CHANNEL) -> bool:
    return bool(valkey.redis.pubsub_numsub(channel)[0][1] == 1)


def end_at_once(valkey: Valkey, *task_ids: str) -> None:
    with valkey.redis.pipeline(transaction=True) as pipeline:
        for task_id in task_ids:
            TaskStore(pipeline).fail(task_id, None, FAILURE)
        assert pipeline.execute() == [1] * len(task_ids)


def settle(valkey: Valkey, waiting: Waiting, held: int) -> None:
    """Until so many requests are held and all that was to be read for them has been read."""
    until(lambda: waiting.held == held)
    until(lambda: listening(valkey))
    reads = -1
    while reads != (reads := valkey.commands().get("hgetall", 0)):
        time.sleep(0.3)


def test_three_hundred_tasks_that_end_at_once_are_read_in_a_few_round_trips(
    valkey: Valkey, waiting: Waiting, store: TaskStore, wait: Wait
) -> None:
    ids = [create(store) for _ in range(300)]
    answers = [wait(task_id) for task_id in ids]
    settle(valkey, waiting, 300)
    valkey.redis.config_resetstat()
    end_at_once(valkey, *ids)
    tasks = [answer.result(20) for answer in answers]

    assert all(task is not None and task.status is Status.FAILED for task in tasks)
    assert valkey.commands()["fcall"] <= 300 + 30  # `finish`, and the looks


def test_those_who_wait_for_one_task_are_told_with_one_read(
    valkey: Valkey, waiting: Waiting, store: TaskStore, wait: Wait
) -> None:
    task_id = create(store)
    answers = [wait(task_id) for _ in range(300)]
    settle(valkey, waiting, 300)
    valkey.redis.config_resetstat()
    end_at_once(valkey, task_id)
    tasks = {id(answer.result(20)) for answer in answers}

    assert len(tasks) == 1
    assert valkey.commands()["fcall"] == 2  # `finish`, and a look


def test_waiting_asks_nothing(
    valkey: Valkey, waiting: Waiting, store: TaskStore, wait: Wait
) -> None:
    answers = [wait(create(store)) for _ in range(50)]
    settle(valkey, waiting, 50)
    valkey.redis.config_resetstat()
    time.sleep(10)

    commands = valkey.commands()
    assert not any(answer.done() for answer in answers)
    assert set(commands) <= {"ping", "info", "config|resetstat"}, commands
    assert commands["ping"] <= 6  # the subscription is asked whether it lives


def test_a_connection_that_died_without_a_sign_is_noticed(
    valkey: Valkey, store: TaskStore, wait: Wait
) -> None:
    with (
        running_proxy(valkey.port) as proxy,
        open_waiting(f"redis://127.0.0.1:{proxy.port}/0") as waiting,
    ):
        task_id = create(store)
        answer = wait(task_id, on=waiting)
        until(lambda: waiting.held == 1 and listening(valkey))
        proxy.lose()
        end_at_once(valkey, task_id)
        task = answer.result(20)

    assert task is not None and task.status is Status.FAILED


def test_news_that_come_when_a_wait_is_over_are_for_the_next() -> None:
    held = Held(lambda task: True)
    news = ImageRequest("flux-pro", "x")
    tasks = [Task(str(number), "key_a", news, "images.bfl", 0, 0) for number in range(20_000)]
    seen = threading.Semaphore(0)
    heard: list[Task | None] = []

    def listen() -> None:
        while len(heard) < len(tasks):
            if held.wait(0.00001):
                heard.append(held.task)
                seen.release()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    for task in tasks:
        held.tell(task)
        assert seen.acquire(timeout=5), f"{task.id} was not heard of"
    listener.join(5)

    assert heard == tasks


def test_news_are_not_overtaken_by_older_ones(
    valkey: Valkey, waiting: Waiting, store: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What moves and what ends is heard of in two threads, and a read can take its time."""
    task_id, slow = create(store), threading.Event()
    read_many = waiting._store.read_many

    def read_slowly(ids: Iterable[str]) -> tuple[Task | None, ...]:
        tasks = read_many(ids)
        if any(task is not None and task.status is Status.PROCESSING for task in tasks):
            slow.set()
            time.sleep(0.5)  # in which another would have been read and told
        return tasks

    with waiting.hold(task_id, None, lambda task: True, every_move=True) as held:
        until(lambda: listening(valkey, ENDED_CHANNEL) and listening(valkey, MOVED_CHANNEL))
        monkeypatch.setattr(waiting._store, "read_many", read_slowly)
        generation = claim(store, task_id).task.generation
        assert slow.wait(10)
        assert store.fail(task_id, generation, FAILURE)
        while held.wait(2):  # until there are no more
            last = held.task

    assert last is not None
    assert last.status is Status.FAILED


def test_one_listens_at_a_time_however_they_come_and_go(valkey: Valkey, store: TaskStore) -> None:
    task_id = create(store)
    over = threading.Event()

    def publish() -> None:  # so that the one who listens looks often whether it is wanted
        while not over.is_set():
            valkey.redis.publish(ENDED_CHANNEL, "nobody's")

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        with open_waiting(valkey.url, linger=0) as waiting:
            for number in range(600):
                with waiting.hold(task_id, None, lambda task: True):
                    until(lambda: [t.name for t in threading.enumerate()].count(ENDED_CHANNEL) == 1)
                time.sleep(number % 30 / 20_000)
    finally:
        over.set()
        publisher.join()


# -- who goes away


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection: the server's and the client's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
    ):
        far, _ = listener.accept()
        with far:
            yield far, near


def test_who_goes_away_leaves_nothing_behind(
    waiting: Waiting,
    store: TaskStore,
    wait: Wait,
    ends: tuple[socket.socket, socket.socket],
) -> None:
    server, client = ends
    answer = wait(create(store), server)
    until(lambda: waiting.held == 1)
    client.sendall(b"GET / HTTP/1.1")  # there may be more to read
    client.close()
    task = answer.result(5)

    assert task is not None and task.status is Status.PENDING
    assert waiting.held == 0


def test_who_has_more_to_say_is_still_there(
    valkey: Valkey,
    waiting: Waiting,
    store: TaskStore,
    wait: Wait,
    ends: tuple[socket.socket, socket.socket],
) -> None:
    server, client = ends
    task_id = create(store)
    answer = wait(task_id, server)
    until(lambda: waiting.held == 1)
    client.sendall(b"GET / HTTP/1.1")
    time.sleep(2.5)  # long enough for two looks
    assert not answer.done()
    end_at_once(valkey, task_id)
    task = answer.result(20)

    assert task is not None and task.status is Status.FAILED


def test_who_finds_no_place_is_answered_at_once(
    valkey: Valkey, store: TaskStore, wait: Wait
) -> None:
    with open_waiting(valkey.url, most=2) as waiting:
        ids = [create(store) for _ in range(3)]
        answers = [wait(task_id, on=waiting) for task_id in ids[:2]]
        until(lambda: waiting.full)
        third = wait(ids[2], on=waiting).result(20)
        assert not any(answer.done() for answer in answers)
    released = [answer.result(20) for answer in answers]

    assert {task.status for task in (third, *released) if task} == {Status.PENDING}
