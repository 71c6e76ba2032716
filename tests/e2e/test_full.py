"""What fills up, and is emptied again: nothing accepted is lost, no process has to be restarted."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.processes import until
from tests.stack import Stack, running

may_mount = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a disk to fill"
)


class Disk:
    """A disk of a few megabytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ballast = path / "ballast"

    def fill(self) -> None:
        with contextlib.suppress(OSError), self.ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"." * 4096)

    def empty(self) -> None:
        self.ballast.unlink()

    def lock(self) -> None:
        _run("mount", "-o", "remount,ro", str(self.path))

    def unlock(self) -> None:
        _run("mount", "-o", "remount,rw", str(self.path))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


@contextlib.contextmanager
def disk(path: Path, megabytes: int) -> Iterator[Disk]:
    path.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path))
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="module", params=["threads", "gevent"])
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def stack(pool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with few slots, so that some tasks wait in the queue while others run."""
    directory = tmp_path_factory.mktemp("full")
    with running(directory, WORKER_POOL=pool, WORKER_CONCURRENCY="3") as whole:
        whole.finished(whole.submit("the first of all"))
        yield whole


def accepted(stack: Stack) -> bool:
    return stack.post({"model": "flux-pro", "prompt": "room again"}).status_code == 202


def missing(stack: Stack) -> list[str]:
    return list(stack.get("/readyz").json()["missing"])


@contextlib.contextmanager
def ballast(stack: Stack) -> Iterator[None]:
    """Redis holds a tenth more than it may; when that is gone it holds next to nothing."""
    names = [f"ballast:{number}" for number in range(40)]
    for name in names:
        stack.redis.set(name, b"." * 500_000)
    stack.redis.config_set("maxmemory", int(stack.redis.info("memory")["used_memory"] / 1.1))
    try:
        yield
    finally:
        stack.redis.delete(*names)


def test_a_full_redis_takes_nothing_new_and_finishes_what_it_has(stack: Stack) -> None:
    processes = stack.alive()
    tasks = [stack.submit(f"while it fills {n} sim:never_ready@poll*3") for n in range(9)]
    until(lambda: stack.purchases("while it fills"), "the first were bought")

    with ballast(stack):
        refused = stack.post({"model": "flux-pro", "prompt": "too much"})
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            stack.redis.set("anything", "more")
        ends = [stack.finished(task) for task in tasks]
        assert missing(stack) == ["memory"]

    assert refused.status_code == 503
    assert "Retry-After" in refused.headers
    assert {end["status"] for end in ends} == {"completed"}
    assert len(stack.purchases("while it fills")) == len(tasks)
    until(lambda: accepted(stack), "accepted again")
    until(lambda: missing(stack) == [], "ready")
    assert stack.finished(stack.submit("afterwards"))["status"] == "completed"
    assert stack.alive() == processes
    stack.redis.config_set("maxmemory", 0)


@may_mount
@pytest.mark.parametrize(("spoil", "mend"), [(Disk.fill, Disk.empty), (Disk.lock, Disk.unlock)])
def test_a_directory_of_images_that_takes_nothing_delays_and_loses_nothing(
    pool: str, tmp_path: Path, spoil: Callable[[Disk], None], mend: Callable[[Disk], None]
) -> None:
    with (
        disk(tmp_path / "images", 8) as images,
        running(
            tmp_path,
            STORAGE_URL=images.path.as_uri(),
            DISK_RESERVE_MB="1",
            WORKER_POOL=pool,
            WORKER_CONCURRENCY="3",
        ) as stack,
    ):
        processes = stack.alive()
        tasks = [
            *[stack.submit(f"no room {n} sim:slow:1", "dall-e-2") for n in range(3)],
            *[stack.submit(f"no room {n} sim:never_ready@poll*3") for n in range(3, 6)],
        ]
        until(lambda: stack.purchases("no room"), "the first were bought")
        spoil(images)
        until(lambda: not accepted(stack), "refused")
        refused = stack.post({"model": "flux-pro", "prompt": "too much"})
        until(lambda: (log(stack)).count("waiting for the store") >= 3, "workers wait")
        meanwhile = {stack.poll(task)["status"] for task in tasks}
        assert missing(stack) == ["disk"]

        mend(images)

        assert {stack.finished(task)["status"] for task in tasks} == {"completed"}
        assert len(stack.purchases("no room")) == len(tasks)
        assert "failed" not in meanwhile
        assert "processing" in meanwhile
        assert refused.json()["error"]["code"] == "service_unavailable"
        assert "Retry-After" in refused.headers
        until(lambda: accepted(stack), "accepted again")
        assert stack.alive() == processes


def log(stack: Stack) -> str:
    return (stack.directory / "worker.log").read_text()


@may_mount
def test_a_disk_of_redis_that_is_full_delays_and_loses_nothing(pool: str, tmp_path: Path) -> None:
    """Redis refuses every write then, also those of the queues."""
    with disk(tmp_path / "valkey", 8) as its, stack_on(its, tmp_path, pool) as stack:
        processes = stack.alive()
        tasks = [stack.submit(f"no log {n} sim:never_ready@poll*3") for n in range(6)]
        until(lambda: stack.purchases("no log"), "the first were bought")
        its.fill()
        until(lambda: not accepted(stack), "refused")
        refused = stack.post({"model": "flux-pro", "prompt": "too much"})
        known = stack.poll(tasks[0])["status"]
        until(lambda: "waiting for the store" in log(stack), "workers wait")

        its.empty()

        assert {stack.finished(task)["status"] for task in tasks} == {"completed"}
        assert len(stack.purchases("no log")) == len(tasks)
        assert refused.json()["error"]["code"] == "service_unavailable"
        assert "Retry-After" in refused.headers
        assert known in ("pending", "processing")
        until(lambda: accepted(stack), "accepted again")
        assert stack.alive() == processes


@contextlib.contextmanager
def stack_on(its: Disk, directory: Path, pool: str) -> Iterator[Stack]:
    """A stack whose Valkey keeps its log on the disk."""
    stack = Stack(directory, WORKER_POOL=pool, WORKER_CONCURRENCY="3")
    valkey = stack.commands["valkey"]
    valkey[valkey.index("--dir") + 1] = str(its.path)
    try:
        stack.start_all()
        yield stack
    finally:
        print(stack.tail())
        stack.redis.close()
        stack.stop()
