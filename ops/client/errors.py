"""Every way a command can fail, each with an exit code of its own.

ClientError
├── TaskFailed      1   the task is over, and there is no picture
├── WrongUse        2   an argument, a missing key, a file that is in the way
├── Unreachable     3   no Darkroom server answered, however often it was asked
├── Refused         4   the server answered no
└── NotSaved        5   the pictures exist at the server and could not be brought here
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = ["ClientError", "NotSaved", "Refused", "TaskFailed", "Unreachable", "WrongUse"]


class ClientError(Exception):
    """The text says what happened and what would help, in a line or a few.

    `body` is what `--json` prints: the server's own document, or one in the form of its errors.
    """

    exit_code: ClassVar[int]
    code: ClassVar[str]

    def __init__(self, text: str, body: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.body = body or {"error": {"code": self.code, "message": text}}


class TaskFailed(ClientError):
    """The task failed or was cancelled; `body` is the task."""

    exit_code = 1
    code = "failed"


class WrongUse(ClientError):
    """Nothing was asked of the server."""

    exit_code = 2
    code = "wrong_use"


class Unreachable(ClientError):
    """Nobody answered in time, or what answered is no Darkroom server."""

    exit_code = 3
    code = "unreachable"


class Refused(ClientError):
    """The server will not do it, now or ever; `body` is its answer."""

    exit_code = 4
    code = "refused"


class NotSaved(ClientError):
    """The picture is not what was promised, or cannot be written. It can be had later."""

    exit_code = 5
    code = "not_saved"
