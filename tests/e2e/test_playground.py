"""The page at `/` in a real Chromium, as people use it, on the whole running system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.chromium import Browser, Page, needs_chromium, running_browser
from tests.stack import KEY, Stack

pytestmark = needs_chromium

DONE = '.card[data-status="completed"]'
FAILED = '.card[data-status="failed"]'
PICTURE = f"{DONE} .picture img"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def stranger(stack: Stack, browser: Browser) -> Iterator[Page]:
    """A tab that has no key. Whatever is done in it, it may complain of nothing, and ask nobody
    but the server that it came from."""
    with browser.page() as page:
        page.size(1280, 900)
        yield page
        assert page.hosts <= {urlsplit(stack.url).netloc}
        assert page.complaints == []
    stack.clear_faults()


@pytest.fixture
def page(stack: Stack, stranger: Page) -> Page:
    """A tab that came by the launcher's link, and shows none of what other tests made."""
    stack.redis.delete(*stack.redis.keys("darkroom:owner:*") or ["-"])
    stranger.open(f"{stack.url}/#key={KEY}")
    stranger.shows("Your pictures will be here")
    return stranger


def choose(page: Page, model: str) -> None:
    if not page.count("#models"):
        page.click("#picker summary")
    page.click(f'.model:has(input[value="{model}"])')
    page.shows(model, "#chosen")


def generate(page: Page, prompt: str, model: str = "flux-pro", size: str = "512x512") -> None:
    choose(page, model)
    page.click(f'.chip:has(input[name="size"][value="{size}"])')
    page.type("#prompt", prompt)
    page.press("Enter", control=True)


def shown_pictures(page: Page, selector: str = PICTURE) -> list[list[int]]:
    """Width and height of all pictures that are really there."""
    sizes: list[list[int]] = page.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        ".filter(i => i.complete && i.naturalWidth).map(i => [i.naturalWidth, i.naturalHeight])"
    )
    return sizes


def stored(page: Page) -> dict[str, str]:
    entries: dict[str, str] = page.evaluate("({...localStorage})")
    return entries


# -- the key


def test_a_key_in_the_link_is_used_and_gone_from_the_address(page: Page, stack: Stack) -> None:
    assert page.evaluate("location.href") == f"{stack.url}/"
    assert page.evaluate("document.cookie") == ""
    assert not page.count("#sign-in")
    page.reload()
    page.shows("Your pictures will be here")
    assert KEY not in page.evaluate("document.documentElement.outerHTML")
    assert [url for _, url in page.requests if KEY in url.partition("#")[0]] == []


def test_a_wrong_key_is_named_and_not_kept(stranger: Page, stack: Stack) -> None:
    stranger.open(stack.url)
    stranger.shows("Your API key", "#sign-in")
    stranger.type("#key", "sk-wrong")
    stranger.press("Enter")

    stranger.shows("This server does not know the key.", "#key-problem")
    assert stranger.evaluate("document.activeElement.id") == "key"
    assert "darkroom.key" not in stored(stranger)

    stranger.type("#key", KEY)
    stranger.press("Enter")
    stranger.until(lambda: not stranger.count("#sign-in"), "signed in")


def test_a_wrong_key_in_a_link_does_not_sign_anybody_out(page: Page, stack: Stack) -> None:
    page.evaluate("location.hash = 'key=sk-wrong'")

    page.shows("This server does not know the key.", "#key-problem")
    assert stored(page)["darkroom.key"] == json.dumps(KEY)
    page.reload()
    page.until(lambda: page.count("#sign-out") and not page.count("#sign-in"), "still signed in")


def test_signing_out_leaves_nothing_behind(page: Page) -> None:
    page.type("#prompt", "a secret fox")
    assert "secret fox" in json.dumps(stored(page))

    page.click("#sign-out")

    page.shows("Your API key", "#sign-in")
    assert stored(page) == {}
    page.reload()
    assert page.count("#sign-in")


def test_without_a_key_nothing_is_sent(stranger: Page, stack: Stack) -> None:
    stranger.open(stack.url)

    generate(stranger, "a fox without a key")

    stranger.shows("A key is needed", "#key-problem")
    assert "POST" not in {method for method, _ in stranger.requests}


# -- from the prompt to the picture


def test_a_picture_is_made_and_is_there_after_a_reload(page: Page, stack: Stack) -> None:
    prompt = "a lighthouse for the reload"
    stack.fault(delay=2, provider="bfl")
    generate(page, prompt)

    page.shows("Developing", ".card .doing")
    page.until(lambda: shown_pictures(page), "the picture")

    assert page.text("#said") == f"1 picture ready: {prompt}"
    assert "&thumbnail=" in page.evaluate(f"document.querySelector('{PICTURE}').currentSrc")
    assert "$0.04" in page.text(f"{DONE} .meta")
    page.reload()
    page.until(lambda: shown_pictures(page), "the picture again")
    assert page.text(f"{DONE} .prompt") == prompt
    assert page.evaluate("document.querySelector('#prompt').value") == prompt
    assert len(stack.purchases(prompt)) == 1


def test_progress_is_seen_as_it_is_made(page: Page, stack: Stack) -> None:
    stack.fault(delay=6, provider="bfl")
    generate(page, "slow enough to be watched")

    page.until(lambda: page.evaluate("document.querySelector('progress')?.value > 0"), "progress")
    page.shows(" %", ".card .doing")

    page.until(lambda: page.count(DONE), "done")


def asked_for(page: Page, part: str) -> int:
    return sum(part in url for _, url in page.requests)


def test_a_task_is_followed_by_events(page: Page, stack: Stack) -> None:
    stack.fault(delay=3, provider="bfl")
    page.refuse("*/v1/tasks/imgtask_*", 503, but="/events")

    generate(page, "told by events alone")

    page.shows("Developing", ".card .doing")
    page.until(lambda: shown_pictures(page), "the picture")
    assert asked_for(page, "/events") == 1
    assert asked_for(page, "?wait=") == 0


def test_without_events_it_is_asked_after(page: Page, stack: Stack) -> None:
    stack.fault(delay=3, provider="bfl")
    page.refuse("*/events", 405)

    generate(page, "told by long polls")

    page.until(lambda: shown_pictures(page), "the picture")
    assert asked_for(page, "/events") == 1
    assert asked_for(page, "?wait=") >= 1


def test_two_tasks_at_a_time_are_followed_live(page: Page, stack: Stack) -> None:
    """A browser opens six connections to a host: streams must leave room for everything else."""
    stack.fault(delay=5, provider="bfl")
    page.refuse("*/events", 405)
    for number in range(8):
        generate(page, f"one of many foxes {number}")
        page.until(lambda n=number: page.count(".card") == n + 1, "submitted")

    assert asked_for(page, "?wait=") <= 2
    page.until(lambda: page.count(DONE) == 8, "all are done", 60)


def test_a_picture_is_enlarged_and_left_by_the_keyboard(page: Page, stack: Stack) -> None:
    choose(page, "flux-schnell")
    page.click('.chip:has(input[name="n"][value="2"])')
    page.type("#prompt", "two boats")
    page.press("Enter", control=True)
    page.until(lambda: len(shown_pictures(page)) == 2, "two pictures")

    page.click(f"{DONE} .picture")
    page.until(lambda: shown_pictures(page, "#viewer-picture") == [[1024, 1024]], "whole picture")
    first = page.evaluate("document.querySelector('#viewer-picture').src")
    assert "two boats" in page.text("#viewer-title")
    page.press("ArrowRight")
    page.until(
        lambda: page.evaluate("document.querySelector('#viewer-picture').src") != first, "the next"
    )
    assert page.text("#said") == "Picture 2 of 2"
    page.press("ArrowRight")  # there is no third
    page.press("ArrowLeft")
    assert page.evaluate("document.querySelector('#viewer-picture').src") == first
    assert page.evaluate("document.querySelector('#viewer-actions a').download").endswith("-0.png")
    page.press("Escape")

    assert not page.count("#viewer")
    assert page.evaluate("document.activeElement.matches('.picture')")


def test_the_fields_are_those_of_the_model(page: Page, stack: Stack) -> None:
    models = {model["id"]: model["image"] for model in stack.get("/v1/models").json()["data"]}

    for name in ("dall-e-3", "midjourney", "gpt-image-2", "flux-pro"):
        choose(page, name)
        model = models[name]

        def values(field: str) -> list[str]:
            found: list[str] = page.evaluate(
                f"[...document.querySelectorAll('input[name={field}]')]"
                ".filter(e => e.checkVisibility()).map(e => e.value)"
            )
            return found

        assert set(values("size")) == {*model["sizes"], "other"}
        counts = [str(n + 1) for n in range(model["max_n"])]
        assert values("n") == (counts if len(counts) > 1 else [])
        for field, listed in (("quality", "qualities"), ("style", "styles")):
            assert values(field) == (model[listed] if field in model["parameters"] else [])
        for field in ("seed", "negative_prompt", "background"):
            hidden = page.evaluate(f"document.querySelector('#{field}-field').hidden")
            assert hidden == (field not in model["parameters"])
        assert f"/ {model['max_prompt_characters']:,}" in page.text("#count")
        assert model["description"] in page.text("#chosen")


def test_the_recommended_come_first(page: Page, stack: Stack) -> None:
    recommended = stack.get("/v1/models?recommended_for=image").json()["data"]

    offered = page.evaluate("[...document.querySelectorAll('input[name=model]')].map(i => i.value)")

    assert offered[: len(recommended)] == [model["id"] for model in recommended]


# -- when something is wrong


def test_a_proposal_of_the_server_is_taken_by_a_click(page: Page, stack: Stack) -> None:
    prompt = "a boat of a strange size"
    generate(page, prompt)
    page.until(lambda: page.count(DONE), "done")
    page.click('.chip:has(input[value="other"])')
    page.type("#custom-size", "1000x1001")
    page.press("Enter")

    page.shows("does not take the size 1000x1001", "#size-problem")
    page.click("#trouble button")

    assert not page.count("#trouble")
    page.press("Enter")
    page.until(lambda: page.count(DONE) == 2, "done")
    assert len(stack.purchases(prompt)) == 2


def test_what_is_missing_is_said_before_anything_is_sent(page: Page) -> None:
    page.click("#generate")

    page.shows("Say what should be in the picture.", "#prompt-problem")
    assert page.evaluate("document.activeElement.id") == "prompt"
    choose(page, "dall-e-2")
    page.type("#prompt", "\N{FOX FACE}" * 1001)  # each one character, and two for JavaScript
    page.shows("1,001 / 1,000", "#count")
    page.press("Enter", control=True)
    page.shows("1 characters too many", "#prompt-problem")
    assert "POST" not in {method for method, _ in page.requests}


def test_a_failure_says_why_and_what_it_cost_and_can_be_tried_again(
    page: Page, stack: Stack
) -> None:
    prompt = "a fox sim:moderated_output*1"
    generate(page, prompt)

    page.shows("No picture", FAILED)
    page.shows("bfl refused the picture", f"{FAILED} .reason")
    page.shows("harged", f"{FAILED} .billed")
    page.click(f'{FAILED} [data-action="retry"]')

    page.until(lambda: page.count(DONE), "the second try")
    assert page.count(FAILED) == 1
    assert page.text(f"{DONE} .prompt") == prompt


def test_a_submit_whose_answer_is_lost_is_bought_once(page: Page, stack: Stack) -> None:
    prompt = "a fox whose answer is lost"
    page.lose_answers("*/v1/images/generations", 1)

    generate(page, prompt)

    page.until(lambda: page.count(DONE), "done")
    assert page.lost == 1
    sent = [method for method, url in page.requests if url.endswith("/v1/images/generations")]
    assert sent.count("POST") == 2
    assert len(stack.purchases(prompt)) == 1
    assert page.evaluate("document.querySelectorAll('.card').length") == 1


def test_a_submit_that_never_arrives_is_the_same_one_after_a_reload(
    page: Page, stack: Stack
) -> None:
    prompt = "a fox that is sent again by hand"
    page.lose_answers("*/v1/images/generations", 3)
    generate(page, prompt)
    page.shows("cannot be reached", "#trouble")
    assert page.lost == 3

    page.reload()
    page.click("#generate")

    page.until(lambda: page.count(DONE), "done")
    assert len(stack.purchases(prompt)) == 1


def test_a_task_that_waits_says_why_and_can_be_cancelled(page: Page, stack: Stack) -> None:
    prompt = "a poster that is not wanted any more"
    stack.fault(fault="rate_limited", provider="ideogram", prompt_contains=prompt, retry_after=60)
    generate(page, prompt, "ideogram-v3")
    page.shows("The provider asked us to wait a little.", ".card .doing")

    page.click('.card [data-action="cancel"]')

    page.shows("Cancelled", FAILED)
    page.shows("Nothing was charged.", FAILED)
    assert not page.count('[data-action="cancel"]')
    assert stack.purchases(prompt) == []


def test_a_task_that_cannot_be_cancelled_goes_on_and_says_so(page: Page, stack: Stack) -> None:
    stack.fault(delay=4, provider="bfl")
    generate(page, "a fox that cannot be stopped")
    page.shows("Developing", ".card .doing")

    page.click('.card [data-action="cancel"]')

    page.shows("cannot be cancelled", ".card .notice")
    page.until(lambda: page.count(DONE), "done all the same")


# -- history


def test_what_is_removed_stays_away_and_the_rest_can_be_used_again(
    page: Page, stack: Stack
) -> None:
    for prompt in ("the first fox", "the second fox"):
        generate(page, prompt)
        page.shows(prompt, DONE)
        page.until(lambda: page.count(DONE) and not page.count(".developing"), "done")
    assert page.text(f"{DONE} .prompt") == "the second fox"

    page.click(f'{DONE} [data-action="remove"]')
    page.reload()

    page.shows("the first fox", DONE)
    assert page.count(".card") == 1
    page.type("#prompt", "something else")
    choose(page, "dall-e-3")
    page.click(f'{DONE} [data-action="edit"]')
    assert page.evaluate("document.querySelector('#prompt').value") == "the first fox"
    assert "flux-pro" in page.text("#chosen")


def test_tasks_from_elsewhere_are_shown_too(page: Page, stack: Stack) -> None:
    task = stack.submit("a fox from another client", "flux-schnell")
    stack.finished(task)
    stack.finished(stack.submit("a fox from elsewhere sim:moderated"))

    page.reload()

    page.shows("a fox from another client", DONE)
    page.until(lambda: shown_pictures(page), "its picture")
    page.shows("A task submitted elsewhere", FAILED)
    assert not page.count(f'{FAILED} [data-action="retry"]')
    page.click('#filter .chip:has(input[value="failed"])')
    assert (page.count(DONE), page.count(FAILED)) == (0, 1)


# -- the request as code


def test_the_request_as_code_does_what_the_form_does(
    page: Page, stack: Stack, tmp_path: Path
) -> None:
    prompt = 'it\'s a "fox" $HOME \\ `x`\nin two lines, snippet'
    choose(page, "flux-pro")
    page.click('.chip:has(input[name="size"][value="512x512"])')
    page.type("#prompt", prompt)
    page.click("#more summary")
    page.type("#seed", "7")
    page.click("#form-code")
    environment = {**os.environ, "DARKROOM_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}
    commands = {
        "curl": ["bash", "-euc"],
        "python": [sys.executable, "-c"],
        "openai": [sys.executable, "-c"],
    }

    for language, command in commands.items():
        page.click(f"#code-tab-{language}")
        code = page.evaluate("document.querySelector('#code-text').textContent")
        assert KEY not in code
        answer = subprocess.run(
            [*command, code], env=environment, capture_output=True, text=True, timeout=60
        )
        assert answer.returncode == 0, answer.stderr
        assert f"{stack.url}/files/imgtask_" in answer.stdout, (language, answer.stdout)
    page.click("#code-tab-javascript")
    page.click("#code-key")
    code = page.evaluate("document.querySelector('#code-text').textContent")
    printed = page.evaluate(
        "(async () => { const said = []; const console = {log: text => said.push(text)};"
        f"{code}; return said.join() }})()"
    )
    assert printed.startswith(f"{stack.url}/files/imgtask_")

    purchases = stack.purchases("snippet")
    assert [(entry["prompt"], entry["seed"]) for entry in purchases] == [(prompt, 7)] * 4


# -- for everybody


def test_every_control_has_a_name_and_every_picture_a_text(page: Page) -> None:
    generate(page, "a fox that is described")
    page.until(lambda: page.count(DONE), "done")
    page.click("#picker summary")
    page.click("#more summary")
    roles = {"button", "textbox", "radio", "checkbox", "link", "combobox", "image", "progressbar"}

    nodes = page.call("Accessibility.getFullAXTree")["nodes"]

    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in roles
    ]
    assert len(named) > 40
    assert [role for role, name in named if not name.strip()] == []
    assert ("image", "a fox that is described") in named
    assert ("textbox", "Prompt") in named


def test_the_keyboard_is_enough(page: Page) -> None:
    page.evaluate("document.querySelector('#prompt').focus()")
    page.call("Input.insertText", text="a fox by keyboard alone")
    page.press("Tab")
    page.press("Enter")
    page.until(lambda: page.count(".model"), "the models")
    page.press("Tab")
    before = page.text("#chosen")
    page.press("ArrowDown")
    assert page.text("#chosen") != before
    page.press("Enter")

    assert not page.count(".model")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.evaluate("document.querySelector('#prompt').focus()")
    page.press("Enter", control=True)
    page.until(lambda: page.count(DONE), "done")


@pytest.mark.parametrize(("width", "height"), [(360, 740), (820, 1180), (1280, 900)])
def test_nothing_is_wider_than_the_screen(page: Page, width: int, height: int) -> None:
    generate(page, "a fox " + "w" * 300)
    page.until(lambda: shown_pictures(page), "done")

    page.size(width, height, mobile=width < 400)

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click(f"{DONE} .picture")
    page.until(lambda: shown_pictures(page, "#viewer-picture"), "whole picture")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelector('#viewer').scrollWidth") <= width


def test_dark_and_still_for_those_who_prefer_it(page: Page, stack: Stack) -> None:
    page.prefer(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    stack.fault(delay=3, provider="bfl")
    generate(page, "a fox at night")
    page.shows("Developing", ".card .doing")

    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == (
        "rgb(20, 17, 16)"
    )
    assert page.evaluate("document.getAnimations().length") == 0
    page.until(lambda: page.count(DONE), "done")
