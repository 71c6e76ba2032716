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
from common.logging import configure
from common.settings import load_settings

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

    task_id = submit()

    def poll() -> None:
        assert client.get(f"/v1/tasks/{task_id}").status_code == 200

    tag = client.get(f"/v1/tasks/{task_id}").headers["ETag"]

    def unchanged() -> None:
        answer = client.get(f"/v1/tasks/{task_id}", headers={"If-None-Match": tag})
        assert answer.status_code == 304

    def nothing() -> None:
        assert client.get("/healthz").status_code == 200

    counts = {}
    for name, action in (
        ("submit", submit),
        ("poll", poll),
        ("unchanged", unchanged),
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
