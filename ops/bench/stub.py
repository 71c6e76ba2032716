"""A provider that costs little: `python -m ops.bench.stub PORT DELAY SIDE [GATE]`.

It answers any POST in the form of OpenAI's Images API with one picture of SIDE pixels square, after
DELAY seconds. With GATE it keeps the answers back until so many calls are open, and then sends them
all at once. `GET /` tells how many calls are open, were open at most, and were answered.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time

import numpy
import pybase64
from PIL import Image

__all__ = ["picture"]


def picture(side: int) -> bytes:
    """A PNG with noise in it, so that it packs like a photograph: 1.6 MB for 1,024 pixels."""
    noise = numpy.random.default_rng(1).integers(0, 16, (side, side, 3), numpy.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "png")
    return out.getvalue()


class _Calls:
    def __init__(self, delay: float, side: int, gate: int) -> None:
        self.delay = delay
        self.gate = gate
        self.open = self.most = self.answered = 0
        self.released = asyncio.Event()
        # When each call was heard and how late its answer was, in seconds: the stub's own part.
        self.late = 0.0
        image = pybase64.b64encode(picture(side)).decode()
        self.answer = _answer(
            {"created": 1, "data": [{"b64_json": image, "revised_prompt": "a redder apple"}]}
        )

    def told(self) -> bytes:
        return _answer(
            {"open": self.open, "most": self.most, "answered": self.answered, "late": self.late}
        )


def _answer(body: object) -> bytes:
    text = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
    return f"{head}\r\n\r\n".encode() + text


class _Connection(asyncio.Protocol):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls
        self._read = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._read += data
        end = self._read.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._read[:end].lower()
        at = head.find(b"content-length: ")
        length = int(head[at + 16 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._read) < end + 4 + length:
            return
        self._read = b""
        if head.startswith(b"post "):
            task = asyncio.get_running_loop().create_task(self._generate())
            task.add_done_callback(lambda done: done.result())
        else:
            self._transport.write(self._calls.told())

    async def _generate(self) -> None:
        calls = self._calls
        due = time.monotonic() + calls.delay
        calls.open += 1
        calls.most = max(calls.most, calls.open)
        if calls.gate:
            if calls.open >= calls.gate:
                calls.released.set()
            await calls.released.wait()
        else:
            await asyncio.sleep(calls.delay)
            calls.late = max(calls.late, time.monotonic() - due)
        calls.open -= 1
        calls.answered += 1
        self._transport.write(calls.answer)


async def _serve(port: int, delay: float, side: int, gate: int) -> None:
    calls = _Calls(delay, side, gate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(calls), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    _port, _delay, _side, *_gate = sys.argv[1:]
    asyncio.run(_serve(int(_port), float(_delay), int(_side), int(_gate[0]) if _gate else 0))
