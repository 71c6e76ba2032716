"""The Celery application: `celery -A workers.celery …`. Parts are built and connected here."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
from typing import Any, Self

from celery import Celery, signals
from celery.worker import WorkController
from kombu import Connection, Queue

from common.backend import STORE_OPTION, TRACING_OPTION, backend_url
from common.catalog import Catalog
from common.connection import connect, sentinel_options
from common.errors import ConfigurationError
from common.file_signer import FileSigner
from common.garbage import settle
from common.liveness import Liveness
from common.logging import begin_lines, configure, end_lines
from common.outbox import Outbox, WebhookSecrets
from common.pictures import ImageLimits
from common.queue import queue_for
from common.redis_check import check_redis
from common.redis_url import RedisUrl
from common.settings import Settings, load_settings
from common.storage import ImageStorage
from common.store import TaskStore
from common.task_body import TaskBody
from common.tracing import make_tracing
from workers.cancels import Cancels
from workers.courier import Courier, Patience
from workers.events import GatheredEvents, LastEvents
from workers.heartbeat import Heartbeat
from workers.providers import make_providers
from workers.runner import Runner
from workers.slots import LOOK_SECONDS, FreeSlots
from workers.tasks import register
from workers.watchdog import Watchdog
from workers.webhooks import Notifier, Post

__all__ = ["WATCHDOG_OPTION", "app", "make_app", "make_store", "worker_name"]

WATCHDOG_OPTION = "darkroom_watchdog"  # where the Celery configuration holds the Watchdog

# They tell of each message that it came and how it ended, as our own lines do, for far less.
_CHATTY = ("celery.worker.strategy", "celery.app.trace")


def worker_name() -> str:
    """A name that no other process has, now or after a restart."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


def make_store(settings: Settings) -> TaskStore:
    """The task store of the settings. Raises ConfigurationError without a REDIS_URL."""
    # 400 tasks may end in the same moment; they share these connections and wait for one.
    return TaskStore.of(connect(settings.shared_redis_url, connections=64), settings)


class _Connection(Connection):
    """Looks for a broker that went away every two seconds; kombu waits up to half a minute. Comes
    back from a wait for messages soon enough to see that a slot is free."""

    def ensure_connection(self, *args: Any, **options: Any) -> Self:
        often = {"interval_start": 1, "interval_step": 1, "interval_max": 2}
        return super().ensure_connection(*args, **often | options)

    def drain_events(self, timeout: float | None = None, **options: Any) -> Any:
        soon = LOOK_SECONDS if timeout is None else min(timeout, LOOK_SECONDS)
        return super().drain_events(timeout=soon, **options)


def make_app(settings: Settings) -> Celery:
    """A Celery application whose worker serves generations."""
    store = make_store(settings)
    catalog = Catalog.load(settings.catalog_file)
    app = Celery("darkroom", events=GatheredEvents)
    app.conf.update(_configuration(settings, catalog))
    app.conf[STORE_OPTION] = store
    tracing = app.conf[TRACING_OPTION] = make_tracing(settings, "worker")
    app.steps["consumer"] |= {FreeSlots, LastEvents}
    app.amqp.Connection = _Connection
    worker, stopping = worker_name(), threading.Event()
    cancels = Cancels(connect(settings.shared_redis_url, connections=1))
    heartbeat = Heartbeat(store, worker, cancels)
    watchdog = app.conf[WATCHDOG_OPTION] = Watchdog(
        connect(settings.shared_redis_url, connections=1),
        Liveness(settings.data_dir),
        worker=worker,
        stall=settings.stall_seconds,
        fmt=settings.log_format,
    )
    providers = make_providers(
        settings.providers(),
        concurrency=settings.worker_concurrency,
        max_image_bytes=settings.max_image_bytes,
    )
    storage = ImageStorage.open(settings.images_url)
    courier = Courier(
        store,
        storage,
        providers,
        limits=ImageLimits(settings.max_image_bytes, settings.max_image_pixels),
        patience=Patience(
            doubt=settings.doubt_seconds,
            shut=settings.route_shut_seconds,
            failing=settings.breaker_seconds,
            retry_unknown=settings.retries_unknown,
        ),
        stopping=stopping,
        cancels=cancels,
        tracing=tracing,
    )
    runner = Runner(store, catalog, providers, courier, stopping=stopping)
    client = connect(settings.shared_redis_url, connections=16)
    signer = FileSigner(client, settings.signing_secret.get_secret_value())
    notifier = Notifier(
        Outbox.of(client, settings),
        WebhookSecrets(client),
        lambda base_url: TaskBody(signer, storage, lambda: base_url),
        Post(timeout=settings.webhook_timeout_seconds, private=settings.webhook_private_targets),
    )
    register(
        app,
        store=store,
        runner=runner,
        heartbeat=heartbeat,
        watchdog=watchdog,
        tracing=tracing,
        worker=worker,
    )

    # Celery keeps receivers weakly unless told otherwise, and these live nowhere else.
    @signals.setup_logging.connect(weak=False)
    def _logging(**_: Any) -> None:
        configure(settings.log_level, settings.log_format)
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)

    @signals.task_prerun.connect(weak=False)
    def _begun(task_id: str, **_: Any) -> None:
        begin_lines(task_id=task_id)

    @signals.task_postrun.connect(weak=False)
    def _done(**_: Any) -> None:
        end_lines()

    @signals.worker_init.connect(weak=False)
    def _beginning(sender: WorkController, **_: Any) -> None:
        watchdog.start(sender)

    @signals.worker_ready.connect(weak=False)
    def _ready(**_: Any) -> None:
        heartbeat.start()
        notifier.start()
        cancels.start()
        settle()

    @signals.worker_shutting_down.connect(weak=False)
    def _stopping(**_: Any) -> None:
        stopping.set()
        watchdog.stop()
        notifier.stop()

    @signals.worker_shutdown.connect(weak=False)
    def _stopped(**_: Any) -> None:
        notifier.wait()
        heartbeat.stop()
        cancels.stop()

    return app


def _configuration(settings: Settings, catalog: Catalog) -> dict[str, Any]:
    """Why these values: `ops/ARCHITECTURE.md`, "Celery's settings"."""
    where = RedisUrl.parse(settings.shared_redis_url)
    names = [queue_for(provider) for provider in sorted(catalog.providers())]
    return {
        **where.broker(),
        "broker_connection_timeout": 1,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "broker_pool_acquire_timeout": 1,
        "broker_transport_options": {
            "socket_timeout": 5,
            "socket_connect_timeout": 1,
            "socket_keepalive": True,
            "retry_on_timeout": False,
            "health_check_interval": 25,
            # What was taken is not written down: the record redelivers, and a Redis at its memory
            # limit would refuse the note.
            "ack_emulation": False,
            "max_retries": 1,
            # Of a service that Sentinels watch; without one they mean nothing.
            "master_name": where.service,
            "sentinel_kwargs": sentinel_options(where, timeout=1),
        },
        # A message is a hint and the record redelivers: late acknowledgement would double work on
        # every broken connection, and ends Celery 5.7 workers when Redis restarts.
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "task_publish_retry": False,
        "result_backend": backend_url(),
        "result_backend_thread_safe": True,
        "result_backend_always_retry": True,
        "result_backend_max_sleep_between_retries_ms": 2000,
        "result_expires": None,  # records expire by themselves
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_queues": [Queue(name, routing_key=name, no_declare=True) for name in names],
        "task_default_queue": names[0],
        "task_create_missing_queues": False,
        "worker_send_task_events": True,
        "task_send_sent_event": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "timezone": "UTC",
    }


try:
    _settings = load_settings()
    check_redis(_settings.shared_redis_url)
    app = make_app(_settings)
except ConfigurationError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(2)
