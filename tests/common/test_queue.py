"""The messages that the store writes, held to what Celery and kombu write and read themselves."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Consumer, Exchange, Queue
from kombu.message import Message

from common.queue import GENERATE, hint_template, queue_for
from common.store import TaskStore
from common.task import new_task_id
from tests.common.tasks import QUEUE, create
from tests.valkey import Valkey


@pytest.fixture
def app(valkey: Valkey) -> Iterator[Celery]:
    app = Celery("publisher", broker=valkey.url, set_as_current=False)
    app.conf.task_queues = [Queue(QUEUE, Exchange("images", type="direct"), routing_key=QUEUE)]
    yield app
    app.close()
    connections: Any = app.pool
    connections.force_close_all()


def body(message: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(message["body"]))


def kinds(value: Any) -> Any:
    """The types of a JSON value, all the way down."""
    if isinstance(value, dict):
        return {key: kinds(item) for key, item in value.items()}
    if isinstance(value, list):
        return [kinds(item) for item in value]
    return type(value)


def test_a_message_has_what_celery_itself_writes(
    app: Celery, valkey: Valkey, store: TaskStore
) -> None:
    app.send_task(GENERATE, task_id=new_task_id(), queue=QUEUE)
    theirs = json.loads(str(valkey.redis.rpop(QUEUE)))

    task_id = create(store)
    ours = json.loads(str(valkey.redis.rpop(QUEUE)))

    assert ours.keys() == theirs.keys()
    assert body(ours) == body(theirs)
    for key in ("content-type", "content-encoding"):
        assert ours[key] == theirs[key]
    assert ours["headers"].keys() <= theirs["headers"].keys()
    for key, value in ours["headers"].items():
        assert kinds(value) == kinds(theirs["headers"][key]), key
    # Only the queue is of use to a consumer: the rest says where a task came from or must not go.
    assert theirs["headers"].keys() - ours["headers"].keys() <= {
        *("origin", "shadow", "ignore_result", "replaced_task_nesting", "stamped_headers"),
        *("stamps", "group_index", "compression"),
    }
    assert theirs["properties"].keys() - ours["properties"].keys() == {"reply_to"}
    for key, value in ours["properties"].items():
        assert kinds(value).__class__ is kinds(theirs["properties"][key]).__class__, key
    assert ours["headers"]["id"] == ours["headers"]["root_id"] == task_id
    assert ours["properties"]["correlation_id"] == task_id
    assert ours["headers"]["task"] == GENERATE
    assert ours["properties"]["delivery_info"]["routing_key"] == QUEUE


def test_a_consumer_of_kombu_reads_and_acknowledges_a_message(
    app: Celery, valkey: Valkey, store: TaskStore
) -> None:
    task_id = create(store)
    received: list[Message] = []

    with app.connection_for_read() as connection:
        channel = connection.default_channel
        consumer = Consumer(channel, app.amqp.queues[QUEUE], accept=["json"])
        consumer.on_message = received.append
        with consumer:
            connection.drain_events(timeout=10)
            [message] = received
            unacknowledged = valkey.redis.hlen("unacked")
            message.ack()

    assert message.headers["id"] == task_id
    assert message.headers["task"] == GENERATE
    assert message.decode() == [[], {}, body(json.loads(hint_template()))[2]]
    assert unacknowledged == 1
    assert valkey.redis.hlen("unacked") == 0
    assert valkey.redis.llen(QUEUE) == 0


def test_a_message_shows_the_kind_of_picture_and_nothing_that_people_wrote(
    valkey: Valkey, store: TaskStore
) -> None:
    create(store)

    raw = str(valkey.redis.rpop(QUEUE))

    assert json.loads(raw)["headers"]["argsrepr"] == "flux-pro n=1 64x48"
    assert "apple" not in raw
    assert "@" not in raw


def test_no_two_messages_have_the_same_tag(valkey: Valkey, store: TaskStore) -> None:
    for n in range(20):
        create(store, owner=f"key_{n}")

    raw: Any = valkey.redis.lrange(QUEUE, 0, -1)

    assert len({json.loads(each)["properties"]["delivery_tag"] for each in raw}) == 20


def test_every_provider_has_a_queue_of_its_own() -> None:
    assert queue_for("bfl") == "images.bfl"
    assert queue_for("openai") != queue_for("bfl")
