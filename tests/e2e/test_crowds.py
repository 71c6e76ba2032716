"""More work than can be done at once: everybody gets a turn, and what was accepted is finished."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from common.connection import connect
from common.keys import KeyStore
from tests.processes import until
from tests.stack import KEY, running

SLOTS = 8


def test_a_crowd_of_one_does_not_keep_others_waiting(tmp_path: Path) -> None:
    """One caller's first task waits for the tasks that run already, and not for those that another
    has waiting."""
    with running(tmp_path, WORKER_CONCURRENCY=str(SLOTS)) as stack:
        with connect(stack.redis_url) as client:
            _, other = KeyStore(client).create("other")
        crowd = [stack.submit(f"crowd {n} sim:slow:1", "dall-e-2") for n in range(50)]
        until(lambda: stack.redis.zcard("darkroom:called:images.openai") == 4, "all slots are busy")
        mine = requests.post(
            f"{stack.url}/v1/images/generations",
            json={"model": "dall-e-2", "prompt": "alone sim:slow:1"},
            headers={"Authorization": f"Bearer {other}"},
            timeout=10,
        ).json()

        def when(task: dict[str, Any], field: str) -> int | None:
            found = stack.redis.hget(f"darkroom:task:{task['id']}", field)
            return int(str(found)) if found else None

        began = until(lambda: when(mine, "started"), "begun")
        submitted = when(mine, "created")
        assert submitted is not None
        starts = [when(task, "started") for task in crowd]
        before_it = sum(at is not None and submitted <= at < began for at in starts)

        assert None in starts  # the crowd is not through
        # No more than the four that were announced, and those claimed while it was on its way.
        assert before_it <= SLOTS


def test_ten_times_what_can_be_done_is_partly_refused_and_never_failed(tmp_path: Path) -> None:
    """Every accepted task is finished; the others are told when to come again."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    settings = {"WORKER_CONCURRENCY": "4", "CATALOG_FILE": str(catalog)}
    with running(tmp_path, **settings) as stack:
        # What its pace is has to be known: by ten tasks that ended while others waited.
        known = [stack.submit(f"{n} sim:slow:0.5", "slow", size="1024x1024") for n in range(18)]
        assert [stack.finished(task)["status"] for task in known] == ["completed"] * len(known)

        answers: list[requests.Response] = []
        until_ = time.monotonic() + 8

        def offer(number: int) -> None:
            session = requests.Session()
            while time.monotonic() < until_:
                answers.append(
                    session.post(
                        f"{stack.url}/v1/images/generations",
                        json={"model": "slow", "prompt": f"{number} sim:slow:0.5"},
                        headers={"Authorization": f"Bearer {KEY}"},
                        timeout=10,
                    )
                )
                time.sleep(0.04)  # the pace of the load, not a wait for something

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(offer, range(4)))
        by_status = Counter(answer.status_code for answer in answers)
        accepted = [answer.json() for answer in answers if answer.status_code == 202]
        ends: list[dict[str, Any]] = [stack.finished(task, 60) for task in accepted]

        assert by_status.keys() == {202, 429}
        assert by_status[429] > by_status[202]
        assert Counter(end["status"] for end in ends) == {"completed": len(accepted)}
        for refused in (a for a in answers if a.status_code == 429):
            error = refused.json()["error"]
            assert error["code"] == "queue_full"
            assert 1 <= error["retry_after"] == int(refused.headers["Retry-After"]) <= 60


CATALOG = """
[slow]
owned_by = "openai"
mode = "inline"
description = "Takes its time."
sizes = ["1024x1024"]
default_size = "1024x1024"
max_n = 1
max_prompt_characters = 1000
typical_seconds = 1
deadline_seconds = 20
created = 1700000000

[[slow.routes]]
provider = "openai"
model = "gpt-image-2"
"""
