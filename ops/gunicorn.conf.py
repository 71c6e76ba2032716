# Gunicorn for the HTTP API: gunicorn --config ops/gunicorn.conf.py api.wsgi:app
from gevent import monkey

monkey.patch_all()  # before anything else is imported

# ruff: noqa: E402, N999 - the line above comes first; the name is the one gunicorn's users expect
#
# gevent, because a request that waits for its images then costs a few kilobytes and not a thread.
# No preload: each worker makes its own connections. A wrong setting stops the start right here.

import contextlib
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
from typing import Any

import gevent
from gunicorn.arbiter import Arbiter

from common.errors import ConfigurationError
from common.garbage import settle
from common.logging import configure
from common.settings import load_settings

try:
    _settings = load_settings()
    _settings.shared_redis_url  # noqa: B018 - raises when it is not set
except ConfigurationError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(2)

configure(_settings.log_level, _settings.log_format)

gevent.config.track_greenlet_tree = False  # who started a greenlet: ten objects each

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"
workers = _settings.web_processes
worker_class = "api.gunicorn_worker.Worker"
worker_connections = 8000
keepalive = 2  # seconds; an idle connection holds up a stop for as long
timeout = 60
graceful_timeout = 20
# Its default path is the same for all instances of a user, which then delete each other's.
control_socket_disable = True

# Each waiting request is an open file, and the usual soft limit is 1,024.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
_wanted = 65_536 if _hard == resource.RLIM_INFINITY else min(_hard, 65_536)
if _soft < _wanted:
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_wanted, _hard))


# What several processes count together is kept in files; whoever imports prometheus_client later
# looks here whether it is.
_counts = tempfile.mkdtemp(prefix="darkroom-counts-") if workers > 1 else ""
if _counts:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _counts


def child_exit(server: Any, worker: Any) -> None:
    """A process that is gone holds no request any more."""
    if _counts:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    """Leave nothing behind."""
    if _counts:
        shutil.rmtree(_counts, ignore_errors=True)


def on_starting(server: Any) -> None:
    """Let gunicorn's own lines go through our log."""
    logger = logging.getLogger("gunicorn.error")
    logger.handlers.clear()
    logger.propagate = True


def post_worker_init(worker: Any) -> None:
    """Stop as a whole if the image store refuses us; get ready to hold thousands of requests. On
    SIGTERM, answer those who wait for a task with what is known, and then stop."""
    try:
        worker.wsgi.extensions["storage"].check()
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(Arbiter.WORKER_BOOT_ERROR)
    settle()  # with 2,000 requests held a collection of garbage took 120 ms, and now half of it
    stop = signal.getsignal(signal.SIGTERM)
    waiting = worker.wsgi.extensions["waiting"]

    def release_and_stop(number: int, frame: Any) -> None:
        gevent.spawn(waiting.release)
        if callable(stop):
            stop(number, frame)

    signal.signal(signal.SIGTERM, release_and_stop)
