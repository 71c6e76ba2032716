"""The application for WSGI servers and the `flask` command: `api.wsgi:app`."""

from __future__ import annotations

import sys

from flask import Flask

from api.app import create_app
from common.errors import ConfigurationError
from common.logging import configure
from common.redis_check import check_redis
from common.settings import load_settings

__all__ = ["app"]

# The one exit status on which gunicorn stops as a whole instead of starting the worker again.
_CANNOT_BOOT = 3


def _make() -> Flask:
    try:
        settings = load_settings()
        configure(settings.log_level, settings.log_format)
        check_redis(settings.shared_redis_url)
        return create_app(settings)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_CANNOT_BOOT)


app = _make()
