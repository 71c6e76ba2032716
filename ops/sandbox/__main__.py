"""Starts the sandbox: `python -m ops.sandbox`."""

import math
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from ops.sandbox.app import create_app
from ops.sandbox.server import Server


def main() -> NoReturn:
    """Serve until SIGTERM or SIGINT. Exit code 2: a wrong variable; 1: the port cannot be had."""
    host = os.environ.get("SANDBOX_HOST", "127.0.0.1")
    port = int(_number("SANDBOX_PORT", "8790", int, "a port from 0 to 65535", lambda n: n < 65536))
    speed = _number("SANDBOX_SPEED", "1", float, "a number above 0, such as 10", lambda n: n > 0)
    ledger = os.environ.get("SANDBOX_LEDGER")
    try:
        app = create_app(speed=speed, ledger=Path(ledger) if ledger else None)
    except (OSError, ValueError) as problem:
        _stop(2, f"SANDBOX_LEDGER={ledger!r} cannot be used as the file of purchases: {problem}")
    try:
        server = Server(host, port, app)
    except OSError as problem:
        _stop(1, f"cannot listen on {host}:{port} (SANDBOX_HOST, SANDBOX_PORT): {problem}")
    _allow_many_connections()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    shown = f"[{host}]" if ":" in host else host
    print(f"sandbox listening on http://{shown}:{server.port}", flush=True)
    server.serve_forever()
    sys.exit()


def _number(
    name: str,
    default: str,
    kind: Callable[[str], float],
    wanted: str,
    accepts: Callable[[float], bool],
) -> float:
    text = os.environ.get(name, default)
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0 and accepts(number)):
        _stop(2, f"{name}={text!r} is not {wanted}")
    return number


def _allow_many_connections() -> None:
    """Many systems let a process open 256 or 1024 files unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _leave(*_: object) -> NoReturn:
    # Nothing waits to be written: purchases reach their file before they are answered for.
    os._exit(0)


def _stop(code: int, problem: str) -> NoReturn:
    print(f"sandbox: {problem}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
