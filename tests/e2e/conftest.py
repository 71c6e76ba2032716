"""The whole stack, started once for all tests that leave it as they found it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.stack import Stack, running


@pytest.fixture(scope="session")
def whole_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("stack")) as whole:
        yield whole


@pytest.fixture
def stack(whole_stack: Stack) -> Stack:
    """Tests that use it must not break any of its processes. What one of them made the fleet think
    of a provider is forgotten before the next."""
    whole_stack.redis.delete("darkroom:routes")
    return whole_stack


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose processes a test may kill, if it starts them again."""
    with running(tmp_path_factory.mktemp("fragile")) as whole:
        yield whole


def flower_workers(flower: str, auth: tuple[str, str] | None = None) -> list[dict[str, Any]]:
    """The workers that Flower knows; none while it does not answer."""
    with contextlib.suppress(requests.RequestException):
        answer = requests.get(f"{flower}/workers?json=1", auth=auth, timeout=10)
        found: list[dict[str, Any]] = answer.json()["data"]
        return found
    return []
