"""`GET /v1/tasks/{id}/events`: what happens to a task, as it happens, told once."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient

from api.app import create_app
from api.events import EventStream
from api.waiting import Waiting
from common.settings import load_settings
from common.store import TaskStore
from common.task import Failure, new_task_id
from tests.api.conftest import Stack, picture, running
from tests.common.tasks import create
from tests.processes import until

DONE = 999


@dataclass(frozen=True)
class Event:
    id: int
    name: str
    data: dict[str, Any]


def parse(text: str) -> Event:
    fields = dict(line.split(": ", 1) for line in text.splitlines())
    assert set(fields) == {"id", "event", "data"}
    return Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))


def events_in(stream: str) -> list[Event]:
    hint, *blocks, rest = stream.split("\n\n")
    assert (hint, rest) == ("retry: 2000", "")
    return [parse(block) for block in blocks if block != ":"]


class Follower:
    """A client that follows a task; it gets events one by one."""

    def __init__(self, stack: Stack, task_id: str, after: int | None = None) -> None:
        headers = {"Authorization": f"Bearer {stack.key}"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        self.answer = requests.get(
            f"{stack.base}/v1/tasks/{task_id}/events", headers=headers, stream=True, timeout=60
        )
        assert self.answer.status_code == 200, self.answer.text
        lines = self.answer.iter_lines(chunk_size=None, decode_unicode=True, delimiter="\n\n")
        self._blocks = (block for block in lines if block)
        assert next(self._blocks) == "retry: 2000"

    def next(self) -> Event:
        return parse(next(block for block in self._blocks if block != ":"))

    def rest(self) -> list[Event]:
        return [parse(block) for block in self._blocks if block != ":"]


@contextlib.contextmanager
def following(stack: Stack, task_id: str, after: int | None = None) -> Iterator[Follower]:
    follower = Follower(stack, task_id, after)
    try:
        yield follower
    finally:
        follower.answer.close()


def get(stack: Stack, task_id: str, **headers: str) -> requests.Response:
    return stack.get(f"/v1/tasks/{task_id}/events", headers=headers)


def numbers(events: list[Event]) -> list[tuple[int, str]]:
    return [(event.id, event.name) for event in events]


def followers(stack: Stack) -> int:
    """Processes that hear how far tasks have come."""
    return int(stack.redis.pubsub_numsub("darkroom:moved")[0][1])


@contextlib.contextmanager
def listening(stack: Stack) -> Iterator[None]:
    """The front end hears of every step meanwhile, and has looked at what came before."""
    task_id = stack.submit()
    with following(stack, task_id) as follower:
        assert follower.next().id == 0
        claim = stack.claim(task_id)
        assert follower.next().id == 1
        stack.store.journal(claim, progress=50)
        assert follower.next().id == 51  # the second look: it heard of this one
        yield


def test_what_happens_is_told_as_it_happens(stack: Stack) -> None:
    task_id = stack.submit(n=2)
    with listening(stack), following(stack, task_id) as follower:
        assert follower.next() == Event(0, "status", {"task_id": task_id, "status": "pending"})
        claim = stack.claim(task_id)
        assert follower.next() == Event(1, "status", {"task_id": task_id, "status": "processing"})
        for progress in (40, 7, 80):  # another attempt may begin anew: that is not told
            stack.store.journal(claim, progress=progress)
            if progress != 7:
                data = {"task_id": task_id, "progress": progress}
                assert follower.next() == Event(1 + progress, "progress", data)
        stack.complete(task_id, picture(), picture(), claim=claim)
        rest = follower.rest()

    assert numbers(rest) == [
        (101, "progress"),
        (102, "status"),
        (103, "image"),
        (104, "image"),
        (DONE, "done"),
    ]
    body = stack.get(f"/v1/tasks/{task_id}").json()
    assert rest[0].data["progress"] == 100
    assert rest[1].data == {"task_id": task_id, "status": "completed"}
    for index in (0, 1):
        assert rest[2 + index].data == {"task_id": task_id, "index": index} | body["data"][index]
    assert rest[-1].data == body
    headers = follower.answer.headers
    assert headers["Content-Type"].startswith("text/event-stream")
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")


def test_a_failure_is_told(stack: Stack) -> None:
    task_id = stack.submit()
    with following(stack, task_id) as follower:
        claim = stack.claim(task_id)
        stack.store.journal(claim, progress=40)
        until(lambda: follower.next().id == 41)
        failure = Failure("upstream_error", "It did not work.")
        assert stack.store.fail(task_id, claim.task.generation, failure)
        rest = follower.rest()

    assert numbers(rest) == [(102, "status"), (DONE, "done")]
    assert rest[0].data["status"] == "failed"
    assert rest[1].data == stack.get(f"/v1/tasks/{task_id}").json()


def test_what_ends_untouched_was_never_processed(stack: Stack) -> None:
    task_id = stack.submit()
    assert stack.store.fail(task_id, None, Failure("timeout", "Too late."))

    assert numbers(events_in(get(stack, task_id).text)) == [
        (0, "status"),
        (102, "status"),
        (DONE, "done"),
    ]


def test_base64_comes_once(stack: Stack) -> None:
    data = picture()
    task_id = stack.submit(response_format="b64_json")
    stack.complete(task_id, data)
    *_, image, done = events_in(get(stack, task_id).text)

    assert base64.b64decode(image.data["b64_json"]) == data
    (linked,) = done.data["data"]
    assert "b64_json" not in linked and requests.get(linked["url"], timeout=10).content == data


@pytest.fixture(scope="module")
def another(stack: Stack) -> Iterator[FlaskClient]:
    """Another front end of the same system."""
    app = create_app(load_settings(redis_url=stack.valkey.url, data_dir=stack.data_dir))
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {stack.key}"
    yield client
    app.extensions["waiting"].release()


@pytest.mark.parametrize("seen", range(8))
def test_another_front_end_goes_on_where_a_connection_broke(
    stack: Stack, another: FlaskClient, seen: int
) -> None:
    task_id = stack.submit(n=2)
    claim = None
    told: list[Event] = []
    with following(stack, task_id) as follower:
        for number in range(seen):
            match number:
                case 1:
                    claim = stack.claim(task_id)
                case 2:
                    assert claim is not None
                    stack.store.journal(claim, progress=40)
                case 3:
                    stack.complete(task_id, picture(), picture(), claim=claim)
            told.append(follower.next())
    if seen <= 1:
        claim = stack.claim(task_id)
    if seen <= 3:
        stack.complete(task_id, picture(), picture(), claim=claim)
    headers = {"Last-Event-ID": str(told[-1].id)} if told else {}
    with another.get(f"/v1/tasks/{task_id}/events", headers=headers, base_url=stack.base) as rest:
        told += events_in(rest.text)

    if seen > 2:
        assert told.pop(2) == Event(41, "progress", {"task_id": task_id, "progress": 40})
    assert told == events_in(get(stack, task_id).text)
    assert len(told) == 7


def test_after_the_end_there_is_nothing_to_come_back_for(stack: Stack) -> None:
    task_id = stack.submit()
    stack.complete(task_id)
    last = events_in(get(stack, task_id).text)[-1].id
    again = get(stack, task_id, **{"Last-Event-ID": str(last)})

    assert (again.status_code, again.content) == (204, b"")
    by_query = stack.get(f"/v1/tasks/{task_id}/events?last_event_id={last}")
    assert by_query.status_code == 204


@pytest.mark.parametrize("last", ["", "x", "-1", "1e9", "99999", "٣", "0x1"])
def test_an_id_that_is_none_of_ours_is_no_id(stack: Stack, last: str) -> None:
    task_id = stack.submit()
    stack.complete(task_id)
    told = stack.get(f"/v1/tasks/{task_id}/events", params={"last_event_id": last})

    assert told.status_code == 200
    assert events_in(told.text) == events_in(get(stack, task_id).text)


@pytest.mark.parametrize("whose", ["nobody's", "another's", "no id"])
def test_other_tasks_are_unknown_as_when_polled(stack: Stack, whose: str) -> None:
    task_id = {"nobody's": new_task_id(), "another's": stack.submit(), "no id": "x"}[whose]
    headers = {"Authorization": f"Bearer {stack.keys.create('stranger')[1]}"}
    told, polled = (
        requests.get(f"{stack.base}/v1/tasks/{task_id}{path}", headers=headers, timeout=10)
        for path in ("/events", "")
    )

    assert told.status_code == polled.status_code == 404
    assert told.headers["Content-Type"] == "application/json"
    assert told.content == polled.content


def test_a_key_is_needed(stack: Stack) -> None:
    answer = requests.get(f"{stack.base}/v1/tasks/{stack.submit()}/events", timeout=10)

    assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"


def test_a_head_is_answered_at_once(stack: Stack) -> None:
    answer = stack.http.head(f"{stack.base}/v1/tasks/{stack.submit()}/events", timeout=10)

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")


def test_only_those_who_follow_a_task_cost_more_than_its_end(stack: Stack) -> None:
    task_id = stack.submit()
    until(lambda: followers(stack) == 0)
    waiter = threading.Thread(target=stack.get, args=[f"/v1/tasks/{task_id}?wait=60"])
    waiter.start()
    until(lambda: stack.redis.pubsub_numsub("darkroom:ended")[0][1] == 1)
    assert followers(stack) == 0
    with following(stack, task_id) as follower:
        assert follower.next().data["status"] == "pending"
        until(lambda: followers(stack) == 1)
    stack.complete(task_id)
    waiter.join(20)

    until(lambda: followers(stack) == 0)


def test_a_stop_ends_the_streams(tmp_path: Path) -> None:
    with running(tmp_path, BFL_API_KEY="none") as stack:
        with following(stack, stack.submit()) as follower:
            assert follower.next().id == 0
            stopped = time.monotonic()
            stack.process.terminate()
            assert follower.rest() == []
            stack.process.wait(20)

        assert stack.process.returncode == 0
        assert time.monotonic() - stopped < 10
        assert "Traceback" not in stack.log.read_text()


# -- Redis breaks


def test_a_stream_outlasts_a_broken_subscription(fragile: Stack) -> None:
    task_id = fragile.submit()
    with following(fragile, task_id) as follower:
        assert follower.next().id == 0
        until(lambda: followers(fragile) == 1)
        fragile.redis.client_kill_filter(_type="pubsub")
        claim = fragile.claim(task_id)  # while most likely nobody listens
        assert follower.next().id == 1
        until(lambda: followers(fragile) == 1)
        fragile.redis.client_kill_filter(_type="pubsub")
        fragile.complete(task_id, claim=claim)

        assert [event.id for event in follower.rest()] == [101, 102, 103, DONE]


def test_a_stream_outlasts_a_frozen_redis(fragile: Stack) -> None:
    task_id = fragile.submit()
    with following(fragile, task_id) as follower:
        assert follower.next().id == 0
        log = len(fragile.log.read_text())
        with fragile.valkey.frozen():
            until(lambda: "subscription lost" in fragile.log.read_text()[log:])
        fragile.complete(task_id)

        assert [event.id for event in follower.rest()] == [1, 101, 102, 103, DONE]


def test_a_stream_of_a_task_that_is_no_more_ends(fragile: Stack) -> None:
    task_id = fragile.submit()
    with following(fragile, task_id) as follower:
        assert follower.next().id == 0
        with fragile.valkey.killed():  # it keeps nothing
            pass

        assert follower.rest() == []
    until(lambda: get(fragile, task_id).status_code == 404)


# -- a stream by itself


def stream_of(store: TaskStore, waiting: Waiting, **options: float) -> Iterator[bytes]:
    bodies: Any = None
    return EventStream(store, bodies, waiting, **options).of(create(store), -1)


def test_a_silence_is_broken(store: TaskStore, waiting: Waiting) -> None:
    stream = stream_of(store, waiting, heartbeat=0.05)

    assert next(stream) == b"retry: 2000\n\n"
    assert next(stream).startswith(b"id: 0\n")
    assert [next(stream) for _ in range(3)] == [b":\n\n"] * 3
    stream.close()  # type: ignore[attr-defined]


def test_a_stream_ends_in_time_for_the_key_to_be_looked_at_again(
    store: TaskStore, waiting: Waiting
) -> None:
    told = list(stream_of(store, waiting, heartbeat=0.05, longest=0.2))

    assert told[1].startswith(b"id: 0\n")
    assert set(told[2:]) == {b":\n\n"}
