"""What Flower shows of a generation, and what it must not show."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image, PngImagePlugin

from tests.e2e.conftest import flower_workers
from tests.processes import free_port, until
from tests.stack import KEY, ROOT, Stack, running


@pytest.fixture(scope="module")
def flower(whole_stack: Stack) -> Iterator[str]:
    whole_stack.start("flower")
    # It answers before it listens to events; once it knows the worker, it listens.
    until(lambda: flower_workers(whole_stack.flower_url), "Flower sees the worker")
    yield whole_stack.flower_url
    whole_stack.kill("flower")


def rows(flower: str, task_id: str, auth: tuple[str, str] | None = None) -> list[dict[str, Any]]:
    """What the page's own table asks for."""
    query = {"draw": 1, "start": 0, "length": 100, "search[value]": "", "order[0][dir]": "asc"}
    query |= {"order[0][column]": 0, "columns[0][data]": "name"}
    answer = requests.get(f"{flower}/tasks/datatable", params=query, auth=auth, timeout=10)
    return [row for row in answer.json()["data"] if row["uuid"] == task_id]


@pytest.mark.parametrize(
    ("prompt", "state"),
    [("a fox MARKEDPROMPT", "SUCCESS"), ("a fox MARKEDPROMPT sim:moderated", "FAILURE")],
)
def test_a_generation_is_one_row_without_its_prompt(
    stack: Stack, flower: str, prompt: str, state: str
) -> None:
    task = stack.submit(prompt)
    stack.finished(task)

    until(lambda: [r for r in rows(flower, task["id"]) if r["state"] == state], "seen by Flower")

    (row,) = rows(flower, task["id"])
    assert row["args"] == "flux-pro n=1 512x512"
    if state == "SUCCESS":
        assert row["runtime"] > 0
    detail = requests.get(f"{flower}/task/{task['id']}", timeout=10).text
    assert "MARKEDPROMPT" not in str(row) + detail


def test_flower_sees_the_worker(flower: str) -> None:
    (worker,) = flower_workers(flower)

    assert worker["status"] is True


def test_nothing_of_an_upload_is_seen(stack: Stack, flower: str) -> None:
    data = io.BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "MARKEDCONTENT")
    Image.new("RGB", (64, 64)).save(data, "PNG", pnginfo=text)
    answer = requests.post(
        f"{stack.url}/v1/images/edits",
        data={"prompt": "a fox MARKEDPROMPT"},
        files={"image": ("MARKEDNAME.png", data.getvalue())},
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=30,
    )
    task = stack.finished(answer.json())
    assert task["status"] == "completed", task

    until(lambda: [r for r in rows(flower, task["id"]) if r["state"] == "SUCCESS"], "in Flower")

    (row,) = rows(flower, task["id"])
    detail = requests.get(f"{flower}/task/{task['id']}", timeout=10).text
    logs = "".join(log.read_text() for log in stack.directory.glob("*.log"))
    assert "MARKED" not in str(row) + detail + logs


AUTH = ("operator", "an:operator's-password")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose Flower asks who is there, and which tests may kill."""
    auth = ":".join(AUTH)
    with running(tmp_path_factory.mktemp("guarded"), FLOWER_BASIC_AUTH=auth) as stack:
        stack.start("flower")
        until(lambda: flower_workers(stack.flower_url, AUTH), "Flower sees the worker")
        yield stack


def revoke(flower: str, task_id: str, auth: tuple[str, str] | None = None) -> int:
    answer = requests.post(
        f"{flower}/api/task/revoke/{task_id}?terminate=true", auth=auth, timeout=10
    )
    return answer.status_code


@pytest.mark.parametrize("path", ["/", "/tasks", "/workers", "/api/workers", "/api/tasks"])
def test_with_a_password_nobody_else_sees_anything(guarded: Stack, path: str) -> None:
    url = guarded.flower_url + path

    assert requests.get(url, timeout=10).status_code == 401
    assert requests.get(url, auth=(AUTH[0], "wrong"), timeout=10).status_code == 401
    assert requests.get(url, auth=AUTH, timeout=10).status_code == 200
    assert AUTH[1] not in " ".join(Path(f"/proc/{guarded.pid('flower')}/cmdline").read_text())


def test_whoever_may_see_may_only_see(guarded: Stack) -> None:
    task = guarded.submit("a fox")

    assert revoke(guarded.flower_url, task["id"], AUTH) == 403
    (worker,) = flower_workers(guarded.flower_url, AUTH)
    name = worker["hostname"]
    answer = requests.post(
        f"{guarded.flower_url}/api/worker/shutdown/{name}", auth=AUTH, timeout=10
    )

    assert answer.status_code == 403
    assert guarded.finished(task)["status"] == "completed"
    assert "worker" in guarded.alive()


def test_what_was_seen_is_there_after_a_restart(guarded: Stack) -> None:
    task = guarded.submit("a fox")
    guarded.finished(task)
    until(
        lambda: [r for r in rows(guarded.flower_url, task["id"], AUTH) if r["state"] == "SUCCESS"],
        "seen by Flower",
    )

    guarded.kill("flower", signal.SIGTERM)
    guarded.start("flower")

    (row,) = until(lambda: rows(guarded.flower_url, task["id"], AUTH), "seen again")
    assert row["state"] == "SUCCESS"
    assert row["args"] == "flux-pro n=1 512x512"


def test_whoever_wants_it_may_do_more_than_see(guarded: Stack) -> None:
    guarded.kill("flower", signal.SIGTERM)
    guarded.start("flower", FLOWER_READ_ONLY="false")
    until(lambda: flower_workers(guarded.flower_url, AUTH), "Flower sees the worker")

    assert revoke(guarded.flower_url, "imgtask_of_nobody", AUTH) == 200
    assert revoke(guarded.flower_url, "imgtask_of_nobody") == 401


def test_flower_is_not_opened_to_the_network_without_a_password(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workers", "flower"],
        env=os.environ | {"FLOWER_ADDRESS": "0.0.0.0", "DATA_DIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("FLOWER_ADDRESS: 0.0.0.0 is more than this machine")


def test_the_password_may_stand_in_the_env_file(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"FLOWER_BASIC_AUTH={':'.join(AUTH)}\n")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "workers", "flower"],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "REDIS_URL": stack.redis_url, "FLOWER_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: requests.get(f"{url}/healthcheck", timeout=5).ok, "Flower answers")
        assert requests.get(f"{url}/tasks", timeout=10).status_code == 401
        assert requests.get(f"{url}/tasks", auth=AUTH, timeout=10).status_code == 200
    finally:
        process.terminate()
        process.wait(30)
