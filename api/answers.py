"""Answers whose headers are complete when they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response
from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["Answer"]


class Answer(Response):
    """Bytes, or nothing at all, with the headers that it was given and no others.

    Werkzeug would copy them, make absolute or ASCII what is in them, which ours are already, and
    take away what does not belong to a status: that is a sixth of what a poll costs. The status
    must be none of 1xx and 204. Without a `mimetype` there is no Content-Type.
    """

    default_mimetype = None

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        return self.headers
