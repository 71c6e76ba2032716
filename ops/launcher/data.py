"""The data directory as the launcher uses it: the lock, the first keys, where it answers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ops.launcher.errors import LauncherError

__all__ = ["DataDirectory", "KeyFile", "Running"]

KeyFile = Literal["api_key", "admin_key"]  # the first key, and an operator's

_LOCK_PATIENCE = 0.5  # seconds; a launcher that was killed needs a moment to lose its lock


@dataclass(frozen=True, slots=True)
class Running:
    """What a launcher tells others of this user, in `run.json`."""

    pid: int
    address: str
    redis_url: str


class DataDirectory:
    """DATA_DIR. Its files are for this user alone; one launcher at a time works on it."""

    def __init__(self, path: Path) -> None:
        """Raises LauncherError when the directory cannot be made or written."""
        self.path = path.resolve()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise LauncherError(
                f"DATA_DIR: cannot write to {self.path}: {error.strerror}. "
                "Set DATA_DIR to a directory that this user may write."
            ) from error

    def lock(self) -> bool:
        """Take the directory for this process, and whoever inherits `lock_fd`, until both end."""
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._running_file.unlink(missing_ok=True)
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)

    @property
    def running(self) -> Running | None:
        """The launcher that holds the lock, once everything it started answers."""
        try:
            return Running(**json.loads(self._running_file.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def announce(self, running: Running) -> None:
        """Tell others of this user where the system answers."""
        self.write(self._running_file.name, json.dumps(asdict(running)) + "\n")

    def leave(self) -> None:
        """Take the announcement back."""
        self._running_file.unlink(missing_ok=True)

    def api_key(self, file: KeyFile = "api_key") -> str:
        """The key of an earlier start, or a new one."""
        with contextlib.suppress(OSError):
            if key := (self.path / file).read_text().strip():
                return key
        return self.new_api_key(file)

    def new_api_key(self, file: KeyFile = "api_key") -> str:
        """A new key, kept for later starts."""
        key = f"sk-{secrets.token_urlsafe(32)}"
        self.write(file, key + "\n")
        return key

    def write(self, name: str, text: str) -> Path:
        """A file that only this user can read, written in one step."""
        path = self.path / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = path.with_name(path.name + ".new")
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        return draft.replace(path)

    @property
    def _running_file(self) -> Path:
        return self.path / "run.json"
