"""The outbox: deliveries of webhooks that are owed, in the records of the tasks that have ended.

The step that ends a task writes down what is owed (`lua/webhooks.lua`), so that it outlives
whoever was to bring it. Every public method is one round trip, and raises `StoreUnavailable` when
Redis does not answer or refuses the write.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import orjson
import pybase64
import redis

from common.records import task_from
from common.script import Script
from common.settings import Settings
from common.task import Task
from common.webhook import Try, Webhook

__all__ = ["Asked", "DueDelivery", "Outbox", "WebhookSecrets"]

Asked = Literal["asked", "open", "unasked", "nowhere"]
"""What became of the wish to have a webhook again: it is owed; the task has not ended; its end is
none that was to be told; there is no webhook."""

_RETRY_AFTER = (429, 503)  # the answers that may name a wait
_GONE = 410
_JITTER = 0.1  # of a wait, on top
_SECRET_BYTES = 32
_OLD_SECRET_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """The right to make one try, until the lease ends."""

    task: Task
    webhook: Webhook
    number: int  # of the try, and its fencing token
    round: int  # the tries since somebody asked for the delivery, this one included
    at: int  # Unix milliseconds, by the clock of Redis


class Outbox:
    """Who may make a try, and what follows from it.

    `waits` are the seconds between the tries, of which there is one more; `lease` is for how many
    seconds a try is nobody else's.
    """

    def __init__(self, client: redis.Redis, *, waits: Sequence[float], lease: float) -> None:
        self._run = Script(client).run
        self._waits = tuple(waits)
        self.lease = lease

    @classmethod
    def of(cls, client: redis.Redis, settings: Settings) -> Outbox:
        """The outbox as the settings want it, the same in every process."""
        # Beside the exchange itself, the body has to be made and the end to be written down.
        lease = 2 * settings.webhook_timeout_seconds
        return cls(client, waits=settings.webhook_wait_seconds, lease=lease)

    def take(self, room: int) -> list[DueDelivery]:
        """Begin tries that are due, at most `room`.

        No host and no API key gets more at a time than its share of the fleet's.
        """
        now, *flat = self._run("take_webhooks", room, _ms(self.lease), self._most)
        return [
            _due(int(number), dict(zip(record[::2], record[1::2], strict=True)), now)
            for number, record in zip(flat[::2], flat[1::2], strict=True)
        ]

    def told(self, due: DueDelivery, tried: Try, *, retry_after: float | None = None) -> bool:
        """Write down what came of a try, and when the next one is due, if any.

        `retry_after` is the wait in seconds that the answer named. False when the try was not
        the caller's any more: somebody else makes another one.
        """
        outcome = "again"
        if tried.status is not None and 200 <= tried.status < 300:
            outcome = "delivered"
        elif tried.status == _GONE:
            outcome = "gone"
        wait = self._waits[min(due.round, len(self._waits)) - 1] if self._waits else 0.0
        wait *= random.uniform(1, 1 + _JITTER)  # noqa: S311
        if tried.status in _RETRY_AFTER and retry_after is not None:
            wait = max(wait, retry_after)
        what = orjson.dumps({k: v for k, v in asdict(tried).items() if v is not None}).decode()
        args = (due.task.id, due.number, outcome, _ms(wait), self._most, what)
        return bool(self._run("told", *args))

    def redeliver(self, task_id: str) -> Asked:
        """Owe the delivery of a task anew, with all its tries; what was delivered as well."""
        asked: Asked = self._run("redeliver", task_id)
        return asked

    @property
    def _most(self) -> int:
        return len(self._waits) + 1


class WebhookSecrets:
    """What signs the webhooks of each API key: known to its owner, and not kept with the key."""

    def __init__(self, client: redis.Redis) -> None:
        self._run = Script(client).run

    def of(self, key_id: str) -> tuple[str, ...]:
        """The secrets that sign now, newest first. The first one is made when it is asked for."""
        return tuple(self._run("webhook_secrets", key_id, _new_secret(), ""))

    def rotate(self, key_id: str, *, keep: float = _OLD_SECRET_SECONDS) -> tuple[str, ...]:
        """Sign with a new one from now on, and for `keep` seconds with the others as well."""
        return tuple(self._run("webhook_secrets", key_id, _new_secret(), _ms(keep)))


def _new_secret() -> str:
    return f"whsec_{pybase64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"


def _due(number: int, record: dict[str, str], now: int) -> DueDelivery:
    task = task_from(record)
    assert task.webhook is not None, task.id
    before = int(record.get("delivery_round", 0))
    return DueDelivery(task, task.webhook, number, number - before, now)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
