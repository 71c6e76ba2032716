"""The example of an adapter works as it stands."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import fields
from types import ModuleType

import pytest
from pydantic import SecretStr

from common.catalog import Model, Route
from common.errors import BadAnswer, ContentRefused, JobFailed, JobLost, NotAuthorised, RateLimited
from common.settings import ProviderAccess
from common.task import ImageRequest
from tests.contracts.cases import PNG
from tests.contracts.scripted import Reply, Scripted
from tests.docs.documents import blocks, read
from workers.providers import PROVIDERS
from workers.providers.base import Job, Order, Outcome, Pictures, Provider
from workers.providers.http import Http

DOCUMENT = read("ops/ADDING_A_PROVIDER.md")
REQUEST = ImageRequest("acme-paint", "a red apple", size="1024x512", seed=40)
ROUTE = Route("acme", "paint-2")


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.close()


@pytest.fixture(scope="module")
def acme(server: Scripted) -> Provider:
    (code,) = blocks(DOCUMENT, "python")
    module = ModuleType("acme")
    exec(compile(code, "ADDING_A_PROVIDER.md", "exec"), vars(module))
    kind: type[Provider] = module.Acme
    access = ProviderAccess(server.url, SecretStr("a-key"))
    return kind(Http(kind.name, access, auth=kind.auth, concurrency=2, max_image_bytes=10_000))


def submit(acme: Provider) -> Outcome:
    return acme.submit(Order(REQUEST, ROUTE, first=2), timeout=10)


def test_the_example_submits_a_job(acme: Provider, server: Scripted) -> None:
    server.reset(Reply({"id": "job-1"}))

    outcome = submit(acme)

    assert outcome == Job("job-1")
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.headers["authorization"]) == (
        "POST",
        "/jobs",
        "Bearer a-key",
    )
    assert seen.json() == {
        "model": "paint-2",
        "prompt": "a red apple",
        "width": 1024,
        "height": 512,
        "seed": 42,
    }


def test_the_example_polls_until_there_is_a_picture(acme: Provider, server: Scripted) -> None:
    done = {"state": "done", "url": f"{server.url}/pictures/1", "price_usd": 0.03}
    server.reset(Reply({"state": "working"}), Reply(done), Reply(PNG))

    waiting = acme.poll(Job("job/1"), timeout=10)
    assert isinstance(waiting, Job)
    outcome = acme.poll(waiting, timeout=10)

    assert isinstance(outcome, Pictures)
    assert [picture.data for picture in outcome.pictures] == [PNG]
    assert outcome.usage == {"cost_usd": 0.03}
    assert server.seen[0].path == "/jobs/job%2F1"
    assert "authorization" not in server.seen[-1].headers


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply({"error": "slow down"}, status=429), RateLimited),
        (Reply({"error": "who are you?"}, status=401), NotAuthorised),
        (Reply({"ok": True}), BadAnswer),
    ],
)
def test_the_example_names_what_went_wrong_with_a_submit(
    acme: Provider, server: Scripted, reply: Reply, error: type[Exception]
) -> None:
    server.reset(reply)

    with pytest.raises(error):
        submit(acme)

    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply({"state": "refused"}), ContentRefused),
        (Reply({"state": "failed", "why": "no paint"}), JobFailed),
        (Reply({"state": "done"}), BadAnswer),
        (Reply({"state": "done", "url": "http://169.254.169.254/"}), BadAnswer),
        (Reply(status=404), JobLost),
    ],
)
def test_the_example_names_how_a_job_ended(
    acme: Provider, server: Scripted, reply: Reply, error: type[Exception]
) -> None:
    server.reset(reply)

    with pytest.raises(error):
        acme.poll(Job("job-1"), timeout=10)


def test_the_example_of_a_catalog_entry_is_one() -> None:
    (text,) = blocks(DOCUMENT, "toml")
    (entry,) = tomllib.loads(text).values()

    routes = [Route(**route) for route in entry.pop("routes")]

    model = Model(id="acme-paint", routes=tuple(routes), **entry)
    assert model.route({"acme"}) == ROUTE
    assert model.takes_size(model.default_size)
    assert set(entry) <= {field.name for field in fields(Model)}


def test_the_example_is_no_provider_of_ours() -> None:
    assert "acme" not in PROVIDERS
