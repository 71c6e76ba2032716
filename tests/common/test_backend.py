"""The task store as Celery sees it: as its result backend."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.result import AsyncResult

from common.backend import STORE_OPTION, RecordBackend, backend_url
from common.errors import GenerationFailed
from common.store import TaskStore
from common.task import Status, new_task_id
from tests.common.tasks import FAILURE, RESULT, claim, claimed, create, let_lease_run_out
from tests.valkey import Valkey


@pytest.fixture
def app(store: TaskStore) -> Celery:
    app = Celery("reader", set_as_current=False)
    app.conf.update(result_backend=backend_url(), result_backend_always_retry=True)
    app.conf[STORE_OPTION] = store
    return app


def held_by(generation: int) -> Context:
    """What Celery hands to a backend of the request that it reports on."""
    return Context(generation=generation)


def test_celery_takes_the_store_for_its_backend(app: Celery) -> None:
    assert isinstance(app.backend, RecordBackend)


def test_celery_tells_an_unknown_task_from_one_that_waits(app: Celery, store: TaskStore) -> None:
    unknown: str = AsyncResult(new_task_id(), app=app).state
    waiting: str = AsyncResult(create(store), app=app).state

    assert (unknown, waiting) == ("UNKNOWN", "PENDING")


def test_celery_sees_a_task_that_is_worked_on(app: Celery, store: TaskStore) -> None:
    assert AsyncResult(claimed(store).task.id, app=app).state == "STARTED"


def test_celery_sees_a_result(app: Celery, store: TaskStore) -> None:
    task_id = claimed(store).task.id
    app.backend.store_result(task_id, RESULT, "SUCCESS", request=held_by(1))

    result: AsyncResult[Any] = AsyncResult(task_id, app=app)

    assert result.state == "SUCCESS"
    assert result.get(timeout=5) == {"images": ["name/0.png"]}


def test_celery_sees_a_failure_and_raises_it(app: Celery, store: TaskStore) -> None:
    task_id = claimed(store).task.id
    app.backend.mark_as_failure(task_id, GenerationFailed(FAILURE), request=held_by(1))

    result: AsyncResult[Any] = AsyncResult(task_id, app=app)

    assert result.state == "FAILURE"
    with pytest.raises(GenerationFailed) as caught:
        result.get(timeout=5)
    assert caught.value.failure == FAILURE


@pytest.mark.parametrize(("result", "state"), [(RESULT, "SUCCESS"), (ValueError("x"), "FAILURE")])
def test_a_late_report_of_a_claim_that_was_lost_is_refused(
    app: Celery, store: TaskStore, valkey: Valkey, result: object, state: str
) -> None:
    first = claimed(store)
    let_lease_run_out(valkey, first)
    second = claim(store, first.task.id)

    app.backend.store_result(first.task.id, result, state, request=held_by(1))

    assert store.read(first.task.id) == second.task


def test_a_report_without_a_claim_does_not_complete_a_task(app: Celery, store: TaskStore) -> None:
    task_id = create(store)

    app.backend.store_result(task_id, RESULT, "SUCCESS")

    assert AsyncResult(task_id, app=app).state == "PENDING"


@pytest.mark.parametrize("state", ["FAILURE", "REVOKED"])
def test_a_death_outside_our_code_is_told_without_its_words(
    app: Celery, store: TaskStore, state: str
) -> None:
    task_id = create(store)

    app.backend.store_result(task_id, RuntimeError("secret prompt"), state)

    task = store.read(task_id)
    assert task is not None
    assert task.status is Status.FAILED
    assert task.failure is not None
    assert task.failure.code == "internal_error"
    assert task.failure.billed == "unknown"
    assert "secret" not in task.failure.message


@pytest.mark.parametrize("state", ["STARTED", "RETRY", "RECEIVED"])
def test_what_celery_says_of_starts_and_retries_changes_nothing(
    app: Celery, store: TaskStore, state: str
) -> None:
    held = claimed(store)

    app.backend.store_result(held.task.id, None, state, request=held_by(1))

    assert store.read(held.task.id) == held.task


def test_records_cannot_be_forgotten(app: Celery, store: TaskStore) -> None:
    with pytest.raises(NotImplementedError):
        AsyncResult(create(store), app=app).forget()


def test_an_end_that_the_store_did_not_take_is_written_again(
    app: Celery, store: TaskStore, valkey: Valkey
) -> None:
    app.conf.result_backend_max_sleep_between_retries_ms = 50
    held = claimed(store)
    writer = threading.Thread(
        target=app.backend.store_result,
        args=(held.task.id, RESULT, "SUCCESS"),
        kwargs={"request": held_by(1)},
    )

    with valkey.refusing():
        writer.start()
        writer.join(0.3)
        refused = writer.is_alive()
    writer.join(10)

    assert refused
    assert AsyncResult(held.task.id, app=app).state == "SUCCESS"
