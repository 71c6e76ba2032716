"""A provider made by hand: each test says what it answers, and it keeps what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ClassVar

from common.catalog import Catalog, Model, Route
from common.task import ImageRequest
from tests.workers.pictures import picture
from workers.providers.base import (
    InDoubt,
    Job,
    Order,
    Outcome,
    Picture,
    Pictures,
    Provider,
    Stopped,
)

ROUTE = Route("plain", "plain-1", price_per_image_usd=0.02)
SECOND = Route("second", "second-1")
CAPPED = Route("plain", "capped", cap=2)
EDITING = tuple(
    Route(name, f"{name}-1", operations=("generation", "edit")) for name in ("plain", "second")
)
REQUEST = ImageRequest("painter", "a red apple", size="64x48")


def model(name: str, *routes: Route) -> Model:
    return Model(
        id=name,
        owned_by="us",
        mode="task",
        description="Paints.",
        sizes=("64x48",),
        default_size="64x48",
        max_n=4,
        max_prompt_characters=100,
        routes=routes,
        typical_seconds=1,
        deadline_seconds=600,
        created=0,
        price_per_image_usd=0.05,
    )


CATALOG = Catalog(
    [
        model("painter", Route("elsewhere", "e"), ROUTE, SECOND),
        model("busy painter", CAPPED),
        model("retoucher", Route("elsewhere", "e"), *EDITING),
        model("half a retoucher", ROUTE, EDITING[1]),
    ]
)


def pictures(count: int = 1, **options: object) -> Pictures:
    return Pictures(tuple(Picture(picture()) for _ in range(count)), {"cost_usd": 0.04})


class Plain(Provider):
    """`on_submit` and `on_poll` are the provider's side; what they raise is what it does."""

    name: ClassVar[str] = "plain"
    poll_every: ClassVar[float] = 0.005

    def __init__(
        self,
        on_submit: Callable[[int, int], Outcome] = lambda first, count: pictures(count),
        on_poll: Callable[[Job], Outcome] = lambda job: pictures(),
        on_lookup: Callable[[Order], Job | None] = lambda order: None,
        in_doubt: InDoubt = "none",
        on_cancel: Callable[[Job], Stopped | None] | None = None,
    ) -> None:
        self.cancels = on_cancel is not None  # type: ignore[misc]  # one class for all kinds
        self._on_cancel = on_cancel
        self.in_doubt = in_doubt  # type: ignore[misc]  # one class for all kinds
        self._on_lookup = on_lookup
        self.on_progress: Callable[[Order], int | None] = lambda order: None
        self._on_submit = on_submit
        self._on_poll = on_poll
        self._lock = threading.Lock()
        self.submits: list[tuple[int, int]] = []  # first and count of each
        self.keys: list[str] = []  # the name of each
        self.orders: list[Order] = []
        self.polls: list[Job] = []
        self.stops: list[Job] = []

    def submit(self, order: Order, *, timeout: float) -> Outcome:
        assert order.route in (ROUTE, SECOND, CAPPED, *EDITING)
        assert timeout > 0
        with self._lock:
            self.keys.append(order.key)
            self.orders.append(order)
            self.submits.append((order.first, order.count))
        return self._on_submit(order.first, order.count)

    def lookup(self, order: Order, *, timeout: float) -> Job | None:
        assert timeout > 0
        return self._on_lookup(order)

    def progress(self, order: Order, *, timeout: float) -> int | None:
        return self.on_progress(order)

    def poll(self, job: Job, *, timeout: float) -> Outcome:
        assert timeout > 0
        with self._lock:
            self.polls.append(job)
        return self._on_poll(job)

    def cancel(self, job: Job, *, timeout: float) -> Stopped | None:
        assert self._on_cancel is not None
        assert timeout > 0
        with self._lock:
            self.stops.append(job)
        return self._on_cancel(job)


class PlainInFours(Plain):
    """Makes up to four pictures in one call."""

    pictures_per_call: ClassVar[int] = 4
