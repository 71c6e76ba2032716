"""Every process as its own user of Redis, through TLS: it can do its work, and no other's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from tests.e2e.conftest import flower_workers
from tests.e2e.test_webhooks import Receiver
from tests.processes import until
from tests.redis_places import Authority, Users, tls_door
from tests.stack import KEY, ROOT, Stack

USERS = ("web", "worker", "beat", "flower")


class Guarded:
    """A stack whose processes have users of their own, and clients with the same rights."""

    def __init__(self, stack: Stack, users: Users, port: int) -> None:
        self.stack, self.users, self._port = stack, users, port
        self._clients: list[redis.Redis] = []

    def user(self, name: str) -> Any:
        client = self.users.client(name, self._port)
        self._clients.append(client)
        return client

    def denials(self) -> list[str]:
        """What Redis refused to whom."""
        log: Any = self.user("admin").acl_log()
        return sorted(
            {f"{e['username']}: {e['reason']} {e['object']}, {e['context']}" for e in log}
        )

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("users")
    stack, authority = Stack(directory), Authority(directory)
    port: int = stack.redis.connection_pool.connection_kwargs["port"]
    with tls_door(port, authority) as door:
        at = ("--scheme", "rediss", "--at", f"127.0.0.1:{door}")
        users = Users(directory / "secrets", *at, "--options", authority.options())
        stack.commands["valkey"] += users.server_options
        whole = Guarded(stack, users, port)
        try:
            stack.start("valkey", "sandbox")
            until(lambda: whole.user("health").ping(), "Valkey")
            for name in USERS:
                stack.start(name, REDIS_URL=users.url(name), WEBHOOK_PRIVATE_TARGETS="true")
            stack.wait_until_ready()
            until(lambda: flower_workers(stack.flower_url), "Flower sees the worker")
            yield whole
        finally:
            print(stack.tail(), *whole.denials(), sep="\n")
            whole.close()
            stack.redis.close()
            stack.stop()


def test_everybody_can_do_its_work(guarded: Guarded, tmp_path: Path) -> None:
    stack, receiver = guarded.stack, Receiver(tmp_path)
    receiver.start()
    try:
        task = stack.submit("a fox and its guards", webhook_url=receiver.url)
        done = stack.finished(task)
        until(lambda: receiver.seen(task), "the webhook")
        stuck = stack.submit("cancelled by its owner sim:never_ready", "flux-schnell")
        stack_knows(guarded, stuck)
        stopped = requests.delete(
            f"{stack.url}/v1/tasks/{stuck['id']}",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=30,
        )
        lost = stack.submit("its worker dies sim:never_ready@poll*9")
        stack_knows(guarded, lost)
        stack.kill("worker")
        stack.start("worker.2", REDIS_URL=guarded.users.url("worker"))
        after = stack.finished(lost)
        metrics = stack.get("/metrics").text
        until(lambda: len(flower_workers(stack.flower_url)) == 2, "Flower sees the new worker")
    finally:
        receiver.stop()

    assert done["status"] == "completed"
    assert stopped.status_code in (200, 202), stopped.text
    assert stack.finished(stuck)["status"] == "failed"
    assert after["status"] == "completed"
    assert 'darkroom_tasks_accepted_total{model="flux-pro"} 2.0' in metrics
    assert guarded.denials() == []


def stack_knows(guarded: Guarded, task: dict[str, Any]) -> None:
    record = f"darkroom:task:{task['id']}"
    client = guarded.user("admin")
    until(lambda: '"state":"accepted"' in str(client.hgetall(record)), "a job")


@pytest.mark.parametrize("user", USERS)
def test_nobody_rules_the_server(guarded: Guarded, user: str) -> None:
    client = guarded.user(user)
    for command in (
        *("FLUSHALL", "CONFIG GET requirepass", "ACL LIST", "CLIENT LIST", "MODULE LIST"),
        *("KEYS *", "SCAN 0", "RANDOMKEY", "MONITOR", "SHUTDOWN NOSAVE"),
        *("EVAL return(1) 0", "FUNCTION FLUSH", "REPLICAOF NO ONE", "SWAPDB 0 1", "GET other"),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command.split())


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("worker", "HGETALL darkroom:keys"),
        ("beat", "HGETALL darkroom:keys"),
        ("beat", "HGETALL darkroom:webhook_secrets"),
        ("beat", "GET darkroom:signing_secret"),
        ("flower", "HGETALL darkroom:task:imgtask_x"),
        ("flower", "LPUSH images.bfl x"),
        ("flower", "SUBSCRIBE darkroom:ended"),
        ("web", "LPUSH turns.x x"),
        ("web", "PUBLISH /0.celery.pidbox x"),
        ("beat", "PUBLISH /0.celery.pidbox x"),
        ("monitor", "GET darkroom:signing_secret"),
        ("health", "INFO"),
    ],
)
def test_nobody_has_what_is_anothers(guarded: Guarded, user: str, command: str) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        guarded.user(user).execute_command(*command.split())


def test_no_record_was_forgotten() -> None:
    """A key that is new in the functions has to be given to those whose functions touch it."""
    lua = "\n".join(path.read_text() for path in (ROOT / "common" / "lua").glob("*.lua"))
    names = set(re.findall(r"ours\('([^']+)'", lua)) - {"ended", "cancels", "moved"}  # channels
    text = (ROOT / "ops" / "redis" / "users.acl").read_text()
    given = {
        user: {name.rstrip("*") for name in re.findall(r"~darkroom:(\S+)", line)}
        for user in ("worker", "beat")
        for line in re.findall(rf"^user {user} .*$", text, re.MULTILINE)
    }
    callers = {"once:", "owner:", "requests:"}

    assert given["worker"] == names - callers - {"history"} | {"signing_secret"}
    assert given["beat"] == names - callers - {"webhook_secrets"}
