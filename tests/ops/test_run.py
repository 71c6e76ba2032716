"""`ops/run` with the whole product: the first picture, the promises of the banner, recovery."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.processes import until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def darkroom(launch_to_share):
    """The whole product, ready."""
    launched = launch_to_share(LEASE_SECONDS="2", WORKERS="2")
    launched.await_text("Ctrl-C stops everything")
    return launched


def banner_curl(running):
    """The curl command of the banner, as one would copy it."""
    return re.search(r"^curl .*?'\{.*?\}'$", running.text, re.DOTALL | re.MULTILINE)[0]


def authorisation(running):
    return {"Authorization": f"Bearer {(running.data_dir / 'api_key').read_text().strip()}"}


def submit(running, prompt):
    """Submit as soon as the front end answers; the address to poll."""
    address = f"{running.address}/v1/images/generations"
    body = {"model": "flux-pro", "prompt": prompt, "size": "512x512"}

    def accepted():
        try:
            answer = requests.post(address, json=body, headers=authorisation(running), timeout=10)
        except requests.ConnectionError:
            return None
        return answer if answer.status_code == 202 else None

    return running.address + running.await_that(accepted, "accepted task").json()["poll_url"]


def submit_and_await_job(running, prompt, sandbox):
    """Submit, and go on when the provider works on it: before that a crash may fail a task."""
    requests.post(f"{sandbox}/_sandbox/faults", json={"delay": 1}, timeout=10).raise_for_status()

    def polls():
        return requests.get(f"{sandbox}/_sandbox/calls", timeout=10).json()["calls"]["bfl"]["polls"]

    before = polls()
    address = submit(running, prompt)
    running.await_that(lambda: polls() > before, "poll of the provider's job")
    return address


def await_completed(running, address):
    def final():
        try:
            task = requests.get(address, headers=authorisation(running), timeout=10).json()
        except (requests.ConnectionError, requests.JSONDecodeError):
            return None
        return task if task.get("status") in ("completed", "failed") else None

    task = running.await_that(final, "final task")
    assert task["status"] == "completed", task
    return task


def size_of_png(path):
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:24])


def await_ready(running):
    running.await_that(
        lambda: answers(f"{running.address}/readyz"), "readiness after the disturbance"
    )


def answers(address):
    try:
        return requests.get(address, timeout=10).ok
    except requests.ConnectionError:
        return False


def test_everything_in_the_banner_answers(darkroom):
    addresses = re.findall(r"^  (?:API|Docs|Flower) +(http\S+)$", darkroom.text, re.MULTILINE)

    assert len(addresses) == 3
    for address in addresses:
        assert answers(address), address


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_curl_line_of_the_banner_makes_a_picture_when_pasted(darkroom):
    pasted = subprocess.run(
        ["bash", "-c", banner_curl(darkroom)], capture_output=True, text=True, timeout=60
    )

    answer = json.loads(pasted.stdout)
    assert "status" not in answer
    picture = requests.get(answer["data"][0]["url"], timeout=10)
    assert picture.headers["Content-Type"].startswith("image/")


def test_prompt_uses_the_system_that_runs(darkroom, launch, tmp_path):
    once = launch(
        *("--prompt", "a red fox", "--size", "768x512", "--n", "2", "--out", "fox.png"),
        DATA_DIR=str(darkroom.data_dir),
    )

    assert once.await_end() == 0, once.text
    assert '"status": "pending"' in once.text
    assert [size_of_png(tmp_path / name) for name in ("fox.png", "fox-2.png")] == [(768, 512)] * 2
    assert re.search(r"start \d.* s, submit .* s, wait .* s, download .* s", once.text)
    assert "sandbox" in once.text
    assert len(darkroom.processes("ops.launcher")) == 1


def test_prompt_does_not_overwrite_a_picture(darkroom, launch, tmp_path):
    (tmp_path / "fox.png").write_text("mine")

    once = launch("--prompt", "a fox", "--out", "fox.png", DATA_DIR=str(darkroom.data_dir))

    assert once.await_end() == 0, once.text
    assert (tmp_path / "fox.png").read_text() == "mine"
    assert size_of_png(tmp_path / "fox-2.png")


def test_prompt_asks_for_no_picture_that_could_not_be_written(launch):
    once = launch("--prompt", "a fox", "--out", "nowhere/fox.png")

    assert once.await_end() == 1
    assert once.text.endswith("nowhere is no directory that this user may write.\n")
    assert once.text.count("\n") == 1


def test_prompt_says_why_a_task_was_not_accepted(darkroom, launch):
    once = launch("--prompt", "a fox", "--model", "flux-prp", DATA_DIR=str(darkroom.data_dir))

    assert once.await_end() == 1
    assert "model_not_found" in once.text
    assert "flux-pro" in once.text
    assert "Traceback" not in once.text


def test_prompt_says_why_a_task_failed(darkroom, launch, tmp_path):
    once = launch("--prompt", "sim:moderated", "--out", "x.png", DATA_DIR=str(darkroom.data_dir))

    assert once.await_end() == 1
    assert re.search(r"^The task failed: .+ \(content_policy_violation\)\n\Z", once.text, re.M)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("victim", "name"),
    [
        ("workers worker", r"worker\.\d"),
        ("gunicorn", "web"),
        ("workers beat", "beat"),
        ("valkey-server", "valkey"),
    ],
)
def test_what_was_killed_comes_back_and_the_accepted_task_completes(darkroom, victim, name):
    address = submit_and_await_job(darkroom, f"a picture while {victim} dies", darkroom.sandbox)

    darkroom.kill(victim)

    await_completed(darkroom, address)
    darkroom.await_text(rf"{name} was killed by signal 9; starting it again")
    await_ready(darkroom)


def test_a_worker_that_is_frozen_is_replaced_and_its_task_completes(launch):
    running = launch(LEASE_SECONDS="2", STALL_SECONDS="4")
    running.await_text("Ctrl-C stops everything")
    address = submit_and_await_job(running, "frozen", running.sandbox)
    (frozen,) = running.processes("-m workers worker")

    os.kill(frozen, signal.SIGSTOP)

    running.await_text("worker has not got on for . s: killed")
    await_completed(running, address)
    (replaced,) = running.processes("-m workers worker")
    assert replaced != frozen


def test_stops_orderly_and_leaves_nothing_behind(launch):
    running = launch()
    running.await_text("Ctrl-C stops everything")
    started = time.monotonic()

    running.signal(signal.SIGINT)

    assert running.await_end() == 0
    assert not running.processes()
    assert time.monotonic() - started < 20
    assert "Traceback" not in running.text
    assert "killed" not in running.text


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_killed_launcher_leaves_nothing_behind_and_its_task_completes_later(launch):
    command = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "ops.sandbox")
    provider = launch(command=command)
    provider.await_text("listening")
    first = launch(SANDBOX_URL=provider.sandbox, LEASE_SECONDS="2")
    first.await_text("Ctrl-C stops everything")
    address = submit_and_await_job(first, "a picture that survives", provider.sandbox)
    first.kill("ops.launcher")
    first.await_end()
    until(lambda: not first.processes(), "the end of all processes")

    second = launch(
        DATA_DIR=str(first.data_dir),
        PORT=first.address.rpartition(":")[2],
        SANDBOX_URL=provider.sandbox,
    )
    second.await_text("Ctrl-C stops everything")

    await_completed(second, address)


def test_prompt_starts_what_it_needs_and_ends_it(launch, tmp_path):
    once = launch("--prompt", "A blue bird, at dawn!", "--size", "512x512")

    assert once.await_end() == 0, once.text
    (picture,) = tmp_path.glob("a-blue-bird-at-dawn.*")
    assert size_of_png(picture) == (512, 512)
    assert not once.processes()
