"""What is compared: how each is started, asked and polled. One front end, one worker process."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops.bench.load import get, post
from ops.bench.rig import KEY, Rig, Running
from ops.launcher.ports import is_free, pick_free_port

__all__ = ["LiteLLM", "Peer", "System", "Textbook", "Told", "systems"]

_APPS = Path(__file__).resolve().parent / "apps"
_PATIENCE = 300  # seconds; packages that were just installed are compiled at the first start
_BODY = {"model": "dall-e-2", "prompt": "a red apple on a wooden table", "size": "1024x1024"}


@dataclass(frozen=True)
class Told:
    """What a caller is told of a task, in our words. `why` is a code, where it failed."""

    id: str
    status: str
    why: str = ""


@dataclass(frozen=True)
class System:
    """What a user can start. This class is the product.

    `rate`: tasks a second that it is given where the time that it adds is measured. `impatience`
    are settings that make it look for lost workers within seconds, as far as it can be told to.
    """

    name: str = "Darkroom"
    slots: str = "100 threads"
    rate: float = 20.0
    impatience: dict[str, str] = field(
        default_factory=lambda: {"LEASE_SECONDS": "5", "DOUBT_SECONDS": "5"}
    )

    def start_web(self, bench: Rig) -> Running:
        return bench.web()

    def start_worker(self, bench: Rig, *, impatient: bool = False) -> Running:
        settings: dict[str, Any] = self.impatience if impatient else {}
        return bench.worker(**settings)

    def start_others(self, bench: Rig) -> list[Running]:
        """What else it consists of."""
        return [bench.start("beat", bench.lines["beat"])]

    def submit(self) -> str:
        return post("/v1/images/generations", _BODY, Authorization=f"Bearer {KEY}")

    def poll(self, task_id: str) -> str:
        return get(f"/v1/tasks/{task_id}", Authorization=f"Bearer {KEY}")

    def told(self, answer: str) -> Told:
        body = json.loads(answer.partition("\r\n\r\n")[2])
        return Told(body["id"], body["status"], body.get("error_detail", {}).get("code", ""))


@dataclass(frozen=True)
class Textbook(System):
    """Flask, `apply_async` and the Redis result backend: `ops/bench/textbook.py`."""

    name: str = "textbook Celery"
    impatience: dict[str, str] = field(default_factory=dict)

    def start_web(self, bench: Rig) -> Running:
        return bench.textbook_web()

    def start_worker(self, bench: Rig, *, impatient: bool = False) -> Running:
        (bench.directory / "textbook-worker.log").unlink(missing_ok=True)
        return bench.textbook_worker()

    def start_others(self, bench: Rig) -> list[Running]:
        return []

    def submit(self) -> str:
        return post("/images", _BODY)

    def poll(self, task_id: str) -> str:
        return get(f"/images/{task_id}")

    def told(self, answer: str) -> Told:
        told = super().told(answer)
        words = {"SUCCESS": "completed", "PENDING": "pending", "FAILURE": "failed"}
        return Told(told.id, words.get(told.status, told.status))


@dataclass(frozen=True)
class Peer(Textbook):
    """Something with an environment of its own, below `cache`, and an application in `apps/`."""

    package: str = ""
    cache: Path = Path()
    database: int = 2
    web: str = (
        "gunicorn --worker-class gevent --workers 1 --worker-connections 8000 --keep-alive 2 "
        "--no-control-socket --bind 127.0.0.1:PORT PACKAGE_app:app"
    )
    worker: str = ""
    hurry: str = ""  # further words for a worker that is to be impatient
    ready: str = ""  # what a worker says when it is
    impatience: dict[str, str] = field(default_factory=lambda: {"PEER_IMPATIENT": "1"})

    def start_web(self, bench: Rig) -> Running:
        port = pick_free_port()
        web = self._start(bench, "web", self.web.replace("PORT", str(port)), port)
        bench.up(web, lambda: not is_free("127.0.0.1", port), _PATIENCE)
        return web

    def start_worker(self, bench: Rig, *, impatient: bool = False) -> Running:
        log = bench.directory / f"{self.package}-worker.log"
        log.unlink(missing_ok=True)
        settings = self.impatience if impatient else {}
        line = f"{self.worker} {self.hurry if impatient else ''}"
        worker = self._start(bench, "worker", line, 0, **settings)
        bench.up(worker, lambda: self.ready in log.read_text(), _PATIENCE)
        return worker

    def _start(self, bench: Rig, name: str, line: str, port: int, **settings: str) -> Running:
        scripts = self.cache.resolve() / self.package / "bin"
        images = bench.directory / "images"  # which the rig takes away
        images.mkdir(exist_ok=True)
        redis_url = f"{bench.redis_url[:-1]}{self.database}"
        words = line.replace("PACKAGE", self.package).replace("REDIS_URL", redis_url).split()
        return bench.start(
            f"{self.package}-{name}",
            [str(scripts / words[0]), *words[1:]],
            port=port,
            settings={
                "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(_APPS),
                "BENCH_REDIS_URL": redis_url,
                "BENCH_IMAGES": str(images),
                **settings,
            },
        )


@dataclass(frozen=True)
class LiteLLM(Peer):
    """A gateway without a queue: whoever asks holds the connection until the picture is there."""

    slots: str = "as many as ask"
    web: str = f"litellm --config {_APPS}/litellm.yaml --host 127.0.0.1 --port PORT --num_workers 1"

    def submit(self) -> str:
        return post("/v1/images/generations", _BODY, Authorization=f"Bearer {KEY}")


def systems(cache: Path) -> list[System]:
    """All that are compared, the product first; their environments are below `cache`."""
    return [
        System(),
        Textbook(),
        Peer(
            name="dramatiq",
            package="dramatiq",
            database=2,
            cache=cache,
            worker="dramatiq --processes 1 --threads 100 PACKAGE_app",
            ready="Worker process is ready for action",
        ),
        Peer(
            name="taskiq",
            package="taskiq",
            database=3,
            slots="100 coroutines",
            cache=cache,
            web="uvicorn --workers 1 --host 127.0.0.1 --port PORT --no-access-log PACKAGE_app:app",
            worker="taskiq worker --workers 1 --max-async-tasks 100 PACKAGE_app:broker",
            ready="Listening started",
        ),
        Peer(
            name="rq",
            package="rq",
            database=4,
            slots="1, a process each",
            rate=2.0,
            cache=cache,
            worker="rq worker --url REDIS_URL",
            hurry="--maintenance-interval 10 --job-monitoring-interval 1",
            ready="Listening on",
        ),
        LiteLLM(name="LiteLLM proxy", package="litellm", cache=cache),
    ]
