"""A TCP proxy that hands answers on later than they came.

It is a process of its own, `python -m tests.chaos.proxy PORT SERVER_PORT`, so that nothing but its
delay holds it up. It reads the delay from its input, a line of seconds each time it changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from types import TracebackType

from tests.processes import free_port
from tests.stack import ROOT

__all__ = ["SlowProxy"]


class SlowProxy:
    """Stands between clients and a server of this machine.

    Each piece of what the server says is held back by itself, so that a delay costs time and not
    throughput.
    """

    def __init__(self, server_port: int) -> None:
        self.port = free_port()
        self._server_port = server_port

    def slow_down(self, seconds: float) -> None:
        """Hold back what the server says from now on for so long."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it says so when it has changed

    def __enter__(self) -> SlowProxy:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.port), str(self._server_port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.slow_down(0.0)  # answered as soon as it listens
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


class _Proxy:
    def __init__(self, port: int, server_port: int) -> None:
        self._port = port
        self._server_port = server_port
        self._delay = 0.0

    async def serve(self) -> None:
        """Until the input ends."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", self._port)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            self._delay = float(line)
            print(self._delay, flush=True)
        server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.close()  # the server is away
            return
        both = (
            asyncio.create_task(self._hand_on(reader, up_writer, slowly=False)),
            asyncio.create_task(self._hand_on(up_reader, writer, slowly=True)),
        )
        # When one side has hung up there is nobody left to speak to.
        _, left = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        writer.close()
        up_writer.close()

    async def _hand_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slowly: bool
    ) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if not piece:
                    return
                writer.write(piece)
                await writer.drain()

        async def receive() -> None:
            piece = b"first"
            while piece:
                piece = await reader.read(65536)
                pieces.put_nowait((time.monotonic() + (self._delay if slowly else 0.0), piece))

        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(send())
                both.create_task(receive())
        except* OSError:
            pass  # somebody hung up


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_Proxy(int(sys.argv[1]), int(sys.argv[2])).serve())
