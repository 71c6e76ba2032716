"""A Valkey for all tests that want one, emptied before each, and stores on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from common.store import TaskStore
from tests.valkey import Valkey, open_store, running_valkey


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        type=int,
        default=1,
        metavar="N",
        help="N times as many inputs where they are made at random; needs a longer --timeout.",
    )


# Where tests wait more than they work. They come first, so that no process is left with them alone.
_LONG = ("tests/chaos/", "tests/e2e/", "tests/workers/test_watchdog", "tests/docs/", "tests/ops/")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> int:
    """How many times more inputs than usual are wanted."""
    times: int = request.config.getoption("--thorough")
    return times


@pytest.fixture(scope="session")
def server() -> Iterator[Valkey]:
    with running_valkey() as valkey:
        yield valkey


@pytest.fixture
def valkey(server: Valkey) -> Valkey:
    """The shared server, empty."""
    server.redis.flushall()
    server.redis.config_resetstat()
    return server


@pytest.fixture
def make_store(valkey: Valkey) -> Iterator[Callable[..., TaskStore]]:
    """Makes stores on the shared server, with the options of `TaskStore`."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(open_store(valkey.url, **options))


@pytest.fixture
def store(make_store: Callable[..., TaskStore]) -> TaskStore:
    """A store whose leases outlast any test."""
    return make_store(lease=300)
