"""What Schemathesis cannot know: the address of an image is signed, and nobody can make one up; and
which task there is whose webhook may be asked for."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import schemathesis

_LINK = urlsplit(os.environ["DARKROOM_IMAGE"])  # path and query of an image that is there
_TASK = os.environ["DARKROOM_TASK"]  # one that has ended, and has a webhook


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Let what would be right but for its signature, or its task, be right altogether."""
    if not case.meta.generation.mode.is_positive:
        return
    if case.path.endswith("/redeliver"):
        case.path_parameters = {"task_id": _TASK}
    if case.path == "/files/{task_id}/{file}":
        _, _, task_id, file = _LINK.path.split("/")
        case.path_parameters = {"task_id": task_id, "file": file}
        case.query = {**(case.query or {}), **dict(parse_qsl(_LINK.query))}
