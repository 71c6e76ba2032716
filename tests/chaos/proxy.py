"""A TCP proxy that hands answers on later than they came."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from types import TracebackType

from tests.processes import free_port

__all__ = ["SlowProxy"]


class SlowProxy:
    """Stands between clients and a server of this machine.

    Each piece of what the server says is held back by itself, so that a delay costs time and not
    throughput.
    """

    def __init__(self, server_port: int) -> None:
        self.port = free_port()
        self._delay = 0.0
        self._server_port = server_port
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slow-proxy", daemon=True)

    def slow_down(self, seconds: float) -> None:
        """Hold back what the server says from now on for so long."""
        self._delay = seconds

    def __enter__(self) -> SlowProxy:
        self._thread.start()
        assert self._listening.wait(10), "the proxy does not listen"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._connect(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(connect, "127.0.0.1", self.port)
        self._listening.set()
        await self._stop.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sides = [writer]
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            sides.append(up_writer)
            both = (
                asyncio.create_task(self._hand_on(reader, up_writer, slowly=False)),
                asyncio.create_task(self._hand_on(up_reader, writer, slowly=True)),
            )
            # When one side has hung up there is nobody left to speak to.
            _, left = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        except OSError:
            pass  # the server is away
        finally:
            for side in sides:
                side.close()
            for side in sides:
                with contextlib.suppress(OSError):
                    await side.wait_closed()

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
