"""The client of the chaos suite: submits at its own pace, polls to the end, writes all of it down.

It is an open loop: what is submitted when does not depend on how the system fares. Every line of
its log is written before the next request of the same task, and never changed.
"""

from __future__ import annotations

import heapq
import http.client
import itertools
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.stack import KEY

__all__ = ["Answer", "Client", "Log", "Order", "marker_of", "orders"]

REQUEST_SECONDS = 30.0
_SUBMIT = "/v1/images/generations"
_FINAL = ("completed", "failed")
_MARKER = re.compile(r"\bt\d{5}r\d+\b")

# How often each model is asked for, and its smallest size. Pictures that have to be scaled cost
# most; a grid of Midjourney is four of them.
_MODELS = {
    "flux-pro": (25, "256x256"),
    "flux-schnell": (20, "512x512"),
    "dall-e-2": (20, "1024x1024"),
    "stable-diffusion-3": (15, "1024x1024"),
    "midjourney": (10, "1024x1024"),
    "ideogram-v3": (5, "1024x1024"),
    "gemini-image": (5, "512x512"),
}
_TAKES_SEED = {"flux-pro", "flux-schnell", "stable-diffusion-3", "midjourney", "ideogram-v3"}
_COUNTS = (1, 1, 1, 2, 2, 3, 4)


@dataclass(frozen=True)
class Order:
    """One task that is to be had. `at` is in seconds from the start of the load.

    `words` are added to the prompt, for the sandbox; `body` to the request.
    """

    index: int
    at: float
    model: str
    n: int = 1
    words: str = ""
    body: dict[str, Any] = field(default_factory=dict)

    def marker(self, attempt: int) -> str:
        """What no other submit has in its prompt: the ledger is read by it."""
        return f"t{self.index:05}r{attempt}"

    def request(self, attempt: int) -> dict[str, Any]:
        size = _MODELS[self.model][1] if self.model in _MODELS else "1024x1024"
        prompt = f"{self.marker(attempt)} {self.words}".strip()
        request = {"model": self.model, "prompt": prompt, "n": self.n, "size": size}
        if self.model in _TAKES_SEED:
            request["seed"] = 10 * self.index + 1
        return request | self.body


def marker_of(prompt: str) -> str:
    """The marker in a prompt, empty when there is none."""
    found = _MARKER.search(prompt)
    return found[0] if found else ""


def orders(
    rng: random.Random, rate: float, models: Sequence[str] = tuple(_MODELS), *, first: int = 0
) -> Iterator[Order]:
    """Orders without end, about `rate` per second, of a mix of models; the number of the `first`.

    Gemini sells pictures singly and has no seeds, so that two of one task could not be told apart:
    it is asked for one at a time.
    """
    rng = random.Random(rng.random())  # drawn from at the pace of the load, not of the faults
    weights = [_MODELS[model][0] for model in models]
    at = 0.0
    for index in itertools.count(first):
        at += rng.expovariate(rate)
        model = rng.choices(models, weights)[0]
        n = 1 if model == "gemini-image" else rng.choice(_COUNTS)
        yield Order(index, at, model, n)


class Log:
    """JSON lines that are only ever appended. Safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()

    def write(self, what: str, **fields: Any) -> None:
        line = json.dumps({"at": round(time.time(), 4), "what": what} | fields)
        with self._lock:
            self._file.write(f"{line}\n")

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Answer:
    """`status` 0: there was none, and `error` says why."""

    status: int
    body: dict[str, Any]
    seconds: float
    error: str = ""


class Client:
    """Carries out orders with a number of threads; each request has a connection of its own.

    `patience`: how long, in seconds, a submit that was refused or not answered is made anew, each
    time as another task. 0: never. With `hold` every other poll asks to be held for so many
    seconds.
    """

    def __init__(
        self,
        urls: Sequence[str],
        log: Log,
        *,
        threads: int = 24,
        patience: float = 60,
        hold: int = 0,
    ) -> None:
        self._urls = list(urls)
        self._log = log
        self._patience = patience
        self._hold = hold
        self._actions: list[tuple[float, int, Callable[[], None]]] = []
        self._changed = threading.Condition()
        self._number = 0
        self._stopped = False
        self._enough = False
        self._busy = 0
        self._over: set[int] = set()  # orders
        self._ends: dict[str, tuple[str, dict[str, Any]]] = {}
        self.submitted = 0  # orders begun
        self.accepted = 0
        self.answered = 0  # submits and looks, not polls
        self.ended = 0
        self.gone = 0  # answered with 404 after a 202
        self.given_up = 0  # orders that were never accepted
        self.broken: BaseException | None = None  # what the client itself died of
        self._threads = [
            threading.Thread(target=self._work, name=f"client-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self, wanted: Iterable[Order]) -> None:
        """Begin with the orders, each at its time from now; there may be no end of them."""
        self._next(iter(wanted), time.monotonic())
        for thread in self._threads:
            if not thread.is_alive():
                thread.start()

    def enough(self) -> None:
        """Carry out no further orders."""
        self._enough = True

    @property
    def open(self) -> int:
        """Accepted tasks whose end has not been seen."""
        return self.accepted - self.ended - self.gone

    def has_ended(self, wanted: Iterable[Order]) -> bool:
        """Whether each of these orders has come to an end, good or bad."""
        return self._over.issuperset(order.index for order in wanted)

    def is_done(self) -> bool:
        """Whether every order is carried out and every accepted task was seen to end."""
        if self.broken is not None:
            raise self.broken
        with self._changed:
            return not self._actions and not self._busy

    def look_again(self, times: int | None = None) -> int:
        """Ask again for tasks that have ended, so many times or once for each of them.

        What is final may not change. Returns how often that is going to be asked.
        """
        ends = [(marker, *end) for marker, end in self._ends.items()]
        wanted = ends if times is None else list(itertools.islice(itertools.cycle(ends), times))
        for args in wanted:
            self._later(time.monotonic(), partial(self._compare, *args))
        return len(wanted)

    def stop(self) -> None:
        """Finish the requests under way and do nothing any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(REQUEST_SECONDS + 5)

    def ask(self, method: str, path: str, body: Any = None, *, turn: int = 0) -> Answer:
        """One request, to the front end whose turn it is; never raises."""
        parts = urlsplit(self._urls[turn % len(self._urls)])
        began = time.monotonic()
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=REQUEST_SECONDS
        )
        try:
            connection.request(
                method,
                path,
                None if body is None else json.dumps(body),
                {
                    "Authorization": f"Bearer {KEY}",
                    "Content-Type": "application/json",
                    "Connection": "close",
                },
            )
            answer = connection.getresponse()
            content = json.loads(answer.read())
            return Answer(answer.status, content, time.monotonic() - began)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Answer(0, {}, time.monotonic() - began, f"{type(error).__name__}: {error}")
        finally:
            connection.close()

    # -- the actions

    def _next(self, wanted: Iterator[Order], begun: float) -> None:
        order = next(wanted, None)
        if order is not None:
            self._later(begun + order.at, partial(self._begin, order, wanted, begun))

    def _begin(self, order: Order, wanted: Iterator[Order], begun: float) -> None:
        if self._enough:
            return
        self._next(wanted, begun)
        self._count("submitted")
        self._submit(order, 0, time.monotonic())

    def _submit(self, order: Order, attempt: int, since: float) -> None:
        request = order.request(attempt)
        answer = self.ask("POST", _SUBMIT, request, turn=order.index + attempt)
        error = answer.body.get("error")
        task_id = answer.body.get("id") or (error or {}).get("task_id")
        self._log.write(
            "submit",
            order=order.index,
            marker=order.marker(attempt),
            model=order.model,
            n=order.n,
            words=order.words,
            status=answer.status,
            task=task_id,
            seconds=round(answer.seconds, 4),
            error=answer.error or (error or {}).get("code"),
        )
        self._count("answered")
        if answer.status == 202:
            self._count("accepted")
            marker = order.marker(attempt)
            self._later(time.monotonic() + 0.3, partial(self._poll, marker, str(task_id), 1, 0))
        elif time.monotonic() - since < self._patience:
            again = time.monotonic() + 0.5
            self._later(again, partial(self._submit, order, attempt + 1, since))
        else:
            self._over.add(order.index)
            self._count("given_up")

    def _poll(self, marker: str, task_id: str, number: int, unknown: int) -> None:
        hold = f"?wait={self._hold}" if self._hold and number % 2 else ""
        answer = self.ask("GET", f"/v1/tasks/{task_id}{hold}", turn=number)
        status = answer.body.get("status") if answer.status == 200 else None
        self._log.write(
            "poll",
            marker=marker,
            task=task_id,
            status=answer.status,
            state=status,
            held=bool(hold),
            seconds=round(answer.seconds, 4),
            error=answer.error,
        )
        if status in _FINAL:
            self._log.write("end", marker=marker, task=task_id, body=answer.body)
            self._ends[marker] = task_id, answer.body
            self._over.add(int(marker[1:6]))
            self._count("ended")
            return
        unknown = unknown + 1 if answer.status == 404 else 0
        if unknown == 3:
            self._over.add(int(marker[1:6]))
            self._count("gone")
            return
        again = time.monotonic() + min(1.5, 0.3 * 1.4**number)
        self._later(again, partial(self._poll, marker, task_id, number + 1, unknown))

    def _compare(self, marker: str, task_id: str, body: dict[str, Any]) -> None:
        answer = self.ask("GET", f"/v1/tasks/{task_id}")
        self._log.write(
            "look",
            marker=marker,
            task=task_id,
            status=answer.status,
            same=answer.status != 200 or answer.body == body,
            seconds=round(answer.seconds, 4),
            error=answer.error,
        )
        self._count("answered")

    # -- the threads

    def _later(self, at: float, action: Callable[[], None]) -> None:
        with self._changed:
            self._number += 1
            heapq.heappush(self._actions, (at, self._number, action))
            self._changed.notify()

    def _count(self, name: str) -> None:
        with self._changed:
            setattr(self, name, getattr(self, name) + 1)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._stopped:
                    left = self._actions[0][0] - time.monotonic() if self._actions else None
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
                if self._stopped:
                    return
                _, _, action = heapq.heappop(self._actions)
                self._busy += 1
            try:
                action()
            except Exception as error:  # noqa: BLE001 - `is_done` raises it
                self.broken = error
            finally:
                with self._changed:
                    self._busy -= 1
