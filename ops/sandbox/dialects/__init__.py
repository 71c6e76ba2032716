"""The providers the sandbox speaks for. A new one is a module here and a line in DIALECTS."""

from collections.abc import Callable

from flask import Blueprint

from ops.sandbox.dialects import bfl, openai
from ops.sandbox.dialects.base import Desk

DIALECTS: dict[str, Callable[[Desk], Blueprint]] = {
    "openai": openai.make_blueprint,
    "bfl": bfl.make_blueprint,
}
"""By provider, which is also the first part of the path it is served under."""
