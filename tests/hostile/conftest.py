"""A front end of these tests' own: what they do to it would change what others measure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.conftest import Stack, running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """dall-e-3, dall-e-2 and flux-pro can be used, and every test is the worker."""
    with running(
        tmp_path_factory.mktemp("hostile"), OPENAI_API_KEY="none", BFL_API_KEY="none"
    ) as stack:
        yield stack
