"""Keeps child processes running: starts them, starts them again when they die or hang, stops them.

Every child leads a session of its own. So Ctrl-C in the terminal reaches the launcher alone, which
stops its children in order, and whatever a child leaves behind can be killed as one group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from common.liveness import Liveness
from ops.launcher.output import Output

__all__ = ["Child", "Supervisor"]

FIRST_DELAY, LONGEST_DELAY = 0.2, 10.0  # seconds before a child that died is started again
STEADY = 30.0  # a child that lived this many seconds starts over at the first delay
_TAIL_LINES = 15
_LOOK_SECONDS = 1.0  # between two looks at how long ago a child got on
_LOOKS = 3  # that find it stuck: when the whole machine stood still, it has the time in between
_QUIET_SECONDS = 2.0  # of waiting for a child to stop before it is said


class Child:
    """One process that is kept running.

    `grace`: seconds it may take to stop when told to; `quiet`: what it says is of interest only
    when it died; `keep_open`: file descriptors that it inherits.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        grace: float = 10,
        quiet: bool = False,
        keep_open: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self.command = command
        self.environment = environment
        self.grace = grace
        self.quiet = quiet
        self.keep_open = keep_open
        self.deaths = 0
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.process: asyncio.subprocess.Process | None = None
        self.stopping = asyncio.Event()


class Supervisor:
    """Runs children until they are stopped; use it from one event loop.

    A child that shows in `liveness` that it gets on, and has not for `stall` seconds, is killed
    and started again. `stall` 0: never.
    """

    def __init__(self, output: Output, liveness: Liveness, *, stall: float) -> None:
        self._output = output
        self._liveness = liveness
        self._stall = stall
        self._keepers: dict[Child, asyncio.Task[None]] = {}
        self._hurry = asyncio.Event()

    def start(self, child: Child) -> None:
        """Run the child from now on."""
        self._keepers[child] = asyncio.create_task(self._keep_running(child))

    def hurry(self) -> None:
        """Stop waiting for anybody: what is being stopped, or will be, is killed."""
        self._hurry.set()

    async def stop(self, children: Iterable[Child]) -> None:
        """Ask all of them to end (SIGTERM), wait as long as each may take, then kill it."""
        await asyncio.gather(*(self._stop(child) for child in children if child in self._keepers))

    async def _keep_running(self, child: Child) -> None:
        delay = FIRST_DELAY
        while True:
            started = time.monotonic()
            ending = await self._run(child)
            if child.stopping.is_set():
                return
            if time.monotonic() - started > STEADY:
                delay = FIRST_DELAY
            child.deaths += 1
            if child.quiet:
                for line in child.tail:
                    self._output.line(child.name, line)
            self._say(f"{child.name} {ending}; starting it again in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.stopping.wait(), delay)
                return
            delay = min(2 * delay, LONGEST_DELAY)

    async def _run(self, child: Child) -> str:
        """One life of the child; says how it ended."""
        process = await asyncio.create_subprocess_exec(
            *_leashed(child.command),
            env=child.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=child.keep_open,
        )
        child.process = process
        reader = asyncio.create_task(self._relay(child, process))
        if child.stopping.is_set():  # it was told to while the process was being made
            _signal(process, signal.SIGTERM)
        watch = asyncio.create_task(self._watch(child, process))
        code = await process.wait()
        watch.cancel()
        # Processes it left behind would hold its port, and the pipe that is read to its end.
        _signal_group(process, signal.SIGKILL)
        await reader
        child.process = None
        return f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"

    async def _watch(self, child: Child, process: asyncio.subprocess.Process) -> None:
        stuck = 0
        limit = max(self._stall / 2, self._stall - _LOOKS * _LOOK_SECONDS)
        while self._stall and not child.stopping.is_set():
            await asyncio.sleep(_LOOK_SECONDS)
            age = self._liveness.ages().get(process.pid, 0.0)
            stuck = stuck + 1 if age > limit else 0
            if stuck >= _LOOKS and not child.stopping.is_set():
                self._say(f"{child.name} has not got on for {age:.0f} s: killed")
                _signal_group(process, signal.SIGKILL)
                return

    async def _relay(self, child: Child, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        rest = b""
        while block := await process.stdout.read(65536):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self._show(child, line)
        if rest:
            self._show(child, rest)

    def _show(self, child: Child, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        child.tail.append(text)
        if not child.quiet:
            self._output.line(child.name, text)

    async def _stop(self, child: Child) -> None:
        child.stopping.set()
        if child.process is not None:
            _signal(child.process, signal.SIGTERM)
        ended = asyncio.ensure_future(self._keepers[child])
        hurried = asyncio.create_task(self._hurry.wait())
        either = (ended, hurried)
        await asyncio.wait(either, timeout=_QUIET_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done() and not hurried.done():
            self._say(
                f"waiting for {child.name} to finish what is in flight, {child.grace:g} s at most; "
                "Ctrl-C again kills"
            )
            await asyncio.wait(either, timeout=child.grace, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not ended.done():
            if not self._hurry.is_set():
                self._say(f"{child.name} did not stop within {child.grace:g} s: killed")
            if child.process is not None:
                _signal_group(child.process, signal.SIGKILL)
        await ended

    def _say(self, text: str) -> None:
        self._output.line("run", text)


def _leashed(command: Sequence[str]) -> Sequence[str]:
    if sys.platform != "linux":
        return command
    leash = Path(__file__).with_name("leash.py")
    return (sys.executable, "-I", "-S", str(leash), str(os.getpid()), *command)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # macOS answers EPERM when all that is left of the group are zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
