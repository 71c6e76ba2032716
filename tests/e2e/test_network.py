"""The Procfile's lines on four hosts of a network, and the cable of one of them pulled out.

The hosts are network namespaces on a bridge in a fifth; the machine's own network stays as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.processes import until
from tests.stack import LEASE, Stack

HOSTS = {"front": "10.77.0.1", "one": "10.77.0.2", "two": "10.77.0.3", "store": "10.77.0.4"}
WORKERS = ("one", "two")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Network:
    """Hosts by their names in HOSTS, each with one cable to the same switch."""

    def __init__(self) -> None:
        self._prefix = f"darkroom-{os.getpid()}"

    def build(self) -> None:
        switch = self.name("switch")
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for host, address in HOSTS.items():
            name = self.name(host)
            ip("netns", "add", name)
            ip("-n", switch, "link", "add", host, "type", "veth", "peer", "eth0", "netns", name)
            ip("-n", switch, "link", "set", host, "master", "bridge", "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                ip("-n", name, "link", "set", link, "up")

    def name(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def on(self, host: str, command: list[str]) -> list[str]:
        return ["ip", "netns", "exec", self.name(host), *command]

    def cable(self, host: str, state: str) -> None:
        """`down` or `up`."""
        ip("-n", self.name("switch"), "link", "set", host, state)

    def enter(self, host: str) -> None:
        """From here on, this thread and what it starts is on that host."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/run/netns", self.name(host)).open() as namespace:
            if libc.setns(namespace.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")

    def remove(self) -> None:
        for host in (*HOSTS, "switch"):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "delete", self.name(host))


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can make network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip`, of the package iproute2")
    network = Network()
    try:
        try:
            network.build()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"cannot make network namespaces here: {error.stderr.strip()}")
        yield network
    finally:
        network.remove()


class Hosts(Stack):
    """A host for front end and beat, one for each worker, one for Redis and the provider."""

    def __init__(self, network: Network, directory: Path) -> None:
        super().__init__(directory, HOST=HOSTS["front"], SANDBOX_HOST=HOSTS["store"])
        far = HOSTS["store"]
        here = self._environment
        self.redis.close()
        self.url = self.url.replace("127.0.0.1", HOSTS["front"])
        self.redis_url = here["REDIS_URL"] = self.redis_url.replace("127.0.0.1", far)
        self.sandbox_url = here["SANDBOX_URL"] = self.sandbox_url.replace("127.0.0.1", far)
        self.redis = type(self.redis).from_url(self.redis_url, decode_responses=True)
        valkey = self.commands["valkey"]
        valkey[valkey.index("127.0.0.1")] = far
        valkey += ["--protected-mode", "no"]
        worker = self.commands["worker"]
        for name, host, command in (
            *(("web", "front", self.commands["web"]), ("beat", "front", self.commands["beat"])),
            *(("one", "one", worker), ("two", "two", worker)),
            *(("valkey", "store", valkey), ("sandbox", "store", self.commands["sandbox"])),
        ):
            self.commands[name] = network.on(host, command)

    def holder(self, task: dict[str, Any]) -> str:
        """The name of the worker that has a task."""
        name: Any = self.redis.hget(f"darkroom:task:{task['id']}", "worker")
        (found,) = [worker for worker in WORKERS if f":{self.pid(worker)}:" in name]
        return found


@pytest.fixture(scope="module")
def client(network: Network) -> Iterator[Callable[..., object]]:
    """Calls something on the host of the front end."""
    with ThreadPoolExecutor(1, initializer=network.enter, initargs=("front",)) as thread:
        yield lambda what, *arguments: thread.submit(what, *arguments).result(100)


def test_a_worker_that_loses_the_network_is_replaced_and_comes_back(
    network: Network, client: Callable[..., object], tmp_path: Path
) -> None:
    def story() -> None:
        stack = Hosts(network, tmp_path)
        try:
            stack.start("valkey", "sandbox", "web", "beat", *WORKERS)
            stack.wait_until_ready()
            for worker in WORKERS:
                log = tmp_path / f"{worker}.log"
                until(lambda log=log: " ready." in log.read_text(), f"worker {worker}")
            task = stack.submit("whose worker is cut off sim:never_ready@poll*9")
            stack.accepted(task)
            holder = stack.holder(task)

            network.cable(holder, "down")
            cut_off = stack.finished(task, LEASE + 20)
            picture = requests.get(cut_off["data"][0]["url"], timeout=10)

            network.cable(holder, "up")
            (other,) = set(WORKERS) - {holder}
            stack.kill(other)
            later = stack.finished(stack.submit("by the one that was cut off"), 60)
            bought = stack.purchases("whose worker is cut off")
            alive = stack.alive()
        finally:
            print(stack.tail())
            stack.redis.close()
            stack.stop()

        assert cut_off["status"] == later["status"] == "completed"
        assert picture.headers["Content-Type"].startswith("image/")
        assert "worker_lost" in [entry["event"] for entry in cut_off["timeline"]]
        assert len(bought) == 1
        assert holder in alive

    client(story)
