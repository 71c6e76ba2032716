"""The Celery message that announces a task, and the names of the queues it travels on.

The message is a hint: it carries the id and nothing else, may be lost or doubled, and can always
be made again from the record. It is therefore appended to the queue by the same script that
changes the record (`lua/`), from a template in kombu's own format: one round trip instead of
two, and an eighth of the cost of `apply_async`. A contract test holds the format to kombu's.
"""

from __future__ import annotations

import base64
import json

__all__ = ["GENERATE", "TURN", "hint_template", "queue_for"]

GENERATE = "darkroom.generate"
TURN = "darkroom.turn"  # does nothing; that it was done shows that the worker takes work


def queue_for(provider: str) -> str:
    """The queue of the generations that go to `provider` first."""
    return f"images.{provider}"


def hint_template(task: str = GENERATE) -> str:
    """A kombu message for the Celery task, with @ID@, @TAG@, @SUMMARY@ and @QUEUE@ left open.

    Celery's protocol 2: https://docs.celeryq.dev/en/stable/internals/protocol.html. The task has
    no arguments, its id says it all; `argsrepr` is what Flower and the logs show of it.
    """
    body = [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    message = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": "@ID@",
            "root_id": "@ID@",
            "parent_id": None,
            "group": None,
            "argsrepr": "@SUMMARY@",
            "kwargsrepr": "{}",
            "retries": 0,
            "timelimit": [None, None],
            "eta": None,
            "expires": None,
        },
        "properties": {
            "correlation_id": "@ID@",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "@QUEUE@"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "@TAG@",
        },
    }
    return json.dumps(message)
