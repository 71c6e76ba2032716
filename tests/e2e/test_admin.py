"""The operator's page in a real Chromium, on the whole running system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from common.connection import connect
from common.keys import KeyStore
from tests.e2e.chromium import Browser, Page, needs_chromium, running_browser
from tests.stack import KEY, Stack
from tests.valkey import close

pytestmark = needs_chromium

# Either of them is there once the script has run.
READY = "[...document.querySelectorAll('#sign-in, #all')].some(e => e.checkVisibility())"
ROUTE = "bfl/flux-pro-1.1"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def admin_key(whole_stack: Stack) -> str:
    client = connect(whole_stack.redis_url)
    try:
        return KeyStore(client).create("operator", admin=True)[1]
    finally:
        close(client)


@pytest.fixture
def stranger(stack: Stack, browser: Browser) -> Iterator[Page]:
    """A tab without a key. It may complain of nothing, and ask nobody but its own server."""
    with browser.page() as page:
        page.size(1280, 900)
        yield page
        assert page.hosts <= {urlsplit(stack.url).netloc}
        assert page.complaints == []
    stack.redis.delete("darkroom:routes", "darkroom:routes:paused")
    stack.clear_faults()


@pytest.fixture
def page(stack: Stack, stranger: Page, admin_key: str) -> Page:
    """A tab that came by the launcher's link."""
    stranger.open(f"{stack.url}/admin#key={admin_key}", READY)
    stranger.shows("Providers and routes")
    return stranger


def row(key: str) -> str:
    return f'tr[data-key="{key}"]'


def confirm(page: Page) -> None:
    page.until(lambda: page.count("#confirm"), "asked to confirm")
    page.click("#confirm-yes")
    page.until(lambda: not page.count("#confirm"), "done")


def waiting(stack: Stack, prompt: str) -> str:
    """A task that its provider asks to wait."""
    stack.fault(fault="rate_limited", provider="ideogram", prompt_contains=prompt, retry_after=90)
    return str(stack.submit(prompt, "ideogram-v3")["id"])


def test_an_operators_key_opens_it_for_this_tab_and_no_other_key_does(
    stranger: Page, stack: Stack, admin_key: str
) -> None:
    stranger.open(f"{stack.url}/admin", READY)
    stranger.shows("An operator's key", "#sign-in")
    for key, problem in (("sk-wrong", "does not know the key"), (KEY, "not an operator's")):
        stranger.type("#key", key)
        stranger.press("Enter")
        stranger.shows(problem, "#key-problem")
        assert not stranger.count("#all")
    assert "--admin" in stranger.text("#key-problem")

    stranger.type("#key", admin_key)
    stranger.press("Enter")

    stranger.until(lambda: stranger.count("#all"), "signed in")
    stranger.reload()
    stranger.until(lambda: stranger.count("#all"), "still signed in")
    assert stranger.evaluate("Object.keys(localStorage)") == []
    assert admin_key not in stranger.evaluate("document.documentElement.outerHTML")
    stranger.click("#sign-out")
    stranger.shows("An operator's key", "#sign-in")
    assert stranger.evaluate("Object.keys(sessionStorage)") == []
    assert stranger.evaluate("document.querySelectorAll('tbody tr').length") == 0


def test_a_key_in_the_link_is_used_and_gone_from_the_address(page: Page, stack: Stack) -> None:
    assert page.evaluate("location.href") == f"{stack.url}/admin"
    assert page.evaluate("document.cookie") == ""
    page.shows("alive", "#processes")
    page.shows("flux-pro-1.1", "#routes")
    page.shows("bootstrap", "#keys")
    page.shows("operator", "#keys")


def test_a_task_is_seen_read_and_cancelled(page: Page, stack: Stack) -> None:
    prompt = "a poster that an operator calls off"
    task_id = waiting(stack, prompt)
    page.shows("asked us to wait", row(task_id))

    page.click(f'{row(task_id)} [data-action="open"]')
    page.shows("deferred", "#task")
    page.shows("rate_limited", "#task")
    assert prompt not in page.evaluate("document.documentElement.outerHTML")
    page.click('#task-actions [data-action="cancel"]')
    assert page.evaluate("document.activeElement.id") == "confirm-no"
    page.shows("fails as cancelled", "#confirm")
    confirm(page)

    page.shows("cancelled", "#task-body .timeline")
    page.press("Escape")
    page.until(lambda: not page.count(row(task_id)), "it is not open any more")
    assert stack.get(f"/v1/tasks/{task_id}").json()["cancelled"] is True


def test_a_paused_route_buys_nothing_until_it_is_resumed(page: Page, stack: Stack) -> None:
    page.click(f'{row(f"route {ROUTE}")} [data-action="pause"]')
    page.shows("Calls in flight are finished", "#confirm")
    confirm(page)
    page.shows("paused for", row(f"route {ROUTE}"))

    prompt = "a fox that waits for an operator"
    task = stack.submit(prompt)
    page.shows("paused", row(task["id"]))
    assert stack.poll(task)["blocked_reason"] == "paused"
    assert stack.purchases(prompt) == []

    page.click(f'{row(f"route {ROUTE}")} [data-action="resume"]')
    confirm(page)

    assert stack.finished(task)["status"] == "completed"
    assert len(stack.purchases(prompt)) == 1
    page.shows("open", row(f"route {ROUTE}"))


def test_what_failed_is_retried_with_a_warning_where_it_may_have_been_charged(
    page: Page, stack: Stack
) -> None:
    prompt = "a fox sim:moderated_output*1"
    task = stack.submit(prompt)
    failure = stack.finished(task)["error_detail"]
    page.click('.chip:has(input[value="failed"])')
    page.shows(failure["code"], row(task["id"]))

    page.click(f'{row(task["id"])} [data-action="retry"]')

    page.until(lambda: page.count("#confirm"), "asked to confirm")
    if failure["billed"] != "no":
        page.shows("charged already", "#confirm")
        assert page.evaluate("document.querySelector('#confirm-yes').disabled")
        page.click("#confirm-again input")
    confirm(page)
    page.shows("retried", row(task["id"]))
    newest = stack.get("/v1/tasks?limit=1").json()["data"][0]
    assert newest["timeline"][1]["of"] == task["id"]
    assert stack.finished(newest)["status"] == "completed"


def test_an_error_says_what_would_help_and_leaves_the_page_in_use(page: Page, stack: Stack) -> None:
    task_id = waiting(stack, "a fox that is over before it is called off")
    page.shows("asked us to wait", row(task_id))
    page.click(f'{row(task_id)} [data-action="cancel"]')
    page.until(lambda: page.count("#confirm"), "asked to confirm")
    page.refuse("*/cancel", 503)
    page.click("#confirm-yes")

    page.shows("503", "#confirm-problem")
    page.click("#confirm-no")
    page.type("#task-id", "imgtask_none")
    page.press("Enter")
    page.shows("Task not found", "#task-problem")


def test_it_looks_again_and_not_while_nobody_sees_it(page: Page) -> None:
    def looks() -> int:
        return sum(url.endswith("/overview") for _, url in page.requests)

    before = looks()
    page.until(lambda: page.evaluate("1") and looks() > before, "another look")
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {get: () => true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    hidden = looks()
    page.evaluate("new Promise(r => setTimeout(r, 4000))")
    assert looks() <= hidden + 1  # one may have been under way
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.until(lambda: page.evaluate("1") and looks() > hidden + 1, "seen again")


def test_it_fits_dark_light_and_small_screens(page: Page, stack: Stack) -> None:
    """With ADMIN_SCREENSHOTS set to a directory they are left there to be looked at."""
    pictures = os.environ.get("ADMIN_SCREENSHOTS")
    task_id = waiting(stack, "a wide fox")
    page.shows("asked us to wait", row(task_id))
    page.evaluate("document.querySelector('#models').closest('details').open = true")
    for name, width, height in (("wide", 1280, 900), ("tablet", 820, 1180), ("phone", 360, 740)):
        for scheme in ("light", "dark"):
            page.prefer(prefers_color_scheme=scheme)
            page.size(width, height, mobile=width < 400)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            if pictures:
                page.size(width, 1500, mobile=width < 400)
                page.screenshot(Path(pictures) / f"{name}-{scheme}.png")
    page.click(f'{row(task_id)} [data-action="open"]')
    page.until(lambda: page.count("#task"), "the task")
    assert page.evaluate("document.querySelector('#task').scrollWidth") <= 360
    if pictures:
        page.screenshot(Path(pictures) / "task-phone.png")
