"""A real worker whose runner does what the prompt of a task says. Run as a process by the tests."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from common.backend import STORE_OPTION
from common.errors import GenerationFailed, LeaseLost, StoreUnavailable
from common.queue import GENERATE
from common.store import TaskStore
from common.task import Claim, Result
from tests.common.tasks import FAILURE, RESULT
from workers.celery import app, worker_name
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


def main(signs: Path) -> None:
    """Serve until told to stop."""
    store: TaskStore = app.conf[STORE_OPTION]
    app.tasks.unregister(GENERATE)
    runner: Any = Scripted(store, signs)
    worker = worker_name()
    register(app, store=store, runner=runner, heartbeat=Heartbeat(store, worker), worker=worker)
    options = ["--pool=threads", "--concurrency=4", "--without-gossip", "--without-mingle"]
    app.worker_main(["worker", *options, f"--hostname=scripted-{os.getpid()}"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
