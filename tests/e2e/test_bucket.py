"""The whole system with its pictures in a bucket of a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.e2e.chromium import needs_chromium, running_browser
from tests.object_store import ObjectStore, needs_object_store
from tests.processes import until
from tests.stack import KEY, Stack, running

pytestmark = needs_object_store


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """Not started yet: the system begins without it."""
    server = ObjectStore(tmp_path_factory.mktemp("objects"))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def stack(server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = server.settings | {"STORAGE_REDIRECT": "on"}
    with running(tmp_path_factory.mktemp("stack"), **settings) as whole:
        yield whole


@pytest.mark.parametrize("model", ["dall-e-2", "flux-pro"])
def test_a_bought_picture_is_kept_until_the_bucket_is_there(
    stack: Stack, server: ObjectStore, model: str
) -> None:
    server.stop()
    log, prompt = stack.directory / "worker.log", f"for a bucket that is away, {model}"
    task = stack.submit(prompt, model)
    until(lambda: f"{task['id']}" in waiting(log), "the worker waits for the store", 40)
    assert stack.poll(task)["status"] == "processing"

    server.start()
    end = stack.finished(task)

    assert end["status"] == "completed"
    assert len(stack.purchases(prompt)) == 1
    (image,) = end["data"]
    answer = requests.get(image["url"], timeout=10)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
    assert answer.url.startswith(f"{server.endpoint}/pictures/darkroom/{task['id']}/0.png?")


def waiting(log: Path) -> str:
    """What the worker says of tasks that wait for a store."""
    return "".join(line for line in log.read_text().splitlines() if "waiting for the store" in line)


@needs_chromium
def test_the_page_shows_pictures_that_are_in_the_bucket(
    stack: Stack, server: ObjectStore, tmp_path: Path
) -> None:
    server.stop()
    server.start()
    task = stack.submit("a lighthouse in a bucket")
    assert stack.finished(task)["status"] == "completed"
    saved = tmp_path / "saved"
    saved.mkdir()

    with running_browser(tmp_path / "chromium") as browser, browser.page() as page:
        page.size(1280, 900)
        page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(saved))
        page.open(f"{stack.url}/#key={KEY}")
        page.shows("a lighthouse in a bucket")
        card = f'.card[data-id="{task["id"]}"]'
        wide = "document.querySelector('%s')?.naturalWidth"
        page.until(lambda: page.evaluate(wide % f"{card} .picture img"), "the thumbnail")
        page.click(f"{card} .picture")
        page.until(lambda: page.evaluate(wide % "#viewer-picture") == 512, "the picture")
        page.click('#viewer-actions [data-action="download"]')
        page.until(lambda: [*saved.glob(f"{task['id']}-0.png")], "it is saved", 10)

        assert page.hosts == {urlsplit(stack.url).netloc, urlsplit(server.endpoint).netloc}
        assert page.evaluate("location.href") == f"{stack.url}/"
        assert page.complaints == []
