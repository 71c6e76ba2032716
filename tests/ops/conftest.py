"""Starts the launcher as people do, and finds every process that descends from it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60  # seconds until something awaited counts as missing

# Settings of whoever runs the tests must not reach what they start.
KEPT = re.compile(r"PATH|HOME|LANG|LC_.*|TMPDIR|USER|.*CERT.*|.*CA_BUNDLE|PYTHONDONTWRITEBYTECODE")


class Launched:
    """A launcher and everything below it, recognised by a variable that they inherit."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._mark = f"LAUNCHED_BY_TEST={uuid.uuid4().hex}"
        self._log = log
        inherited = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
        name, _, value = self._mark.partition("=")
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                env={**inherited, **environment, name: value},
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.data_dir = Path(environment["DATA_DIR"])
        self.address = f"http://127.0.0.1:{environment['PORT']}"
        self.sandbox = f"http://127.0.0.1:{environment['SANDBOX_PORT']}"

    @property
    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def await_text(self, pattern: str) -> re.Match[str]:
        """Wait until the output so far matches."""
        match = self.await_that(lambda: re.search(pattern, self.text), f"output like {pattern!r}")
        assert isinstance(match, re.Match)
        return match

    def await_that(self, condition: Callable[[], object], what: str) -> object:
        """Wait until the condition is true; the launcher is expected to go on running."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            ended = self._process.poll() is not None
            if found := condition():
                return found
            if ended:
                break
            time.sleep(0.02)
        pytest.fail(f"no {what}; the launcher said:\n{self.text}")

    def await_end(self) -> int:
        """Wait until the launcher ends; its exit code."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the launcher goes on; it said:\n{self.text}")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.await_end()

    def processes(self, containing: str = "") -> dict[int, str]:
        """Every living process of this launcher whose command line contains the text."""
        found = _marked_linux(self._mark) if sys.platform == "linux" else _marked_ps(self._mark)
        return {pid: command for pid, command in found.items() if containing in command}

    def kill(self, containing: str) -> None:
        """SIGKILL for the processes whose command line contains the text; there is at least one."""
        victims = self.processes(containing)
        assert victims, f"nothing like {containing!r} in {self.processes()}"
        for pid in victims:
            os.kill(pid, signal.SIGKILL)

    def clean_up(self) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()


def _marked_linux(mark: str) -> dict[int, str]:
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            environment = (directory / "environ").read_bytes()
            command = (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in environment.split(b"\0"):
            found[int(directory.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def _marked_ps(mark: str) -> dict[int, str]:
    listing = subprocess.run(
        ["ps", "-axwwE", "-o", "pid=,command="], capture_output=True, text=True, check=True
    )
    lines = (line.split(maxsplit=1) for line in listing.stdout.splitlines() if mark in line)
    return {int(pid): command for pid, command in lines}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Launcher:
    """Starts launchers that do not disturb one another: own directories, own ports."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[Launched] = []

    def __call__(self, *arguments: str, command: tuple[str, ...] = (), **settings: str) -> Launched:
        number = len(self.started)
        environment = {
            "DATA_DIR": str(self.directory / f"data-{number}"),
            "PORT": str(free_port()),
            "FLOWER_PORT": str(free_port()),
            "SANDBOX_PORT": str(free_port()),
            "SANDBOX_SPEED": "50",
            **settings,
        }
        launched = Launched(
            [*(command or (str(ROOT / "ops" / "run"),)), *arguments],
            environment,
            self.directory / f"launcher-{number}.log",
        )
        self.started.append(launched)
        return launched

    def clean_up(self) -> None:
        for launched in self.started:
            launched.clean_up()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path)
    yield launcher
    launcher.clean_up()


@pytest.fixture(scope="module")
def launch_to_share(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """As `launch`, for what the tests of a module share."""
    launcher = Launcher(tmp_path_factory.mktemp("shared"))
    yield launcher
    launcher.clean_up()
