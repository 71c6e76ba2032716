"""What a waiting task is told: what is known, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from api.outlook import Outlook
from api.recent import RecentOutcomes
from common.catalog import Catalog, Model
from common.store import Outcomes, Shut, TaskStore
from common.task import ImageRequest, Status, Task
from tests.api.conftest import Stack
from tests.common.tasks import RESULT, claimed

NOW = 1_700_000_000
TASK = Task(
    id="imgtask_0",
    owner="key_0",
    request=ImageRequest("flux-pro", "x"),
    queue="images.bfl",
    created=NOW * 1000,
    deadline=0,
)
RUNNING = replace(TASK, status=Status.PROCESSING, started=(NOW - 4) * 1000)
MEASURED = Outcomes(succeeded=5, mean_seconds=30, mean_run=10)


class Recent(RecentOutcomes):
    """What is known of the models is given, and not counted."""

    def __init__(self, seen: Outcomes = MEASURED, shut: dict[str, Shut] | None = None) -> None:
        self._seen = seen
        self._shut = shut or {}

    def of(self, model: Model) -> Outcomes:
        return self._seen

    def _look(self) -> None:
        pass


def outlook(recent: Recent) -> Outlook:
    return Outlook(Catalog.load(), ["bfl"], recent, clock=lambda: NOW)


def test_a_task_is_told_its_place_and_when_it_will_be_done() -> None:
    waiting = replace(TASK, queue_position=7, begins_in=2.5)

    assert outlook(Recent()).of(waiting) == {"queue_position": 7, "eta_seconds": 13}


def test_a_task_that_runs_is_told_what_is_left_of_the_usual_time() -> None:
    assert outlook(Recent()).of(RUNNING) == {"eta_seconds": 6}


@pytest.mark.parametrize(
    ("task", "seen"),
    [
        (TASK, MEASURED),  # nobody knows when it begins
        (replace(TASK, begins_in=2.5), replace(MEASURED, succeeded=4)),
        (replace(TASK, begins_in=2.5), Outcomes()),
        (replace(RUNNING, started=(NOW - 11) * 1000), MEASURED),  # it takes longer than others
        (replace(TASK, request=ImageRequest("gone", "x"), begins_in=1.0), MEASURED),
    ],
)
def test_what_is_not_known_is_not_told(task: Task, seen: Outcomes) -> None:
    assert outlook(Recent(seen)).of(task) == {}


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_a_task_that_is_over_has_nothing_before_it(status: Status) -> None:
    assert outlook(Recent()).of(replace(RUNNING, status=status)) == {}


def test_a_task_that_was_put_back_says_why_and_not_when() -> None:
    assert outlook(Recent()).of(replace(RUNNING, blocked="rate_limited")) == {
        "blocked_reason": "rate_limited"
    }


@pytest.mark.parametrize("shut", ["bfl", "bfl/flux-pro-1.1"])
def test_a_task_whose_every_route_is_shut_says_why(shut: str) -> None:
    recent = Recent(Outcomes(), {shut: Shut("no_credit", 100)})

    assert outlook(recent).of(TASK) == {"blocked_reason": "no_credit"}


@pytest.mark.parametrize("name", ["bfl", "bfl/flux-pro-1.1", "model:flux-pro"])
def test_what_an_operator_has_paused_is_said_so_and_not_recommended(name: str) -> None:
    recent = Recent(Outcomes(), {name: Shut("paused", math.inf)})
    model = Catalog.load().get("flux-pro")

    assert outlook(recent).of(TASK) == {"blocked_reason": "paused"}
    assert model is not None
    assert not recent.is_usable(model, ["bfl"])


def test_a_task_with_an_open_route_is_not_blocked() -> None:
    recent = Recent(Outcomes(), {"fal": Shut("no_credit", 100)})

    assert outlook(recent).of(TASK) == {}


@pytest.mark.parametrize(("begins_in", "after"), [(0.5, 3), (50.0, 15), (1000.0, 30)])
def test_when_to_ask_again_follows_from_what_is_known(begins_in: float, after: int) -> None:
    assert outlook(Recent()).retry_after("flux-pro", replace(TASK, begins_in=begins_in)) == after


def test_the_time_a_task_takes_is_counted_from_its_first_claim(store: TaskStore) -> None:
    for _ in range(2):
        held = claimed(store)
        store.complete(held.task.id, held.task.generation, RESULT)

    seen = store.outcomes()["flux-pro"]

    assert seen.mean_run is not None
    assert seen.mean_seconds is not None
    assert seen.mean_run <= seen.mean_seconds


def test_a_waiting_task_is_told_its_place(stack: Stack) -> None:
    first, second = stack.submit(), stack.submit()
    places = [stack.get(f"/v1/tasks/{t}").json()["queue_position"] for t in (first, second)]

    assert places[0] < places[1]
    assert "queue_position" not in stack.post({"model": "flux-pro", "prompt": "x"}).json()
