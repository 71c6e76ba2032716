"""Entry point of everything that is not the front end: `python -m workers worker|beat|flower`.

`python -m workers alive` says, by its exit code, whether those that run here get on.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from common.errors import ConfigurationError
from common.liveness import Liveness
from common.settings import Settings, load_settings

if TYPE_CHECKING:  # `alive` is asked often, and needs no more than is above
    from common.storage import ImageStorage

_SAVE_HISTORY_MS = 60_000  # what Flower has seen since is lost when it is killed


def main(arguments: list[str]) -> int:
    """Run one process of the system until it is told to stop; returns its exit code."""
    processes = {"worker": _worker, "beat": _beat, "flower": _flower, "alive": _alive}
    if len(arguments) != 1 or arguments[0] not in processes:
        print(f"usage: python -m workers {'|'.join(processes)}", file=sys.stderr)  # noqa: T201
        return 2
    try:
        return processes[arguments[0]](load_settings())
    except ConfigurationError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2


def _worker(settings: Settings) -> int:
    if settings.worker_pool == "gevent":
        _patch_before_everything()
        import gevent

        gevent.config.track_greenlet_tree = False  # who started a greenlet: ten objects each
    from common.logging import configure
    from workers.celery import app, worker_name

    configure(settings.log_level, settings.log_format)
    _open_storage(settings)
    arguments = [
        "--quiet",
        "worker",
        f"--pool={settings.worker_pool}",
        f"--concurrency={settings.worker_concurrency}",
        f"--hostname={worker_name().replace(':', '-')}",
        f"--loglevel={settings.log_level}",
        "--events",
        "--without-gossip",
        "--without-mingle",
    ]
    if settings.worker_queues:
        arguments.append(f"--queues={settings.worker_queues}")
    app.worker_main(arguments)
    return 0


def _patch_before_everything() -> None:
    """Start this very command again under gevent's own runner.

    `celery -P gevent` patches after kombu has taken hold of the unpatched `sleep`; a Redis outage
    then stops the whole process for minutes.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        command = ["-m", "gevent.monkey", "--module", "workers", "worker"]
        os.execv(sys.executable, [sys.executable, *command])  # noqa: S606


def _beat(settings: Settings) -> int:
    from common.catalog import Catalog
    from common.connection import connect
    from common.logging import configure
    from common.oversight import Oversight
    from workers.celery import make_store, worker_name
    from workers.sweep import Sweeper

    configure(settings.log_level, settings.log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    liveness = Liveness(settings.data_dir)
    liveness.begin()
    # An image may be older than the end of its task, from which on it is kept: what the task
    # starts from is as old as the task itself.
    catalog = Catalog.load(settings.catalog_file)
    longest = max(model.deadline_seconds for model in catalog)
    oversight = Oversight(connect(settings.shared_redis_url, connections=1), catalog)
    Sweeper(
        make_store(settings),
        _open_storage(settings),
        name=worker_name(),
        every=settings.sweep_seconds,
        retention=settings.retention_hours * 3600 + longest,
        turned=liveness.show,
        sample=oversight.sample,
    ).run(stop)
    return 0


def _open_storage(settings: Settings) -> ImageStorage:
    """The image store, which does not refuse us. Raises ConfigurationError."""
    from common.storage import ImageStorage

    storage = ImageStorage.open(settings.images_url)
    storage.check()
    return storage


def _flower(settings: Settings) -> int:
    auth = settings.flower_basic_auth.get_secret_value()
    if not (auth or _is_loopback(settings.flower_address)):
        raise ConfigurationError(
            f"FLOWER_ADDRESS: {settings.flower_address} is more than this machine; "
            "FLOWER_BASIC_AUTH has to say who may see Flower, as user:password"
        )
    history = settings.data_dir.resolve() / "flower"
    history.mkdir(parents=True, exist_ok=True)
    command = [
        *("-m", "celery", "-A", "workers.celery", "flower"),
        f"--port={settings.flower_port}",
        f"--address={settings.flower_address}",
        f"--read-only={settings.flower_read_only}",
        "--persistent=true",
        f"--db={history / 'tasks'}",
        f"--state-save-interval={_SAVE_HISTORY_MS}",
        "--logging=warning",
        "--max-tasks=10000",
    ]
    # In the environment, where Flower looks for it too: command lines are seen by everybody.
    environment = os.environ | ({"FLOWER_BASIC_AUTH": auth} if auth else {})
    os.execve(sys.executable, [sys.executable, *command], environment)  # noqa: S606


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _alive(settings: Settings) -> int:
    """0 when every worker and sweep of this installation, on this machine, gets on."""
    if not settings.stall_seconds:
        return 0
    ages = Liveness(settings.data_dir).ages()
    stuck = {pid: age for pid, age in ages.items() if age > settings.stall_seconds}
    for pid, age in stuck.items():
        print(f"process {pid} does not get on: {age:.0f} s")  # noqa: T201
    if not ages:
        print(f"neither worker nor sweep runs here for {settings.data_dir.resolve()}")  # noqa: T201
    return 1 if stuck or not ages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
