"""The script in Redis: every change to what is kept there is one of its operations."""

from __future__ import annotations

from importlib import resources
from typing import Any

import redis

from common.connection import store_errors
from common.queue import hint_template

__all__ = ["PREFIX", "Script"]

PREFIX = "darkroom:"  # of every key that is ours; kombu's queues are lists under their bare names

_FILES = ("base", "turns", "routes", "limits", "webhooks", "tasks", "fleet")
_SOURCE = "\n".join(
    [f"local HINT = [==[{hint_template()}]==]"]
    + [resources.files("common").joinpath(f"lua/{name}.lua").read_text("utf-8") for name in _FILES]
    + ["return ops[ARGV[1]](unpack(ARGV, 2))"]
)
# What brings accepted tasks to their end is let through by a Redis at its memory limit: it costs
# little, and gives memory back. `create` is not.
_TO_THE_END = frozenset(
    {"claim", "begin", "step", "judge", "adopt", "finish", "defer", "renew", "sweep"}
    | {"take_webhooks", "told", "webhook_secrets"}
)


class Script:
    """Runs the operations of `lua/`, each of them one round trip and one atomic step."""

    def __init__(self, client: redis.Redis) -> None:
        self._script = client.register_script(_SOURCE)
        self._script_to_the_end = client.register_script("#!lua flags=allow-oom\n" + _SOURCE)

    def run(self, operation: str, *args: Any) -> Any:
        """What the operation returns.

        Raises StoreUnavailable when Redis does not answer or refuses the write.
        """
        script = self._script_to_the_end if operation in _TO_THE_END else self._script
        with store_errors():
            return script(keys=(PREFIX, ""), args=(operation, *args))
