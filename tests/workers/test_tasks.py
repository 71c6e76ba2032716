"""What a real Celery worker makes of what a runner returns and raises: it ends in the record."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from celery import Celery
from celery.result import AsyncResult

from common.backend import STORE_OPTION, backend_url
from common.errors import GenerationFailed
from common.queue import GENERATE, hint_template
from common.settings import Settings
from common.store import TaskStore
from common.task import Status, Task, new_task_id
from tests.common.tasks import FAILURE, QUEUE, REQUEST, RESULT, claim, create
from tests.processes import until
from tests.valkey import Valkey, open_store, running_valkey

ROOT = Path(__file__).resolve().parents[2]
NOT_SERVED = "images.nobody"


class Worker:
    """The worker's process, with the store that it shares with the tests."""

    def __init__(self, valkey: Valkey, store: TaskStore, directory: Path) -> None:
        self.valkey = valkey
        self.store = store
        self.signs = directory
        self.log = directory / "log"
        ours = {name.upper() for name in Settings.model_fields}
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        settings = {
            "REDIS_URL": valkey.url,
            "DATA_DIR": str(directory),
            "LOG_FORMAT": "json",
            "BFL_API_KEY": "none",
        }
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.workers.scripted", str(directory)],
                cwd=ROOT,
                env=environment | settings,
                stdout=out,
                stderr=out,
            )

    def submit(self, prompt: str, *, queue: str = QUEUE) -> str:
        return create(self.store, request=replace(REQUEST, prompt=prompt), queue=queue)

    def ended(self, task_id: str) -> Task:
        """The task, once it has ended."""

        def over() -> Task | None:
            assert self.process.poll() is None, self.log.read_text()
            task = self.store.read(task_id)
            return task if task is not None and task.status.final else None

        task: Task = until(over)
        return task

    def running(self, task_id: str) -> None:
        """Wait until the task is in its runner."""
        until((self.signs / f"{task_id}.running").exists)

    def go_on(self, task_id: str) -> None:
        (self.signs / f"{task_id}.go").touch()

    def logged(self, text: str, task_id: str) -> None:
        """Wait until a line of the log has both."""
        until(
            lambda: any(
                text in line and task_id in line for line in self.log.read_text().splitlines()
            )
        )


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with running_valkey() as valkey, open_store(valkey.url, check=0.001) as store:
        worker = Worker(valkey, store, tmp_path_factory.mktemp("worker"))
        try:
            assert worker.ended(worker.submit("paint"))
            yield worker
        finally:
            worker.process.terminate()
            try:
                worker.process.wait(20)
            finally:
                worker.process.kill()
                worker.process.wait()


@pytest.fixture
def reader(worker: Worker) -> Celery:
    """Another process of the system, as far as Celery knows."""
    app = Celery("reader", set_as_current=False)
    app.conf.update(result_backend=backend_url())
    app.conf[STORE_OPTION] = worker.store
    return app


def test_what_a_runner_returns_is_the_result(worker: Worker) -> None:
    task = worker.ended(worker.submit("paint"))

    assert task.status is Status.COMPLETED
    assert task.result == RESULT
    assert task.generation == 1


def test_the_failure_of_a_generation_is_kept_as_it_is(worker: Worker) -> None:
    task = worker.ended(worker.submit("fail"))

    assert task.status is Status.FAILED
    assert task.failure == FAILURE


def test_an_unexpected_error_fails_the_task_and_its_words_are_kept_from_the_record(
    worker: Worker,
) -> None:
    task = worker.ended(worker.submit("explode"))

    assert task.failure is not None
    assert task.failure.code == "internal_error"
    assert task.failure.billed == "unknown"
    assert "secret" not in str(worker.valkey.redis.hgetall(f"darkroom:task:{task.id}"))
    worker.logged("secret words", task.id)


def test_a_message_of_an_unknown_kind_fails_its_task(worker: Worker) -> None:
    task_id = worker.submit("paint", queue=NOT_SERVED)
    strange = hint_template().replace(GENERATE, "darkroom.unheard-of").replace("@ID@", task_id)
    worker.valkey.redis.lpush(QUEUE, strange)

    task = worker.ended(task_id)

    assert task.failure is not None
    assert task.failure.code == "internal_error"
    assert "unheard-of" not in task.failure.message


def test_a_task_that_was_put_back_is_finished_later(worker: Worker) -> None:
    task_id = worker.submit("defer")

    until(lambda: worker.store.sweep("a") and worker.store.read(task_id).status.final)  # type: ignore[union-attr]

    task = worker.ended(task_id)
    assert task.status is Status.COMPLETED
    assert task.generation == 2


@pytest.mark.parametrize("prompt", ["lose", "away"])
def test_a_claim_that_was_given_up_leaves_the_record_alone(worker: Worker, prompt: str) -> None:
    task_id = worker.submit(prompt)

    worker.logged("gave up a claim", task_id)

    task = worker.store.read(task_id)
    assert task is not None
    assert task.status is Status.PROCESSING


def test_the_late_result_of_a_worker_that_was_robbed_is_refused(worker: Worker) -> None:
    task_id = worker.submit("be robbed")

    worker.logged("a late result was refused", task_id)

    task = worker.store.read(task_id)
    assert task is not None
    assert (task.status, task.generation) == (Status.PROCESSING, 2)
    assert task.result is None


def test_doubled_late_and_invented_messages_do_no_harm(worker: Worker) -> None:
    done = worker.ended(worker.submit("paint"))
    held = claim(worker.store, worker.submit("paint", queue=NOT_SERVED))
    for task_id in (done.id, done.id, held.task.id, new_task_id()):
        worker.valkey.redis.lpush(QUEUE, hint_template().replace("@ID@", task_id))

    assert worker.ended(worker.submit("paint"))
    assert worker.store.read(done.id) == done
    assert worker.store.read(held.task.id) == held.task


def test_celery_sees_every_state_of_a_task(worker: Worker, reader: Celery) -> None:
    running, failing = worker.submit("wait"), worker.submit("fail")
    waiting = worker.submit("paint", queue=NOT_SERVED)
    worker.running(running)
    worker.ended(failing)

    states: list[str] = [
        AsyncResult(task_id, app=reader).state
        for task_id in (new_task_id(), waiting, running, failing)
    ]
    worker.go_on(running)
    result: AsyncResult[object] = AsyncResult(running, app=reader)

    assert states == ["UNKNOWN", "PENDING", "STARTED", "FAILURE"]
    assert result.get(timeout=20, interval=0.01) == {"images": ["name/0.png"]}
    assert result.state == "SUCCESS"
    with pytest.raises(GenerationFailed):
        AsyncResult(failing, app=reader).get(timeout=5)


def test_the_worker_shows_that_it_lives(worker: Worker) -> None:
    assert until(lambda: worker.store.health().workers)


def test_a_result_is_written_once_the_store_is_back(worker: Worker) -> None:
    task_id = worker.submit("wait")
    worker.running(task_id)

    with worker.valkey.frozen():
        worker.go_on(task_id)
        time.sleep(2.3)  # the first attempt gives up after two seconds

    assert worker.ended(task_id).status is Status.COMPLETED
    assert worker.ended(worker.submit("paint")).status is Status.COMPLETED


def test_a_result_is_written_once_the_store_takes_writes_again(worker: Worker) -> None:
    task_id = worker.submit("wait")
    worker.running(task_id)

    with worker.valkey.full():
        worker.go_on(task_id)
        time.sleep(0.2)  # for at least one refusal; without one the test would pass all the same
        task = worker.store.read(task_id)
        assert task is not None
        assert task.status is Status.PROCESSING

    assert worker.ended(task_id).status is Status.COMPLETED
