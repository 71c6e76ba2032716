"""The functions in Redis: every change to what is kept there is one of their operations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import redis

from common.connection import store_errors
from common.queue import hint_template

__all__ = ["PREFIX", "Script", "pairs"]

PREFIX = "darkroom:"  # of every key that is ours; kombu's queues are lists under their bare names

_FILES = (
    *("base", "counts", "failures", "timeline", "turns", "routes", "limits", "webhooks", "tasks"),
    *("fleet", "metrics", "admin", "serve"),
)
_SOURCE = "\n".join(
    [f"local PREFIX = '{PREFIX}'", f"local HINT = [==[{hint_template()}]==]"]
    + [resources.files("common").joinpath(f"lua/{name}.lua").read_text("utf-8") for name in _FILES]
)
# Every version is a library of its own, so that old and new processes can run side by side.
_LIBRARY = f"darkroom_{hashlib.sha256(_SOURCE.encode()).hexdigest()[:16]}"
_CODE = f"#!lua name={_LIBRARY}\nlocal LIBRARY = '{_LIBRARY}'\n{_SOURCE}"

# What brings accepted tasks to their end is let through by a Redis at its memory limit: it costs
# little, and gives memory back. So is what operators do then, and their history, which does not
# grow. `create` is not.
_TO_THE_END = frozenset(
    {"claim", "begin", "step", "judge", "adopt", "finish", "defer", "renew", "sweep"}
    | {"take_webhooks", "told", "webhook_secrets"}
    | {"cancel", "decline", "pause", "resume", "sample"}
)
_READS = frozenset(
    {"look", "read", "list", "open", "usage", "health", "outcomes", "routes", "metrics"}
    | {"failures", "oldest", "working", "usages", "history"}
)


def pairs(flat: Sequence[Any]) -> dict[str, Any]:
    """A hash, which Redis gives as field, value, field, value and so on."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


class Script:
    """Runs the operations of `lua/`, each of them one round trip and one atomic step.

    They are Redis' functions (FUNCTION LOAD, Redis 7) and not scripts: a script builds all of its
    parts anew for each call, which takes longer than most operations themselves.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def run(self, operation: str, *args: Any) -> Any:
        """What the operation returns.

        Raises StoreUnavailable when Redis does not answer or refuses the write.
        """
        function = _LIBRARY
        if operation in _TO_THE_END:
            function += "_to_the_end"
        elif operation in _READS:
            function += "_read"
        with store_errors():
            try:
                return self._redis.fcall(function, 0, operation, *args)
            except redis.ResponseError as error:
                if "Function not found" not in str(error):
                    raise
            # A Redis that has not seen this version yet, or has forgotten it.
            self._redis.function_load(_CODE, replace=True)
            return self._redis.fcall(function, 0, operation, *args)
