"""A Redis that Sentinels watch fails over under the whole system, with its users."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import flower_workers
from tests.processes import until
from tests.redis_places import SERVICE, Users, Watched
from tests.stack import Stack
from tests.valkey import close


@pytest.fixture
def failing_over(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Watched]]:
    directory = tmp_path_factory.mktemp("sentinels")
    stack = Stack(directory)
    port: int = stack.redis.connection_pool.connection_kwargs["port"]
    servers = Watched(directory, port)
    users = Users(
        directory / "secrets",
        *("--scheme", "sentinel", "--path", f"{SERVICE}/0"),
        *("--at", ",".join(f"127.0.0.1:{sentinel}" for sentinel in servers.sentinels)),
    )
    stack.redis = users.client("admin", port)
    stack.commands["valkey"] += users.server_options
    try:
        stack.start("valkey", "sandbox")
        until(stack.redis.ping, "Valkey")
        servers.start(users)
        for name in ("web", "beat", "flower", "worker.threads", "worker.gevent"):
            settings = {"WORKER_POOL": "gevent"} if name == "worker.gevent" else {}
            stack.start(name, REDIS_URL=users.url(name.partition(".")[0]), **settings)
        stack.wait_until_ready()
        until(lambda: len(flower_workers(stack.flower_url)) == 2, "Flower sees both workers")
        servers.wait_until_all_know_each_other()
        yield stack, servers
    finally:
        print(stack.tail())
        close(stack.redis)
        stack.stop()
        servers.stop()


def accepted(stack: Stack) -> dict[str, Any] | None:
    answer = stack.post({"model": "flux-pro", "prompt": "after the failover"})
    return answer.json() if answer.status_code == 202 else None


def test_a_failover_is_survived_by_every_process(failing_over: tuple[Stack, Watched]) -> None:
    stack, servers = failing_over
    processes = stack.alive()
    tasks = [stack.submit(f"before the failover {n} sim:never_ready@poll*9") for n in range(6)]
    until(lambda: len(stack.purchases("before the failover")) == 6, "all were bought")
    for task in tasks:
        stack.accepted(task)
    assert stack.redis.wait(1, 5000) == 1

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
