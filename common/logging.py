"""Logs: events with keys, the same in every process. JSON for machines, colours for people.

Prompts, keys and signed URLs are never put into an event; callers log ids, names and numbers.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar

import orjson
import structlog

__all__ = [
    "LogFormat",
    "begin_lines",
    "configure",
    "end_lines",
    "get_logger",
    "last_words",
    "same_lines",
    "tell_in_lines",
]

LogFormat = Literal["console", "json"]
P = ParamSpec("P")
T = TypeVar("T")

_stamp = structlog.processors.TimeStamper(fmt="iso")


def configure(level: str, fmt: LogFormat) -> None:
    """Send everything, the libraries' own logging included, to standard error in one format."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _stamp,
    ]
    render = [_renderer(fmt)]
    if fmt == "json":
        render.insert(0, structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=_Lines,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _about_message],
            pass_foreign_args=True,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # A line for every connection helps nobody, and urllib3's lines hold URLs.
    logging.getLogger("urllib3").setLevel(logging.WARNING)


class _Lines(structlog.WriteLogger):
    """Where our own events go: past the library's logging, which would make two records of each
    and cost a request a seventh of all that it takes."""

    def __init__(self, name: str = "") -> None:
        super().__init__(sys.stderr)
        self.name = name

    def msg(self, message: str) -> None:
        # Nobody may fail because a log has no room, or nobody reads it any more.
        with contextlib.suppress(OSError, ValueError):
            super().msg(message)

    debug = info = warning = error = critical = exception = msg


def last_words(fmt: LogFormat, name: str, event: str, **about: Any) -> None:
    """One error in the same format, from a process of which any thread may hold logging's locks."""
    said = _stamp(None, "error", {"event": event, "level": "error", "logger": name, **about})
    os.write(2, str(_renderer(fmt)(None, "error", said)).encode() + b"\n")


def begin_lines(**about: str) -> None:
    """From here on every line of this thread or greenlet says so, libraries' own lines included,
    and nothing of what was said before."""
    end_lines()
    tell_in_lines(**about)


def tell_in_lines(**about: str) -> None:
    """Every further line of this thread or greenlet says so as well."""
    structlog.contextvars.bind_contextvars(**about)


def end_lines() -> None:
    """What this thread or greenlet was about is over."""
    structlog.contextvars.clear_contextvars()


def same_lines(function: Callable[P, T]) -> Callable[P, T]:
    """The function, to be run in another thread, whose lines are to say what those here do."""
    about = structlog.contextvars.get_contextvars()

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with structlog.contextvars.bound_contextvars(**about):
            return function(*args, **kwargs)

    return run


def _about_message(
    _: Any, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """A line in which Celery speaks of a message says whose it is: the message's id is the task."""
    args = event.pop("positional_args", None)
    if isinstance(args, Mapping) and "id" in args and event["_record"].name.startswith("celery."):
        event.setdefault("task_id", args["id"])
    return event


def _renderer(fmt: LogFormat) -> structlog.typing.Processor:
    if fmt == "json":
        return structlog.processors.JSONRenderer(serializer=_json)
    # The fancier formatters print local variables, and prompts are among them.
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )


def _json(event: Any, default: Callable[[Any], Any]) -> str:
    """ASCII, so that a line is the same on any terminal and in any locale. orjson needs an eighth
    of the standard library's time, but leaves other letters as they are and takes no halves of
    surrogate pairs and no numbers beyond 64 bits."""
    try:
        line = orjson.dumps(event, default)
        if line.isascii():
            return line.decode()
    except TypeError:
        pass
    return json.dumps(event, default=default, separators=(",", ":"))


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """The logger of a module; call it with an event name and keys."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger
