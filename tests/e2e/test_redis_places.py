"""Redis behind TLS, and behind Sentinels, for every process of the system alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import flower_workers
from tests.processes import until
from tests.redis_places import Authority, Watched, tls_door, watched
from tests.stack import Stack


@contextlib.contextmanager
def stack_without_workers(directory: Path) -> Iterator[Stack]:
    stack = Stack(directory)
    try:
        stack.start("valkey", "sandbox")
        until(stack.redis.ping, "Valkey")
        yield stack
    finally:
        print(stack.tail())
        stack.redis.close()
        stack.stop()


def port_of(stack: Stack) -> int:
    port: int = stack.redis.connection_pool.connection_kwargs["port"]
    return port


def start_on(stack: Stack, url: str, *names: str) -> None:
    for name in ("web", "beat", "flower", *names):
        stack.start(name, REDIS_URL=url)
    stack.wait_until_ready()
    until(lambda: flower_workers(stack.flower_url), "Flower sees a worker")


def test_every_process_speaks_tls_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with stack_without_workers(tmp_path) as stack, tls_door(port_of(stack), authority) as door:
        user = ("shop", "on", ">p:/w@#", "~*", "&*", "+@all")
        stack.redis.execute_command("ACL", "SETUSER", *user)
        url = f"rediss://shop:p%3A%2Fw%40%23@127.0.0.1:{door}/0{authority.options()}"
        start_on(stack, url, "worker")

        task = stack.finished(stack.submit("a fox behind a door"))

        assert task["status"] == "completed"
        assert len(stack.purchases("a fox behind a door")) == 1


def accepted(stack: Stack) -> dict[str, Any] | None:
    answer = stack.post({"model": "flux-pro", "prompt": "after the failover"})
    return answer.json() if answer.status_code == 202 else None


@pytest.fixture(scope="module")
def failing_over(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Watched]]:
    directory = tmp_path_factory.mktemp("sentinels")
    with (
        stack_without_workers(directory) as stack,
        watched(directory, port_of(stack)) as servers,
    ):
        start_on(stack, servers.url, "worker.threads")
        stack.start("worker.gevent", REDIS_URL=servers.url, WORKER_POOL="gevent")
        until(lambda: len(flower_workers(stack.flower_url)) == 2, "both workers")
        servers.wait_until_all_know_each_other()
        yield stack, servers


def test_a_failover_is_survived_by_every_process(failing_over: tuple[Stack, Watched]) -> None:
    stack, servers = failing_over
    processes = stack.alive()
    tasks = [stack.submit(f"before the failover {n} sim:never_ready@poll*9") for n in range(6)]
    until(lambda: len(stack.purchases("before the failover")) == 6, "all were bought")
    stack.redis.wait(1, 2000)

    stack.kill("valkey")
    servers.kill(servers.sentinels[0])  # the machine of both
    later = until(lambda: accepted(stack), "a task is accepted", 40)
    ends = [stack.finished(task) for task in tasks]

    assert {end["status"] for end in ends} == {"completed"}
    assert len(stack.purchases("before the failover")) == 6
    assert stack.finished(later)["status"] == "completed"
    assert servers.where(servers.sentinels[1]) == servers.replica
    del processes["valkey"]
    assert stack.alive() == processes
