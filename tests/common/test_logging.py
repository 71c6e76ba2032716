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

ABOUT = """
import logging, sys, threading
from common.logging import begin_lines, configure, end_lines, get_logger, same_lines, tell_in_lines

configure("INFO", "json")
log, theirs = get_logger("ours"), logging.getLogger("theirs")

def work():
    theirs.warning("inside")

begin_lines(request_id="req_1")
tell_in_lines(task_id="imgtask_1")
log.info("both")
for target in (same_lines(work), work):
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
begin_lines(task_id="imgtask_2")
theirs.warning("another")
end_lines()
log.info("nothing")
for name in ("celery.worker.strategy", "theirs"):
    logging.getLogger(name).info("%(name)s[%(id)s]", {"id": "imgtask_3", "name": "t"})
"""


def test_lines_say_what_they_are_about_whoever_writes_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABOUT], cwd=ROOT, capture_output=True, text=True, check=True
    )

    lines = [json.loads(line) for line in done.stderr.splitlines()]

    about = [(line["event"], line.get("request_id"), line.get("task_id")) for line in lines]
    assert about == [
        ("both", "req_1", "imgtask_1"),
        ("inside", "req_1", "imgtask_1"),
        ("inside", None, None),
        ("another", None, "imgtask_2"),
        ("nothing", None, None),
        ("t[imgtask_3]", None, "imgtask_3"),
        ("t[imgtask_3]", None, None),
    ]
    assert not [line for line in lines if "positional_args" in line]


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


def test_a_line_is_ascii_and_there_whatever_it_says() -> None:
    program = (
        "from common.logging import configure, get_logger\n"
        "configure('INFO', 'json')\n"
        "for said in 'plain', 'é\\x9b\\u2028', '\\ud800', 2**70, {1: 2}, {3}:\n"
        "    get_logger('ours').info('said', what=said)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True
    )

    said = [json.loads(line)["what"] for line in done.stderr.decode("ascii").splitlines()]
    assert said == ["plain", "é\x9b\u2028", "\ud800", 2**70, {"1": 2}, "{3}"]


def test_a_log_that_takes_nothing_fails_nobody() -> None:
    program = "from common.logging import configure, get_logger\n" + (
        "configure('INFO', 'json')\nget_logger('ours').error('lost')\nprint('goes on')"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=False,
        )

    assert done.stdout == "goes on\n"
