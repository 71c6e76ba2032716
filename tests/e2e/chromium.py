"""A real Chromium, spoken to by its DevTools protocol: what a person does and sees."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from websockets.sync.client import ClientConnection, connect

from tests.processes import until

BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium")

needs_chromium = pytest.mark.skipif(
    not BROWSER,
    reason="no Chromium: install it (Debian: apt install chromium), or name one in CHROMIUM",
)

_KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "Tab": ("Tab", 9, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
}
_CONTROL = 2
_OFFERED = "document.querySelectorAll('.model').length"
# The middle of an element, once it is where it was two frames ago.
_WHERE_IT_RESTS = """(async () => {
  const frame = () => new Promise(requestAnimationFrame);
  const e = [...document.querySelectorAll(%s)].find(e => e.checkVisibility());
  e.scrollIntoView({block: "center", behavior: "instant"});
  for (let before = "";;) {
    const {x, y, width, height} = e.getBoundingClientRect();
    if (before === `${x} ${y}`) return [x + width / 2, y + height / 2];
    before = `${x} ${y}`;
    await frame();
    await frame();
  }
})()"""


class Page:
    """One tab. What went wrong in it is in `complaints`, what it asked for in `hosts`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self.complaints: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.lost = 0
        self._to_lose = 0
        self._refusal, self._unrefused = 0, ""
        self._ready = _OFFERED
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its result."""
        number = self._send(method, **parameters)
        while True:
            message = json.loads(self._connection.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result
            self._hear(message)

    def _send(self, method: str, **parameters: Any) -> int:
        number = next(self._ids)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        return number

    def _hear(self, message: dict[str, Any]) -> None:
        about = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = about["exceptionDetails"]
                thrown = details.get("exception", {}).get("description", "")
                self.complaints.append(f"{details['text']} {thrown}")
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning", "assert"):
                self.complaints.append(f"console: {about['args']}")
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                entry = about["entry"]
                # A refusal that the page knows how to handle is no fault of the page.
                if entry["source"] != "network":
                    self.complaints.append(f"{entry['source']}: {entry['text']}")
            case "Network.requestWillBeSent":
                request = about["request"]
                self.requests.append((request["method"], request["url"]))
            case "Fetch.requestPaused":
                self._let_pass_or_not(about["requestId"], about["request"]["url"], about)

    def _let_pass_or_not(self, request_id: str, url: str, about: dict[str, Any]) -> None:
        if "responseStatusCode" not in about and not url.endswith(self._unrefused):
            self._send("Fetch.fulfillRequest", requestId=request_id, responseCode=self._refusal)
        elif self.lost < self._to_lose:
            self.lost += 1
            self._send("Fetch.failRequest", requestId=request_id, errorReason="ConnectionReset")
        else:
            self._send("Fetch.continueRequest", requestId=request_id)

    @property
    def hosts(self) -> set[str]:
        """Everything that was asked for lies on these."""
        self.evaluate("0")
        parts = (urlsplit(url) for _, url in self.requests)
        return {part.netloc for part in parts if part.scheme not in ("data", "blob")}

    # -- what the page is

    def evaluate(self, expression: str) -> Any:
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """What people can read in an element; nothing where there is none."""
        return str(
            self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        )

    def count(self, selector: str) -> int:
        """How many such elements can be seen."""
        return int(
            self.evaluate(
                f"[...document.querySelectorAll({json.dumps(selector)})]"
                ".filter(e => e.checkVisibility()).length"
            )
        )

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        try:
            return until(condition, what, seconds)
        except AssertionError as error:
            page = self.evaluate("document.body.innerText")
            raise AssertionError(f"{error}\n{page}\n{self.complaints}") from None

    def shows(self, text: str, selector: str = "body", seconds: float = 30) -> None:
        """Wait until an element says `text`."""
        self.until(lambda: text in self.text(selector), f"{text!r} in {selector}", seconds)

    # -- what a person does

    def open(self, url: str, ready: str = _OFFERED) -> None:
        """Go there, and wait for what is true of the page when it can be used."""
        self._ready = ready
        self.call("Page.navigate", url=url)
        self.until(lambda: self.evaluate(ready), "the page is ready")

    def reload(self) -> None:
        self.evaluate("window.before = true")
        self.call("Page.reload")
        self.until(lambda: self.evaluate(f"!window.before && {self._ready}"), "reloaded")

    def click(self, selector: str) -> None:
        """With the pointer, where the element is: what covers it would get the click instead."""
        quoted = json.dumps(selector)
        self.until(lambda: self.count(selector), f"{selector} to click")
        x, y = self.evaluate(_WHERE_IT_RESTS % quoted)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Replace what is in a field."""
        self.click(selector)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, control: bool = False) -> None:
        code, number, text = _KEYS[key]
        modifiers = _CONTROL if control else 0
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        down = {"text": text} if text and not control else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", modifiers=modifiers, **common, **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **common)

    # -- what happens on the way

    def lose_answers(self, pattern: str, times: int) -> None:
        """Cut the connection when the server has answered, the next `times`; `lost` counts."""
        self._to_lose, self.lost = times, 0
        self.call("Fetch.enable", patterns=[{"urlPattern": pattern, "requestStage": "Response"}])

    def refuse(self, pattern: str, status: int, *, but: str = "nothing") -> None:
        """Let something between here and the server answer for it, with this status and no body,
        `but` to addresses that end so."""
        self._refusal, self._unrefused = status, but
        self.call("Fetch.enable", patterns=[{"urlPattern": pattern}])

    # -- how it looks

    def size(self, width: int, height: int, *, scale: float = 1, mobile: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=mobile,
        )

    def prefer(self, **features: str) -> None:
        """Media features, such as prefers_color_scheme="dark"."""
        named = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
        self.call("Emulation.setEmulatedMedia", features=named)

    def screenshot(self, file: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        file.write_bytes(base64.b64decode(data))


class Browser:
    """A Chromium without a window, with a profile of its own below `directory`."""

    def __init__(self, directory: Path) -> None:
        assert BROWSER
        self._process = subprocess.Popen(
            [
                BROWSER,
                "--headless=new",
                "--remote-debugging-port=0",
                f"--user-data-dir={directory}",
                "--no-sandbox",  # which root may not have
                "--no-first-run",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-extensions",
                "--password-store=basic",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            port = until(
                lambda: (directory / "DevToolsActivePort").read_text().split()[:1],
                "Chromium listens",
                60,
            )[0]
        except BaseException:
            self.close()
            raise
        self._base = f"http://127.0.0.1:{port}"

    @contextlib.contextmanager
    def page(self) -> Iterator[Page]:
        """A new tab that shares nothing with others: no storage, no cache."""
        version = requests.get(f"{self._base}/json/version", timeout=10).json()
        with connect(version["webSocketDebuggerUrl"], max_size=None) as control:

            def call(number: int, method: str, **parameters: Any) -> dict[str, Any]:
                control.send(json.dumps({"id": number, "method": method, "params": parameters}))
                while (message := json.loads(control.recv(timeout=30))).get("id") != number:
                    pass
                result: dict[str, Any] = message["result"]
                return result

            # It is gone with this connection.
            context = call(1, "Target.createBrowserContext", disposeOnDetach=True)
            target = call(2, "Target.createTarget", url="about:blank", **context)["targetId"]
            address = f"ws://{urlsplit(self._base).netloc}/devtools/page/{target}"
            with connect(address, max_size=None) as tab:
                yield Page(tab)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)


@contextlib.contextmanager
def running_browser(directory: Path) -> Iterator[Browser]:
    browser = Browser(directory)
    try:
        yield browser
    finally:
        browser.close()
