"""Workers that hang are ended; workers that are idle, busy or without Redis are left alone.

Each is a real process of either pool. It may go `STALL` seconds without a turn.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from common.task import Status
from tests.half_open import running_proxy
from tests.processes import until
from tests.valkey import Valkey, open_store
from tests.workers.worker import ROOT, Worker, running_worker
from workers.watchdog import STALLED

STALL = 5.0
SLOTS = 4
LONG = STALL + 2  # seconds in which a watch that is wrong would have struck

both_pools = pytest.mark.parametrize("pool", ["threads", "gevent"])


@pytest.fixture
def pool() -> str:
    return "threads"


@pytest.fixture
def worker(valkey: Valkey, pool: str, tmp_path: Path) -> Iterator[Worker]:
    with (
        open_store(valkey.url, check=0.001) as store,
        running_worker(
            valkey,
            store,
            tmp_path,
            WORKER_POOL=pool,
            WORKER_CONCURRENCY=str(SLOTS),
            STALL_SECONDS=str(STALL),
        ) as worker,
    ):
        yield worker


def ended(worker: Worker, seconds: float = STALL + 10) -> dict[str, object]:
    """What the watchdog said when it ended the worker, which has to be within the time."""
    until(lambda: worker.process.poll() is not None, "the worker was ended", seconds)
    assert worker.process.returncode == STALLED, worker.log.read_text()
    said: dict[str, object] = json.loads(worker.log.read_text().splitlines()[-1])
    assert "took no work" in str(said["event"])
    return said


def goes_on(worker: Worker, seconds: float = LONG) -> None:
    """The worker is left alone for so long."""
    ends = time.monotonic() + seconds
    until(
        lambda: worker.process.poll() is not None or time.monotonic() > ends,
        "time has passed",
        seconds + 5,
    )
    assert worker.process.poll() is None, worker.log.read_text()


def probe(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What a supervisor is told."""
    return subprocess.run(
        [sys.executable, "-m", "workers", "alive"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def alive(worker: Worker) -> subprocess.CompletedProcess[str]:
    return probe(worker.environment)


@pytest.mark.parametrize("pool", ["gevent"])
def test_a_held_loop_is_noticed_and_said_where(worker: Worker) -> None:
    worker.submit("hold")

    said = ended(worker)

    assert "workers.tasks" in str(said["main_thread"])
    assert said["busy"] == 1


@pytest.mark.parametrize("pool", ["gevent"])
def test_a_loop_held_by_one_of_many_busy_generations_is_noticed(worker: Worker) -> None:
    for task_id in [worker.submit("wait") for _ in range(SLOTS - 1)]:
        worker.running(task_id)
    worker.submit("hold")

    assert ended(worker)["busy"] == SLOTS


@both_pools
def test_a_pool_whose_slots_are_all_stuck_is_noticed(worker: Worker) -> None:
    for _ in range(SLOTS):
        worker.send("tests.hide")

    assert ended(worker)["busy"] == 0


@both_pools
def test_generations_that_outstay_their_deadline_do_not_count_as_work(worker: Worker) -> None:
    for task_id in [worker.submit("wait", deadline=2) for _ in range(SLOTS)]:
        worker.running(task_id)

    assert ended(worker, 2 + STALL + 10)["busy"] == SLOTS


@both_pools
def test_a_consumer_that_stopped_is_noticed(worker: Worker) -> None:
    with Celery("operator", broker=worker.valkey.url, set_as_current=False) as operator:
        inspect = operator.control.inspect(timeout=1)
        answers = until(inspect.active_queues, "the worker says what it consumes")
        for queue in next(iter(answers.values())):
            operator.control.cancel_consumer(queue["name"])

        ended(worker)


@both_pools
def test_a_connection_that_is_open_on_one_side_only_is_got_over(
    valkey: Valkey, pool: str, tmp_path: Path
) -> None:
    with (
        running_proxy(valkey.port) as proxy,
        open_store(valkey.url, check=0.001) as store,
        running_worker(
            valkey,
            store,
            tmp_path,
            REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0",
            WORKER_POOL=pool,
            STALL_SECONDS=str(STALL),
        ) as worker,
    ):
        proxy.lose()
        task_id = worker.submit("paint")

        # Either Celery has come to notice it by itself, or the worker is started again.
        until(
            lambda: store.read(task_id).status.final or worker.process.poll() is not None,
            "painted or ended",
            STALL + 10,
        )
        if worker.process.poll() is not None:
            assert worker.process.returncode == STALLED
            worker.start()
            until(lambda: store.sweep("a") and store.read(task_id).status.final, "painted", 20)
        assert proxy.swallowed


@both_pools
def test_an_idle_worker_is_left_alone(worker: Worker) -> None:
    goes_on(worker)

    assert worker.ended(worker.submit("paint")).status is Status.COMPLETED
    assert "darkroom.turn" not in worker.log.read_text()


@both_pools
def test_a_worker_whose_slots_are_all_rightly_busy_is_left_alone(worker: Worker) -> None:
    tasks = [worker.submit("wait") for _ in range(2 * SLOTS)]
    for task_id in tasks[:SLOTS]:
        worker.running(task_id)

    goes_on(worker)

    for task_id in tasks:
        worker.go_on(task_id)
    assert {worker.ended(task_id).status for task_id in tasks} == {Status.COMPLETED}


@both_pools
@pytest.mark.parametrize("how", ["frozen", "killed", "full"])
def test_a_worker_without_redis_is_left_alone_and_carries_on(
    worker: Worker, valkey: Valkey, how: str
) -> None:
    with getattr(valkey, how)():
        goes_on(worker)

    task_id = worker.submit("paint")
    assert worker.ended(task_id, 40).status is Status.COMPLETED


@both_pools
def test_a_worker_that_stops_may_take_its_time(worker: Worker) -> None:
    task_id = worker.submit("wait")
    worker.running(task_id)
    worker.process.terminate()

    goes_on(worker)

    worker.go_on(task_id)
    assert worker.process.wait(20) == 0
    assert worker.store.read(task_id).status is Status.COMPLETED


@both_pools
def test_a_probe_is_told_of_a_worker_that_is_frozen(worker: Worker) -> None:
    assert alive(worker).returncode == 0

    worker.process.send_signal(signal.SIGSTOP)
    told = until(lambda: (a := alive(worker)).returncode and a, "told of", STALL + 15)
    worker.process.send_signal(signal.SIGCONT)

    assert f"process {worker.process.pid} does not get on" in told.stdout
    until(lambda: alive(worker).returncode == 0)
    goes_on(worker, STALL + 1)


def test_a_probe_is_told_of_a_worker_that_keeps_the_interpreter_to_itself(worker: Worker) -> None:
    worker.send("tests.seize")

    until(lambda: alive(worker).returncode == 1, "told of", STALL + 15)

    worker.process.kill()


def test_a_probe_is_told_of_a_sweep_that_is_frozen(valkey: Valkey, tmp_path: Path) -> None:
    settings = {"REDIS_URL": valkey.url, "DATA_DIR": str(tmp_path), "STALL_SECONDS": str(STALL)}
    environment = {"PATH": os.environ["PATH"], **settings}
    with subprocess.Popen(
        [sys.executable, "-m", "workers", "beat"], cwd=ROOT, env=environment
    ) as beat:
        until(lambda: probe(environment).returncode == 0, "the sweep gets on")

        beat.send_signal(signal.SIGSTOP)
        until(lambda: probe(environment).returncode == 1, "told of", STALL + 15)

        beat.kill()


def test_a_probe_is_told_when_nothing_runs(worker: Worker) -> None:
    worker.process.kill()
    worker.process.wait()

    told = alive(worker)

    assert told.returncode == 1
    assert "neither worker nor sweep runs here" in told.stdout


def test_a_watch_can_be_switched_off(valkey: Valkey, tmp_path: Path) -> None:
    with (
        open_store(valkey.url, check=0.001) as store,
        running_worker(valkey, store, tmp_path, STALL_SECONDS="0") as worker,
    ):
        assert not valkey.redis.keys("turns*")
        assert alive(worker).returncode == 0
