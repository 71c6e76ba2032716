"""The whole stack, started once for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stack import Stack, running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Tests that use it must not break any of its processes."""
    with running(tmp_path_factory.mktemp("stack")) as whole:
        yield whole


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose processes a test may kill, if it starts them again."""
    with running(tmp_path_factory.mktemp("fragile")) as whole:
        yield whole
