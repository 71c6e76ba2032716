"""What Flower hears of tasks: all of it, in few publications, and the last of it too."""

from __future__ import annotations

import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from celery import Celery

from tests.processes import until
from tests.valkey import Valkey, open_store, running_valkey
from tests.workers.worker import running_worker
from workers.events import GatheredEvents, LastEvents


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with running_valkey() as valkey:
        yield valkey


def make_app(valkey: Valkey) -> Celery:
    app = Celery("events", broker=valkey.url, events=GatheredEvents, set_as_current=False)
    app.conf.update(event_serializer="json", accept_content=["json"])
    return app


@contextmanager
def listening(valkey: Valkey) -> Iterator[list[dict[str, Any]]]:
    """What is published for monitors such as Flower meanwhile."""
    heard: list[dict[str, Any]] = []

    def hear(message: dict[str, Any]) -> None:
        told = orjson.loads(b64decode(orjson.loads(message["data"])["body"]))
        heard.extend(told if isinstance(told, list) else [told])

    with valkey.redis.pubsub(ignore_subscribe_messages=True) as channel:
        channel.psubscribe(**{"*celeryev*": hear})
        listener = channel.run_in_thread(sleep_time=0.1, daemon=True)
        until(valkey.redis.pubsub_numpat, "the monitor listens")
        try:
            yield heard
        finally:
            listener.stop()
            listener.join(10)


def of_tasks(heard: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(e["uuid"], e["type"]) for e in heard if e["type"].startswith("task-")]


def test_events_of_many_tasks_go_together_in_order(valkey: Valkey) -> None:
    app = make_app(valkey)
    sent = [(f"task-{n}", kind) for n in range(50) for kind in ("task-received", "task-succeeded")]
    with listening(valkey) as heard, app.connection_for_write() as connection:
        dispatcher = app.events.Dispatcher(connection, hostname="w")

        for uuid, kind in sent:
            dispatcher.send(kind, uuid=uuid)
        until(lambda: len(heard) >= len(sent), "all are heard")
        published = valkey.commands()["publish"]
        dispatcher.close()

    assert of_tasks(heard) == sent
    assert len({event["timestamp"] for event in heard}) > 50  # each has its own time
    assert published <= 5


def test_what_a_broken_connection_kept_is_told_by_the_next(valkey: Valkey) -> None:
    app = make_app(valkey)
    with listening(valkey) as heard, app.connection_for_write() as connection:
        first = app.events.Dispatcher(connection, hostname="w")
        first.send("task-received", uuid="kept")
        first.close()
        second = app.events.Dispatcher(connection, hostname="w")

        second.extend_buffer(first)
        second.flush()

        until(lambda: heard, "it is heard")
        second.close()
    assert of_tasks(heard) == [("kept", "task-received")]


def test_no_thread_is_left_behind(valkey: Valkey) -> None:
    app = make_app(valkey)
    before = threading.active_count()
    with app.connection_for_write() as connection:
        dispatcher = app.events.Dispatcher(connection, hostname="w")
        assert threading.active_count() == before + 1

        dispatcher.close()

        until(lambda: threading.active_count() == before, "it has ended")


def test_a_worker_that_stops_tells_how_its_last_task_ended(valkey: Valkey, tmp_path: Path) -> None:
    with (
        open_store(valkey.url) as store,
        running_worker(valkey, store, tmp_path) as worker,
        listening(valkey) as heard,
    ):
        task_id = worker.submit("wait")
        worker.running(task_id)

        worker.process.terminate()
        worker.logged("Warm shutdown")
        worker.go_on(task_id)
        worker.process.wait(30)

        until(lambda: (task_id, "task-succeeded") in of_tasks(heard), "the end is heard")


def test_what_is_kept_when_all_is_over_is_told_at_once(valkey: Valkey) -> None:
    app = make_app(valkey)
    with app.connection_for_write() as connection:
        dispatcher = app.events.Dispatcher(connection, hostname="w")
        consumer = SimpleNamespace(app=app, event_dispatcher=dispatcher)
        dispatcher.send("task-succeeded", uuid="last")

        LastEvents(consumer).shutdown(consumer)

        assert valkey.commands().get("publish") == 1
        dispatcher.close()
