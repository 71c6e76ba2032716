"""Asks a Darkroom server for pictures from a terminal or a script: `ops/darkroom --help`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

from ops.client.access import find_access
from ops.client.commands import Commands
from ops.client.errors import ClientError
from ops.client.screen import Screen
from ops.client.server import Server

_INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended

_COMMAND = os.environ.get("DARKROOM_COMMAND", "ops/darkroom")

_EPILOG = """\
server and key:
  --server, else DARKROOM_URL, else the one that ops/run has started on this machine;
  --key-file, else DARKROOM_API_KEY, else for a server on this machine the key of ops/run.

exit codes:
  0  done                              3  no server answers
  1  the task failed                   4  the server refused
  2  wrong arguments, no key,          5  the pictures could not be fetched or written
     a file that is in the way       130  interrupted; the task goes on

Pictures are written to files; stdout has their names, stderr all else. With --json stdout has one
JSON document: the server's, or {"error": {"code", "message"}}.
"""


def main() -> int:
    """The exit code, as `--help` lists them."""
    options = _parser().parse_args()
    screen = Screen(sys.stderr)
    try:
        access = find_access(options.server, options.key_file, os.environ)
        if access.in_the_clear:
            screen.tell(f"Note: the key goes to {access.address} unencrypted.")
        server = Server(access, patience=options.patience, notice=screen.tell)
        commands = Commands(server, screen, lambda task, out: _resume(options, task, out))
        result = getattr(commands, options.command)(options)
    except ClientError as error:
        screen.leave()
        screen.tell(str(error))
        if options.json:
            _print(json.dumps(error.body, indent=2, ensure_ascii=False))
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    if options.json:
        _print(json.dumps(result.body, indent=2, ensure_ascii=False))
    else:
        for line in result.lines:
            _print(line)
    return 0


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _resume(options: argparse.Namespace, task_id: str, out: Path | None) -> str:
    """The command line that takes up the wait for a task."""
    words = [_COMMAND, "wait", task_id]
    if out is not None or options.command == "generate":
        words += ["-o", str(out or ".")]
    if options.server:
        words += ["--server", options.server]
    if options.key_file:
        words += ["--key-file", str(options.key_file)]
    return shlex.join(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        _COMMAND,
        description="Asks a Darkroom server for pictures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        added.add_argument("--server", metavar="URL", help="address of the server")
        added.add_argument(
            "--key-file", type=Path, metavar="FILE", help="file that holds the API key"
        )
        added.add_argument("--json", action="store_true", help="print the answer as JSON")
        added.add_argument(
            "--patience",
            type=_positive,
            default=300,
            metavar="SECONDS",
            help="how long to try again when the server is away or busy (%(default)s)",
        )
        return added

    generate = command("generate", "make pictures and write them to files")
    generate.add_argument("prompt", help="what is to be seen; - reads it from stdin")
    generate.add_argument("-m", "--model", help="its model (the server's default)")
    generate.add_argument("-s", "--size", help="such as 1024x768 (the model's default)")
    generate.add_argument("-n", type=int, help="how many pictures (1)")
    generate.add_argument("-q", "--quality", help="where the model has qualities")
    generate.add_argument("--style", help="where the model has styles")
    generate.add_argument("--negative-prompt", metavar="TEXT", help="what is not to be seen")
    generate.add_argument("--seed", type=int, help="for repeatable results")
    generate.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="start from this picture, and others when given again",
    )
    generate.add_argument(
        "--mask", type=Path, metavar="FILE", help="a PNG: what is transparent in it is made anew"
    )
    generate.add_argument(
        "--idempotency-key",
        metavar="NAME",
        help="a name for this order: within 24 hours the same name is the same task, however often "
        "the command is run",
    )
    generate.add_argument(
        "--no-wait", dest="wait", action="store_false", help="submit, print the task's id and end"
    )
    wait = command("wait", "wait for a task and, with -o, write its pictures to files")
    for waiting in (generate, wait):
        waiting.add_argument(
            "-o",
            "--output",
            type=Path,
            metavar="FILE",
            help="file of the picture, numbered where there are several, or a directory",
        )
        waiting.add_argument("--force", action="store_true", help="replace files that are there")
        waiting.add_argument(
            "--cancel-on-interrupt", action="store_true", help="Ctrl-C cancels the task"
        )
    status = command("status", "show a task as it is now")
    cancel = command("cancel", "cancel a task")
    for named in (wait, status, cancel):
        named.add_argument("id", metavar="TASK", help="id of a task")
    listing = command("list", "list your tasks, the newest first")
    listing.add_argument(
        "--status", choices=("pending", "processing", "completed", "failed"), help="only these"
    )
    listing.add_argument("-m", "--model", help="only those of this model")
    listing.add_argument(
        "--limit", type=_count, default=20, metavar="N", help="at most so many (%(default)s)"
    )
    listing.add_argument("--after", metavar="TASK", help="go on behind this task")
    models = command("models", "list the models, or show one")
    models.add_argument("id", nargs="?", metavar="MODEL", help="all about this one")
    return parser


def _positive(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of seconds")
    return seconds


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
