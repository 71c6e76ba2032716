"""What every dialect stands on: the shared parts, and the faults that know no dialect."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flask import Response, after_this_request, request

from ops.sandbox.faults import Faults, Strikes
from ops.sandbox.ledger import Call, Calls, Ledger
from ops.sandbox.pictures import Painter
from ops.sandbox.server import Connection

HANG_SECONDS = 600.0
"""The longest a `hang` lasts, so that a forgotten client does not hold a thread for ever."""

FOREIGN = "http://169.254.169.254"
"""Where a client must never be led: the address of a cloud machine's own secrets."""

_KEY_HEADERS = ("Authorization", "X-Key", "Mj-Api-Secret", "Api-Key", "X-Goog-Api-Key")

_PAGE = "<html><head><title>{0}</title></head><body><h1>{0}</h1><hr>proxy</body></html>\n"


@dataclass(frozen=True)
class Desk:
    """What one dialect works with: its provider's name, and parts it shares with the others."""

    provider: str
    ledger: Ledger
    calls: Calls
    faults: Faults
    painter: Painter
    speed: float

    def enter(self, call: Call) -> None:
        """Count the call; it is open until the last byte of its answer is sent."""
        leaked = call == "download" and any(name in request.headers for name in _KEY_HEADERS)
        self.calls.enter(self.provider, call, leaked_key=leaked)

        @after_this_request
        def leave(response: Response) -> Response:
            response.call_on_close(lambda: self.calls.leave(self.provider))
            return response

    def strike(self, call: Call, prompt: str) -> Strikes:
        """The faults this call suffers. Raises faults.UnknownFault."""
        header = request.headers.get("X-Sandbox-Fault", "")
        return self.faults.strike(self.provider, call, prompt=prompt, header=header)

    def bill(
        self, *, prompt: str, model: str, job_id: str, count: int = 1, seed: int | None = None
    ) -> None:
        """Note a purchase. `seed`: what the caller asked for, None when it did not."""
        self.ledger.record(
            self.provider, prompt=prompt, model=model, job_id=job_id, count=count, seed=seed
        )

    def seconds(self, typical: float) -> float:
        """How long work takes that typically takes so many seconds."""
        told = self.faults.delay(self.provider)
        return typical / self.speed if told is None else told

    def deliver(
        self, strikes: Strikes, answer: Callable[[], Response], *, seconds: float = 0.0
    ) -> Response:
        """Answer after so many real seconds, unless a fault of the transport spoils it.

        Raises server.ClientGone when the client does not wait for it.
        """
        started = time.monotonic()
        connection: Connection = request.environ["sandbox.connection"]
        if slow := strikes.get("slow"):
            seconds += 30.0 / self.speed if slow.seconds is None else slow.seconds
            connection.wait(seconds)
        if hang := strikes.get("hang"):
            connection.wait(HANG_SECONDS if hang.seconds is None else hang.seconds)
            return _page(504, "504 Gateway Timeout")
        if "reset" in strikes:
            connection.reset()
            return Response(status=499)
        if "bad_gateway" in strikes:
            return _page(502, "502 Bad Gateway")
        if "not_json" in strikes:
            return _page(200, "Welcome")
        response = answer()
        connection.wait(seconds - (time.monotonic() - started))
        if drip := strikes.get("drip"):
            pause = 1.0 / self.speed if drip.seconds is None else drip.seconds
            body = response.get_data()
            response.response = _drip(body, pause, connection)
            response.headers["Content-Length"] = str(len(body))
        return response


def json_object(body: Any) -> dict[str, Any] | None:
    """The body when it is a JSON object, else None."""
    return body if isinstance(body, dict) else None


def _page(status: int, title: str) -> Response:
    return Response(_PAGE.format(title), status=status, mimetype="text/html")


def _drip(body: bytes, pause: float, connection: Connection) -> Iterator[bytes]:
    for index in range(len(body)):
        yield body[index : index + 1]
        connection.wait(pause)
