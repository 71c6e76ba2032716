"""The runner's workshop, for all tests that want one."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.storage import ImageStorage
from common.store import TaskStore
from tests.valkey import Valkey
from tests.workers.workshop import Workshop


@pytest.fixture
def shop(store: TaskStore, valkey: Valkey, tmp_path: Path) -> Workshop:
    return Workshop(store, ImageStorage.open(tmp_path.as_uri()), valkey)
