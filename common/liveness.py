"""A file per process that says when it last got on with its work, for those who watch from outside.

It names the process, and its owner keeps it locked: what nobody holds is litter of the dead. Its
time of modification is the machine's monotonic clock, which neither a corrected clock nor a
suspended machine moves. The files lie in the directory for temporary files, where a full disk of
pictures does not reach them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from common.logging import get_logger

__all__ = ["Liveness"]

log = get_logger(__name__)


class Liveness:
    """The files of one installation, which is known by its DATA_DIR. One user's processes only."""

    def __init__(self, data_dir: Path) -> None:
        name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]
        self._directory = Path(tempfile.gettempdir()) / f"darkroom-{os.getuid()}-{name}"
        self._own: int | None = None

    def begin(self) -> None:
        """Make this process's file, and keep it for as long as the process lives."""
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._own = self._make(self._directory / str(os.getpid()))
        except OSError as error:
            log.warning("nobody can see from outside whether work goes on", reason=str(error))

    def show(self) -> None:
        """Say that this process gets on; nothing happens without a `begin`."""
        if self._own is not None:
            now = time.monotonic_ns()
            with contextlib.suppress(OSError):  # whoever watches will see that it could not
                os.utime(self._own, ns=(now, now))

    def ages(self) -> Mapping[int, float]:
        """Seconds since each living process got on, by its number; removes what the dead left."""
        now = time.monotonic()
        ages = {}
        with contextlib.suppress(OSError):
            for path in self._directory.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if (modified := self._held(path)) is not None:
                        ages[int(path.name)] = max(0.0, now - modified)
        return ages

    def _make(self, path: Path) -> int:
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            now = time.monotonic_ns()
            os.utime(file, ns=(now, now))
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:
                return file
            os.close(file)  # somebody took it for litter before it was locked

    def _held(self, path: Path) -> float | None:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return os.fstat(file.fileno()).st_mtime
            path.unlink()
        return None
