"""A real worker whose runner does what the prompt of a task says. Run as a process by the tests.

Beside generations it has Celery tasks that take a slot of the pool without a claim (`tests.hide`)
or keep the interpreter to themselves (`tests.seize`).
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from common.backend import STORE_OPTION
from common.connection import connect
from common.errors import GenerationFailed, LeaseLost, StoreUnavailable
from common.hub import unpatched
from common.queue import GENERATE
from common.store import TaskStore
from common.task import Claim, Result
from common.tracing import OFF
from tests.common.tasks import FAILURE, RESULT
from workers.__main__ import main as run
from workers.cancels import Cancels
from workers.celery import WATCHDOG_OPTION, app, worker_name
from workers.courier import Deferred
from workers.heartbeat import Heartbeat
from workers.tasks import register


class Scripted:
    """In place of `workers.runner.Runner`. `signs` is where both sides leave each other files."""

    def __init__(self, store: TaskStore, signs: Path) -> None:
        self._store = store
        self._signs = signs

    def run(self, claim: Claim) -> Result:
        task_id = claim.task.id
        match claim.task.request.prompt:
            case "wait":
                (self._signs / f"{task_id}.running").touch()
                while not (self._signs / f"{task_id}.go").exists():
                    time.sleep(0.01)
            case "hold":  # gevent's loop, if there is one
                unpatched("time", "sleep")(600)
            case "fail":
                raise GenerationFailed(FAILURE)
            case "explode":
                raise RuntimeError("secret words")
            case "defer" if claim.attempt == 1:
                self._store.defer(claim, 0.01)
                raise Deferred("busy", 0.01)
            case "lose":
                raise LeaseLost(task_id)
            case "away":
                raise StoreUnavailable("away")
            case "be robbed":
                self._store.defer(claim, 0)
                assert self._store.claim(task_id, "robber")
        return RESULT


def hide() -> None:
    """Wait for what never comes, as a thread in a deadlock does."""
    time.sleep(600)


def seize() -> None:
    """Never let another thread run: a search takes no break, and this one takes years."""
    re.search("(a|a)*b", "a" * 60)


def main(signs: Path) -> int:
    """Serve until told to stop."""
    store: TaskStore = app.conf[STORE_OPTION]
    app.tasks.unregister(GENERATE)
    runner: Any = Scripted(store, signs)
    worker = worker_name()
    register(
        app,
        store=store,
        runner=runner,
        heartbeat=Heartbeat(store, worker, Cancels(connect(os.environ["REDIS_URL"]))),
        watchdog=app.conf[WATCHDOG_OPTION],
        tracing=OFF,
        worker=worker,
    )
    app.task(name="tests.hide", ignore_result=True)(hide)
    app.task(name="tests.seize", ignore_result=True)(seize)
    return run(["worker"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
