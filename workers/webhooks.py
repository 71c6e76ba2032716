"""Brings webhooks to their receivers: takes what is due from the outbox, signs it, posts it.

A receiver may be slow, dead or hostile. So this has threads of its own, a few in each worker
process, and takes no slot of the pool that makes images; and it goes to public addresses only,
follows no redirect, and reads little of an answer.
"""

from __future__ import annotations

import base64
import hmac
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson
import requests

from common.addresses import host_of
from common.errors import StoreUnavailable
from common.logging import begin_lines, get_logger
from common.outbox import DueDelivery, Outbox, WebhookSecrets
from common.task_body import TaskBody
from common.transport import Forbidden, Transport, Trouble
from common.webhook import Try, webhook_id

__all__ = ["Notifier", "Post", "Receiver", "sign"]

_TRIES = 32  # under way at a time, of one process
_LOOK_SECONDS = 1.0
_ANSWER_BYTES = 65_536

log = get_logger(__name__)


def sign(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: one signature for each of the secrets, `whsec_…`."""
    signed = f"{message_id}.{timestamp}.".encode() + body

    def signature(secret: str) -> str:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        return f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"

    return " ".join(map(signature, secrets))


@dataclass(frozen=True, slots=True)
class Receiver:
    """What a receiver said, or in `error` why nothing was heard. `retry_after` is in seconds."""

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None


class Post:
    """Posts once, and has an answer within `timeout` seconds or none.

    Only a host name that resolves slowly can make it late. With `private` it goes anywhere.
    Proxies of the environment are not used: one would decide where a name leads.
    """

    def __init__(self, *, timeout: float, private: bool) -> None:
        self._timeout = timeout
        self._private = private
        self._transport = Transport(_TRIES, guarded=not private)

    def __call__(self, url: str, host: str, body: bytes, headers: dict[str, str]) -> Receiver:
        """Send `body` to `url`, if that still leads to `host` as it will be read."""
        try:
            request = requests.Request("POST", url, headers=headers, data=body).prepare()
            # Looked at once more, as it will be used: no second reading of it may differ.
            if host_of(str(request.url), private=self._private) != host:
                return Receiver(error="its address cannot be used")
            answer = self._transport.exchange(
                request,
                deadline=time.monotonic() + self._timeout,
                limit=_ANSWER_BYTES,
                whole=False,
            )
        except (Forbidden, Trouble) as error:
            return Receiver(error=str(error))
        except ValueError:  # with all its kin in requests, and of IDNA and ports
            return Receiver(error="its address cannot be used")
        return Receiver(answer.status, retry_after=answer.retry_after())


class Notifier:
    """Makes the tries that are due, in threads of its own. `bodies` takes the base URL."""

    def __init__(
        self,
        outbox: Outbox,
        secrets: WebhookSecrets,
        bodies: Callable[[str], TaskBody],
        post: Post,
    ) -> None:
        self._outbox = outbox
        self._secrets = secrets
        self._bodies = bodies
        self._post = post
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._lock = threading.Lock()
        self._under_way: set[threading.Thread] = set()
        self._looking = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin to look, in a thread that ends with the process."""
        self._looking.start()

    def stop(self) -> None:
        """Begin no further try."""
        self._stopping.set()
        self._woken.set()

    def wait(self) -> None:
        """After `stop`, wait for the tries that are under way; each has its end."""
        ends = time.monotonic() + self._outbox.lease
        if self._looking.ident is not None:
            self._looking.join(self._outbox.lease)
        with self._lock:
            under_way = list(self._under_way)
        for thread in under_way:
            thread.join(max(0.0, ends - time.monotonic()))

    def _run(self) -> None:
        away = False
        while not self._stopping.is_set():
            # Cleared before the look: a try that ends after it makes another look at once.
            self._woken.clear()
            try:
                self._look()
                away = False
            except StoreUnavailable as error:
                if not away:
                    log.warning("webhooks that are due cannot be seen", reason=str(error))
                away = True
            self._woken.wait(_LOOK_SECONDS)

    def _look(self) -> None:
        with self._lock:
            room = _TRIES - len(self._under_way)
        if room < 1:
            return
        for due in self._outbox.take(room):
            thread = threading.Thread(target=self._try, args=(due,), name="webhook", daemon=True)
            with self._lock:
                self._under_way.add(thread)
            thread.start()

    def _try(self, due: DueDelivery) -> None:
        begin_lines(task_id=due.task.id)
        try:
            ends = time.monotonic() + self._outbox.lease
            started = time.monotonic()
            said = self._send(due)
            ms = round((time.monotonic() - started) * 1000)
            tried = Try(due.at, said.status, said.error, ms)
            written = self._write_down(due, tried, said.retry_after, ends)
            log.info(
                "webhook tried",
                task_id=due.task.id,
                host=due.webhook.host,
                number=due.number,
                status=said.status,
                reason=said.error,
                ms=ms,
                written=written,
            )
        finally:
            with self._lock:
                self._under_way.discard(threading.current_thread())
            self._woken.set()

    def _send(self, due: DueDelivery) -> Receiver:
        try:
            secrets = self._secrets.of(due.task.owner)
            body = orjson.dumps(self._bodies(due.webhook.base_url).told(due.task))
            message_id, timestamp = webhook_id(due.task.id, due.task.status), due.at // 1000
            headers = {
                "User-Agent": "darkroom",
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",  # nothing can explode
                "webhook-id": message_id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": sign(secrets, message_id, timestamp, body),
            }
            return self._post(due.webhook.url, due.webhook.host, body, headers)
        except StoreUnavailable:
            return Receiver(error="the body could not be made")
        except Exception as error:  # noqa: BLE001 - a try has to end in some way
            # Its text may quote a prompt, or the address with what is secret in it.
            log.error("unexpected", task_id=due.task.id, exception=type(error).__name__)
            return Receiver(error="an unexpected error")

    def _write_down(
        self, due: DueDelivery, tried: Try, retry_after: float | None, ends: float
    ) -> bool:
        """Say what came of it, for as long as the try is ours: untold, it is made again."""
        while True:
            try:
                return self._outbox.told(due, tried, retry_after=retry_after)
            except StoreUnavailable:
                if time.monotonic() + _LOOK_SECONDS > ends:
                    return False
                time.sleep(_LOOK_SECONDS)
