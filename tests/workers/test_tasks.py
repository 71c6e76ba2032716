"""What a real Celery worker makes of what a runner returns and raises: it ends in the record."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from celery import Celery
from celery.result import AsyncResult

from common.backend import STORE_OPTION, backend_url
from common.errors import GenerationFailed
from common.queue import GENERATE, hint_template
from common.task import Status, new_task_id
from tests.common.tasks import FAILURE, QUEUE, RESULT, claim
from tests.processes import until
from tests.valkey import open_store, running_valkey
from tests.workers.worker import Worker, running_worker

NOT_SERVED = "images.nobody"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    directory = tmp_path_factory.mktemp("worker")
    with (
        running_valkey() as valkey,
        open_store(valkey.url, check=0.001) as store,
        running_worker(valkey, store, directory) as worker,
    ):
        yield worker


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

    with worker.valkey.refusing():
        worker.go_on(task_id)
        time.sleep(0.2)  # for at least one refusal; without one the test would pass all the same
        task = worker.store.read(task_id)
        assert task is not None
        assert task.status is Status.PROCESSING

    assert worker.ended(task_id).status is Status.COMPLETED
