"""The front end as it runs: gunicorn over a real Valkey. There is no worker; tests are the worker.

`stack` is shared by all tests and never disturbed; `fragile` is for tests that break Redis.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from PIL import Image

from api.waiting import Waiting
from common.connection import connect
from common.keys import KeyStore
from common.settings import Settings
from common.storage import ImageStorage
from common.store import ENDED_CHANNEL, MOVED_CHANNEL, TaskStore
from common.task import Claim, Failure, Result, StoredImage
from tests.processes import free_port, until
from tests.valkey import Valkey, close

ROOT = Path(__file__).parents[2]


def picture(
    width: int = 64, height: int = 48, kind: str = "png", colour: tuple[int, int, int] = (200, 0, 0)
) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, kind)
    return out.getvalue()


@dataclass
class Stack:
    """A running front end with the stores it shares with it."""

    valkey: Valkey
    process: subprocess.Popen[bytes]
    base: str
    log: Path
    data_dir: Path
    redis: redis.Redis
    store: TaskStore
    keys: KeyStore
    storage: ImageStorage
    key: str
    http: requests.Session

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.http.get(self.base + path, timeout=90, **options)

    def post(self, body: Any, **options: Any) -> requests.Response:
        return self.http.post(
            f"{self.base}/v1/images/generations", json=body, timeout=150, **options
        )

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.http.request(method, self.base + path, timeout=90, **options)

    def submit(self, **fields: Any) -> str:
        """Submit a generation; its task id."""
        answer = self.post({"model": "flux-pro", "prompt": "a red apple"} | fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def claim(self, task_id: str) -> Claim:
        claim = self.store.claim(task_id, "tests")
        assert claim is not None
        return claim

    def complete(
        self, task_id: str, *pictures: bytes, claim: Claim | None = None, **details: Any
    ) -> None:
        """Do what a worker does for a task that goes well."""
        claim = claim or self.claim(task_id)
        images = []
        for index, data in enumerate(pictures or (picture(),)):
            with Image.open(io.BytesIO(data)) as image:
                kind, (width, height) = str(image.format).lower(), image.size
            name = f"{task_id}/{index}.{kind}"
            self.storage.put(name, data)
            images.append(
                StoredImage(name, kind, width, height, len(data), "0" * 64)  # type: ignore[arg-type]
            )
        details = {"provider": "bfl", "provider_model": "flux-pro-1.1"} | details
        result = Result(images=tuple(images), **details)
        assert self.store.complete(task_id, claim.task.generation, result)

    def fail(self, task_id: str, failure: Failure) -> None:
        claim = self.claim(task_id)
        assert self.store.fail(task_id, claim.task.generation, failure)

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    def commands(self) -> dict[str, int]:
        """How often Valkey has run each command that a client sent."""
        stats: Any = self.redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}


def newest(stack: Stack) -> Callable[[], str | None]:
    """Gives the id of the task that is submitted after this call, once it is there."""
    (key,) = [key for key in stack.keys.list() if key.name == "bootstrap"]
    index = f"darkroom:owner:{key.id}"
    before = set(stack.redis.zrange(index, 0, -1))

    def found() -> str | None:
        new = set(stack.redis.zrange(index, 0, -1)) - before
        return str(new.pop()) if new else None

    return found


def in_background(action: Callable[[str], Any], stack: Stack) -> threading.Thread:
    """Do `action` to the next task, as a worker would."""
    found = newest(stack)
    thread = threading.Thread(target=lambda: action(until(found)))
    thread.start()
    return thread


_SETTINGS = {name.upper() for name in Settings.model_fields}


def environment(**settings: object) -> dict[str, str]:
    """Ours, without anything that a developer has set for Darkroom."""
    inherited = {k: v for k, v in os.environ.items() if k not in _SETTINGS}
    return inherited | {"PYTHONPATH": str(ROOT)} | {k: str(v) for k, v in settings.items()}


@contextlib.contextmanager
def running(folder: Path, **settings: object) -> Iterator[Stack]:
    valkey = Valkey()
    port = free_port()
    key = "sk-test-0123456789abcdef"
    env = environment(
        REDIS_URL=valkey.url,
        PORT=port,
        DATA_DIR=folder / "data",
        BOOTSTRAP_API_KEY=key,
        LOG_FORMAT="json",
        **settings,
    )
    log = folder / "log"
    command = [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "ops/gunicorn.conf.py")]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "api.wsgi:app"], cwd=folder, env=env, stdout=out, stderr=out
        )
    client = connect(valkey.url)
    try:
        with requests.Session() as http:
            http.trust_env = False
            stack = Stack(
                valkey=valkey,
                process=process,
                base=f"http://127.0.0.1:{port}",
                log=log,
                data_dir=folder / "data",
                redis=client,
                store=TaskStore(client),
                keys=KeyStore(client),
                storage=ImageStorage.open((folder / "data" / "images").as_uri()),
                key=key,
                http=http,
            )

            def up() -> bool:
                assert process.poll() is None, log.read_text()
                return stack.get("/healthz").ok

            until(up)
            http.headers["Authorization"] = f"Bearer {key}"
            stack.get("/v1/tasks/none")  # the first use of the key registers it
            yield stack
    finally:
        with contextlib.suppress(ProcessLookupError):
            valkey.thaw()
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            client.close()
            client.connection_pool.disconnect()
            valkey.stop()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """OpenAI and Black Forest Labs are configured: dall-e-3, dall-e-2 and flux-pro can be used."""
    folder = tmp_path_factory.mktemp("api")
    with running(folder, OPENAI_API_KEY="none", BFL_API_KEY="none") as stack:
        yield stack


@pytest.fixture(autouse=True)
def _no_pace(request: pytest.FixtureRequest) -> None:
    """There is no worker here, so what other tests ended says nothing of how long a task waits."""
    if "stack" in request.fixturenames:
        stack: Stack = request.getfixturevalue("stack")
        stack.redis.delete("darkroom:pace")


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose Valkey may be frozen and killed; it serves from the sandbox."""
    with running(tmp_path_factory.mktemp("fragile"), SANDBOX="on") as stack:
        yield stack


@contextlib.contextmanager
def open_waiting(url: str, **options: Any) -> Iterator[Waiting]:
    """What holds requests, without a front end around it."""
    client = connect(url)
    waiting = Waiting(client, **options)
    try:
        yield waiting
    finally:
        waiting.release()
        names = (ENDED_CHANNEL, MOVED_CHANNEL)  # of the threads that listen
        until(lambda: not any(thread.name in names for thread in threading.enumerate()))
        close(client)


@pytest.fixture
def waiting(valkey: Valkey) -> Iterator[Waiting]:
    with open_waiting(valkey.url) as waiting:
        yield waiting
