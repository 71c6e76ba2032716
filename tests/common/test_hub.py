"""What is done past the event loop, in a process that has one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# One thread is held; who wants it as well is told so, and who comes afterwards gets it.
HELD = """
from gevent import monkey
monkey.patch_all()
import os
import gevent
from common.hub import Threads

threads = Threads(1, patience=0.2)
reading, writing = os.pipe()
holder = gevent.spawn(threads.run, lambda: os.read(reading, 1))
gevent.sleep(0)  # it has the thread
try:
    threads.run(lambda: print("ran"))
except TimeoutError:
    print("told")
os.write(writing, b"x")
print(holder.get(), threads.run(lambda: "free"))
"""

RAISED = """
from gevent import monkey
monkey.patch_all()
from common.hub import Threads, off_the_hub

for run in (off_the_hub, Threads(1, patience=1).run):
    try:
        run(lambda: 1 / 0)
    except ZeroDivisionError as error:
        print(error)
"""


def on_gevent(script: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    return done.stdout, done.stderr


def test_nobody_waits_for_a_thread_for_long() -> None:
    assert on_gevent(HELD) == ("told\nb'x' free\n", "")


def test_what_a_thread_raises_is_for_who_waits_for_it() -> None:
    assert on_gevent(RAISED) == ("division by zero\n" * 2, "")
