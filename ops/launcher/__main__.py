"""Starts Darkroom, or makes one picture: `ops/run`, `ops/run --prompt "…"`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

from common.catalog import Catalog
from common.errors import ConfigurationError
from common.settings import Settings, load_settings
from ops.launcher.data import DataDirectory, Running
from ops.launcher.errors import LauncherError
from ops.launcher.output import Output
from ops.launcher.picture import Order, make_pictures
from ops.launcher.ports import is_free, pick_free_port
from ops.launcher.stack import START_SECONDS, Stack

ROOT = Path(__file__).resolve().parents[2]
_INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended


def main() -> int:
    """The exit code: 0 as asked, 1 it did not work, 2 a setting or argument is wrong."""
    arguments = _parse_arguments()
    folder = Path.cwd()
    for name in ("DATA_DIR", "CATALOG_FILE"):
        if os.environ.get(name):
            os.environ[name] = str(folder / os.environ[name])
    # .env, the Procfile and DATA_DIR's default are those of the checkout, from wherever it is run.
    os.chdir(ROOT)
    try:
        if arguments.prompt is None:
            return _serve(_checked_settings(), folder / arguments.procfile)
        order = Order(
            arguments.prompt,
            arguments.model,
            folder,
            arguments.size,
            arguments.n,
            folder / arguments.out if arguments.out else None,
        )
        return _make_pictures(order, folder / arguments.procfile)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    except LauncherError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "ops/run",
        description="Starts Darkroom: API, workers, Flower and, where the settings name none, "
        "its own Valkey and provider sandbox. Settings: ops/env.example.",
    )
    parser.add_argument(
        "--prompt", help="make a picture of this and end; uses what already runs, if it does"
    )
    parser.add_argument("--model", default="flux-pro", help="its model (%(default)s)")
    parser.add_argument("--size", help="its size, such as 1024x768")
    parser.add_argument("--n", type=int, help="how many")
    parser.add_argument("--out", help="its file, numbered if there is one (named by the prompt)")
    parser.add_argument(
        "--procfile", default=ROOT / "Procfile", help="what to run (the project's Procfile)"
    )
    return parser.parse_args()


def _checked_settings() -> Settings:
    """The settings, with what every process would find wrong with them found before any starts."""
    settings = load_settings()
    Catalog.load(settings.catalog_file)
    return settings


def _serve(settings: Settings, procfile: Path) -> int:
    data = DataDirectory(settings.data_dir)
    if not data.lock():
        running = data.running
        where = f" It answers at {running.address}, process {running.pid}." if running else ""
        raise LauncherError(
            f"DATA_DIR: {data.path} is in use by another start of Darkroom.{where} "
            "Stop that one, or set DATA_DIR to another directory."
        )
    output = Output(sys.stdout)
    stack = Stack(settings, data, output, procfile=procfile)

    async def work() -> None:
        output.text(_banner(stack, settings))
        await asyncio.Event().wait()

    return asyncio.run(_run(stack, work, when_interrupted=0))


def _make_pictures(order: Order, procfile: Path) -> int:
    started = time.monotonic()
    order.check()
    settings = _checked_settings()
    data = DataDirectory(settings.data_dir)
    cancelled = threading.Event()
    if not data.lock():
        running = _await_running(data)
        key = settings.bootstrap_api_key.get_secret_value() or data.api_key()
        waited = time.monotonic() - started
        make_pictures(order, running.address, key, start_seconds=waited, cancelled=cancelled)
        return 0
    settings = _with_free_ports(settings)
    with (data.path / "run.log").open("w") as log:
        stack = Stack(settings, data, Output(log), procfile=procfile, without=frozenset({"flower"}))
        print("Starting Darkroom …", file=sys.stderr, flush=True)

        async def work() -> None:
            await asyncio.to_thread(
                make_pictures,
                order,
                stack.address,
                stack.api_key,
                start_seconds=time.monotonic() - started,
                cancelled=cancelled,
            )

        return asyncio.run(
            _run(stack, work, when_interrupted=_INTERRUPTED, on_interrupt=cancelled.set)
        )


def _await_running(data: DataDirectory) -> Running:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if running := data.running:
            return running
        time.sleep(0.1)
    raise LauncherError(f"DATA_DIR: what uses {data.path} did not get ready.")


def _with_free_ports(settings: Settings) -> Settings:
    """The same settings, with another port for each that is busy and that nobody asked for."""
    hosts = {"port": settings.host, "flower_port": "127.0.0.1", "sandbox_port": "127.0.0.1"}
    return load_settings(
        **{
            name: pick_free_port()
            for name, host in hosts.items()
            if name not in settings.model_fields_set and not is_free(host, getattr(settings, name))
        }
    )


async def _run(
    stack: Stack,
    work: Callable[[], Awaitable[None]],
    *,
    when_interrupted: int,
    on_interrupt: Callable[[], None] = lambda: None,
) -> int:
    """Start the stack, do the work, stop the stack; the exit code.

    A signal to end the work leads to the code `when_interrupted`; a second one kills.
    """
    interrupted = asyncio.Event()

    def interrupt() -> None:
        if interrupted.is_set():
            stack.hurry()
        interrupted.set()
        on_interrupt()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which is what nohup asks for
        loop.add_signal_handler(signal.SIGHUP, interrupt)

    async def start_and_work() -> None:
        await stack.start()
        await work()

    job = asyncio.create_task(start_and_work())
    waiting = asyncio.create_task(interrupted.wait())
    try:
        await asyncio.wait((job, waiting), return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            job.result()
            return 0
        job.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await job
        return when_interrupted
    finally:
        await stack.stop()
        waiting.cancel()


def _banner(stack: Stack, settings: Settings) -> str:
    body = json.dumps({"model": "flux-pro", "prompt": "a fox in a forest at night"})
    sandbox = (
        "\n  Pictures come from the built-in provider sandbox, at no cost. For real ones set\n"
        "  a provider's key, such as OPENAI_API_KEY, in the environment or in .env; all settings\n"
        "  are in ops/env.example.\n"
        if settings.wants_sandbox
        else ""
    )
    return f"""
  Darkroom is ready.

  Playground  {stack.address}/#key={quote(stack.api_key)}
  Operator    {stack.address}/admin#key={quote(stack.admin_key)}
  API         {stack.address}
  Docs        {stack.address}/docs
  Flower      {stack.flower_address}
  API key     {stack.api_key}
{sandbox}
  Make a picture:

curl -sS {stack.address}/v1/images/generations \\
  -H 'Authorization: Bearer {stack.api_key}' -H 'Content-Type: application/json' \\
  -H 'Prefer: wait=60' -d '{body}'

  or: ops/darkroom generate "a fox in a forest at night"

  Ctrl-C stops everything.

"""


if __name__ == "__main__":
    sys.exit(main())
