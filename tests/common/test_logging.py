"""Logs, as a process of its own writes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import logging, sys, threading
from common.logging import configure, get_logger, last_words

configure(sys.argv[1], sys.argv[2])
log = get_logger("ours")
log.debug("too fine")
log.info("claimed", task_id="imgtask_1", n=2)
logging.getLogger("theirs").warning("a %s", "library's")
logging.getLogger("urllib3").info("https://signed.example/?sig=abc")

def buy(prompt):
    secret = prompt.upper()
    raise ValueError("broken")

try:
    buy("whispered")
except ValueError:
    log.exception("unexpected", task_id="imgtask_2")

logging.getLogger().handlers[0].acquire()
thread = threading.Thread(target=last_words, args=(sys.argv[2], "ours", "given up"))
thread.start()
thread.join(5)
"""


@pytest.fixture(scope="module", params=["json", "console"])
def output(request: pytest.FixtureRequest) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "INFO", request.param],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    return request.param, done.stderr


def test_events_of_all_origins_are_there_and_noise_is_not(output: tuple[str, str]) -> None:
    _, text = output

    assert "claimed" in text
    assert "a library's" in text
    assert "too fine" not in text
    assert "signed.example" not in text


def test_last_words_need_no_lock(output: tuple[str, str]) -> None:
    assert "given up" in output[1]


def test_a_traceback_shows_where_and_no_variables(output: tuple[str, str]) -> None:
    _, text = output

    assert "ValueError: broken" in text
    assert "WHISPERED" not in text
    assert "secret =" not in text.replace("secret = prompt.upper()", "")


def test_machines_get_an_object_a_line(output: tuple[str, str]) -> None:
    form, text = output
    if form == "console":
        assert "{" not in text.splitlines()[0]
        return

    lines = [json.loads(line) for line in text.splitlines()]

    events = ["claimed", "a library's", "unexpected", "given up"]
    assert [line["event"] for line in lines] == events
    assert [line["logger"] for line in lines] == ["ours", "theirs", "ours", "ours"]
    assert [line["level"] for line in lines] == ["info", "warning", "error", "error"]
    assert lines[0]["task_id"] == "imgtask_1"
    assert lines[0]["n"] == 2
    assert all(line["timestamp"] for line in lines)
    assert "Traceback" in lines[2]["exception"]
