"""A front end within this process, whose work is counted: the program of `test_work.py`.

Prints the numbers of functions called for one submit and for polls, and the blocks of memory
that so many more of them leave behind.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable

from api.app import create_app
from common.connection import connect
from common.logging import configure
from common.settings import load_settings
from common.store import TaskStore
from tests.common.tasks import RESULT, claim

_TIMES = 300
_BODY = {"model": "dall-e-2", "prompt": "a red apple", "size": "1024x1024"}


def main() -> None:
    settings = load_settings()
    configure(settings.log_level, settings.log_format)
    client = create_app(settings).test_client()
    key = settings.bootstrap_api_key.get_secret_value()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"

    def submit() -> str:
        answer = client.post("/v1/images/generations", json=_BODY)
        assert answer.status_code == 202, answer.text
        return str(answer.json["id"])

    def poll(task_id: str, status: int = 200, **headers: str) -> str:
        answer = client.get(f"/v1/tasks/{task_id}", headers=headers)
        assert answer.status_code == status, answer.text
        return answer.headers["ETag"]

    pending, ended = submit(), submit()
    tag = poll(pending)
    store = TaskStore.of(connect(settings.shared_redis_url), settings)
    holder = claim(store, ended)
    assert store.complete(ended, holder.task.generation, RESULT)

    def nothing() -> None:
        assert client.get("/healthz").status_code == 200

    counts = {}
    for name, action in (
        ("submit", submit),
        ("poll", lambda: poll(pending)),
        ("poll, completed", lambda: poll(ended)),
        ("poll, unchanged", lambda: poll(pending, 304, **{"If-None-Match": tag})),
        ("nothing", nothing),
    ):
        counts[name] = {"calls": _calls(action), "blocks": _blocks_kept(action)}
    print(json.dumps(counts))


def _calls(action: Callable[[], object]) -> int:
    """Calls of functions, Python's own and built-in ones, when all that is kept is kept."""
    action()
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def _blocks_kept(action: Callable[[], object]) -> int:
    for _ in range(_TIMES):
        action()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(_TIMES):
        action()
    gc.collect()
    return sys.getallocatedblocks() - before


if __name__ == "__main__":
    main()
