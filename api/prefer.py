"""How long the caller wants to wait: `Prefer: wait=N` (RFC 7240) and `?wait=N`."""

from __future__ import annotations

import re

from flask import Request

__all__ = ["wait_preference"]

_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?=;|,|$)', re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)


def wait_preference(request: Request, *, most: int, query: str | None = None) -> int:
    """Seconds to hold the answer, at most `most`; 0 when not asked for, or not understandably."""
    if query is not None and _NUMBER.fullmatch(query):
        return min(int(query), most)
    # Sent in several lines it means the same as in one, and is one for WSGI.
    found = _WAIT.search(request.headers.get("Prefer", ""))
    return min(int(found[1]), most) if found else 0
