"""The scripted worker as a process, with the store that it shares with the tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from common.queue import hint_template
from common.settings import Settings
from common.store import TaskStore
from common.task import Task, new_task_id
from tests.common.tasks import QUEUE, REQUEST, create
from tests.processes import until
from tests.valkey import Valkey

__all__ = ["ROOT", "Worker", "running_worker"]

ROOT = Path(__file__).resolve().parents[2]
_OURS = {name.upper() for name in Settings.model_fields}


class Worker:
    """One process, begun again by `start`. `settings` are variables of its environment."""

    def __init__(self, valkey: Valkey, store: TaskStore, directory: Path, **settings: str) -> None:
        self.valkey = valkey
        self.store = store
        self.signs = directory
        self.log = directory / "log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in _OURS},
            "REDIS_URL": valkey.url,
            "DATA_DIR": str(directory),
            "LOG_FORMAT": "json",
            "BFL_API_KEY": "none",
            "WORKER_CONCURRENCY": "4",
            **settings,
        }
        self.start()

    def start(self) -> None:
        gevent = self.environment.get("WORKER_POOL") == "gevent"
        patched = ["gevent.monkey", "--module"] if gevent else []
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *patched, "tests.workers.scripted", str(self.signs)],
                cwd=ROOT,
                env=self.environment,
                stdout=out,
                stderr=out,
            )

    def submit(self, prompt: str, *, queue: str = QUEUE, deadline: float = 600) -> str:
        request = replace(REQUEST, prompt=prompt)
        return create(self.store, request=request, queue=queue, deadline=deadline)

    def send(self, celery_task: str) -> None:
        """A message for one of the Celery tasks that are there for tests alone."""
        message = hint_template(celery_task).replace("@ID@", name := new_task_id())
        self.valkey.redis.lpush(QUEUE, message.replace("@TAG@", name))

    def ended(self, task_id: str, seconds: float = 20) -> Task:
        """The task, once it has ended."""

        def over() -> Task | None:
            assert self.process.poll() is None, self.log.read_text()
            task = self.store.read(task_id)
            return task if task is not None and task.status.final else None

        task: Task = until(over, "the task has ended", seconds)
        return task

    def running(self, task_id: str) -> None:
        """Wait until the task is in its runner."""
        until((self.signs / f"{task_id}.running").exists)

    def go_on(self, task_id: str) -> None:
        (self.signs / f"{task_id}.go").touch()

    def logged(self, text: str, task_id: str = "") -> None:
        """Wait until a line of the log has both."""
        until(
            lambda: any(
                text in line and task_id in line for line in self.log.read_text().splitlines()
            )
        )

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running_worker(
    valkey: Valkey, store: TaskStore, directory: Path, **settings: str
) -> Iterator[Worker]:
    """A worker that has worked off its first task."""
    worker = Worker(valkey, store, directory, **settings)
    try:
        worker.ended(worker.submit("paint"), 60)
        yield worker
    finally:
        worker.stop()
