"""Builds the front end: everything it consists of is made and connected here."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Flask, Response, request
from flask.json.provider import JSONProvider

from api import (
    admin,
    edits,
    errors,
    files,
    health,
    history,
    images,
    llms,
    metrics,
    models,
    openapi,
    playground,
    request_log,
    tasks,
    usage,
)
from api.answers import Answer
from api.auth import make_authentication
from api.cancel import Cancel
from api.cli import make_commands
from api.events import EventStream
from api.outlook import Outlook
from api.recent import RecentOutcomes
from api.remote import Remote
from api.retry import Retries
from api.room import Room
from api.submit import Submit
from api.task_cli import make_task_commands
from api.uploads import Uploads
from api.waiting import REDIS_SECONDS, Waiting
from common.catalog import Catalog
from common.connection import allow_redis, connect
from common.file_signer import FileSigner
from common.fleet import Fleet
from common.keys import KeyStore
from common.outbox import Outbox, WebhookSecrets
from common.oversight import Oversight
from common.pictures import ImageLimits
from common.settings import Settings
from common.storage import ImageStorage
from common.store import TaskStore
from common.task_body import TaskBody
from common.tracing import make_tracing

__all__ = ["create_app"]

VERSION = "0.1.0"

_MOST_BODY_BYTES = 1_000_000
_PROBE_SECONDS = 0.8


def create_app(settings: Settings) -> Flask:
    """The application. Redis need not be there yet.

    Raises ConfigurationError when a setting is missing or the image store cannot be used.
    """
    catalog = Catalog.load(settings.catalog_file)
    providers = settings.providers()
    client = connect(settings.shared_redis_url, connections=256)
    store = TaskStore.of(client, settings)
    keys = KeyStore(client)
    storage = ImageStorage.open(settings.images_url, redirect=settings.storage_redirect)
    signer = FileSigner(client, settings.signing_secret.get_secret_value())

    def base_url() -> str:
        return settings.public_url.rstrip("/") or f"{request.scheme}://{request.host}"

    bodies = TaskBody(signer, storage, base_url)
    reserve = settings.disk_reserve_mb * 1_000_000
    counts = metrics.HttpMetrics()
    waiting = Waiting(connect(settings.redis_url, connections=4), report=counts.waiters.inc)
    probe = connect(settings.redis_url, connections=8, timeout=_PROBE_SECONDS)

    app = openapi.make_app(VERSION)
    app.json = _Orjson(app)
    app.config["MAX_CONTENT_LENGTH"] = _MOST_BODY_BYTES
    # A redirect is no JSON, and loses the body of a POST on its way.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.extensions["waiting"] = waiting
    app.extensions["storage"] = storage
    request_log.init_app(app, counts)
    errors.init_app(app)
    app.before_request(lambda: allow_redis(REDIS_SECONDS))
    app.before_request(make_authentication(keys, settings.bootstrap_api_key.get_secret_value()))
    room = Room(client, storage, reserve=reserve)
    outcomes = RecentOutcomes(store)
    outlook = Outlook(catalog, providers, outcomes)
    submit = Submit(
        store, providers, bodies, outlook, waiting, room, base_url, make_tracing(settings, "web")
    )
    app.register_api(
        images.make_blueprint(
            catalog, providers, submit, private_webhooks=settings.webhook_private_targets
        )
    )
    uploads = Uploads(
        storage,
        catalog,
        Remote(max_bytes=settings.max_image_bytes),
        ImageLimits(settings.max_image_bytes, settings.max_image_pixels),
    )
    app.register_api(
        edits.make_blueprint(
            catalog,
            providers,
            uploads,
            submit,
            private_webhooks=settings.webhook_private_targets,
        )
    )
    outbox = Outbox.of(client, settings)
    events = EventStream(store, bodies, waiting)
    cancel = Cancel(store, bodies, outlook, waiting)
    app.register_api(tasks.make_blueprint(store, bodies, outlook, waiting, events, outbox, cancel))
    app.register_api(history.make_blueprint(store, bodies, outlook))
    app.register_api(usage.make_blueprint(store))
    app.register_api(files.make_blueprint(signer, storage))
    app.register_api(models.make_blueprint(catalog, providers, outcomes))
    app.register_api(
        health.make_blueprint(
            TaskStore(probe),
            Room(probe, storage, reserve=reserve),
            worker_age=3 * settings.lease_seconds,
            sweep_age=10 * settings.sweep_seconds + 5,
        )
    )
    app.register_api(
        metrics.make_blueprint(
            counts,
            Fleet(probe, catalog),
            token=settings.metrics_token.get_secret_value(),
            alive=3 * settings.lease_seconds,
        )
    )
    app.register_api(
        admin.make_blueprint(
            catalog,
            providers,
            store,
            Fleet(client, catalog),
            Oversight(client, catalog),
            keys,
            cancel,
            Retries(store, keys, storage, catalog, providers, outlook, room),
            outbox,
            alive=3 * settings.lease_seconds,
        )
    )
    app.register_blueprint(openapi.make_blueprint(app))
    app.register_blueprint(llms.make_blueprint(app, catalog, providers, base_url))
    app.register_blueprint(playground.make_blueprint(VERSION, storage.origin))
    app.cli.add_command(make_commands(keys, WebhookSecrets(client), store, catalog))
    app.cli.add_command(make_task_commands(store))
    return app


class _Orjson(JSONProvider):
    """Keeps the order of keys, and makes short work of megabytes of Base64."""

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """As `jsonify` has it; without making a string of the bytes, and bytes of that again."""
        body = orjson.dumps(self._prepare_response_obj(args, kwargs))
        return Answer(body, mimetype="application/json")

    def dumps(self, obj: Any, **_: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:
        return orjson.loads(s)
