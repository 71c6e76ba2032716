"""The checker finds what the runs are there to find: each kind of damage, planted by hand."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.chaos.checker import Evidence, count

MARKER = "t00001r0"
TASK = "imgtask_" + "1" * 32

Accounts = dict[str, list[dict[str, Any]]]


@pytest.fixture
def accounts() -> Accounts:
    """What is left of one task with two pictures of Black Forest Labs, when all went well."""
    return {
        "client": [
            _submit(202),
            *(_poll(state) for state in ("pending", "processing", "completed")),
            {"what": "end", "marker": MARKER, "task": TASK, "body": _body()},
            {"what": "look", "marker": MARKER, "status": 200, "same": True, "seconds": 0.1},
        ],
        "ledger": [_purchase("job-1", 11), _purchase("job-2", 12)],
        "records": [_record()],
    }


def test_nothing_is_found_where_nothing_is_wrong(accounts: Accounts, tmp_path: Path) -> None:
    found = _count(accounts, tmp_path)

    assert (found["accepted"], found["completed"], found["pictures"]) == (1, 1, 2)
    assert found["images_checked"] == 2
    assert _damage(found) == {}


def test_a_task_without_an_end_is_lost(accounts: Accounts, tmp_path: Path) -> None:
    accounts["client"] = accounts["client"][:3]
    accounts["records"][0]["status"] = "processing"

    assert _damage(_count(accounts, tmp_path)) == {"lost": [MARKER], "records_open": 1}


def test_one_picture_bought_twice_is_found_although_the_other_was_not_bought(
    accounts: Accounts, tmp_path: Path
) -> None:
    accounts["ledger"][1]["seed"] = 11

    assert _damage(_count(accounts, tmp_path)) == {"bought_twice": [MARKER]}


def test_more_pictures_than_asked_for_are_bought_twice(accounts: Accounts, tmp_path: Path) -> None:
    accounts["ledger"].append(_purchase("job-3", 13))

    assert _damage(_count(accounts, tmp_path)) == {"bought_twice": [MARKER]}


def test_a_second_grid_is_bought_twice_whatever_was_asked_for(
    accounts: Accounts, tmp_path: Path
) -> None:
    accounts["ledger"] = [_purchase(job, None, "midjourney") for job in ("job-1", "job-2")]

    assert _damage(_count(accounts, tmp_path)) == {"bought_twice": [MARKER]}


def test_one_grid_is_enough_for_four_pictures(accounts: Accounts, tmp_path: Path) -> None:
    accounts["ledger"] = [_purchase("job-1", None, "midjourney")]

    assert _damage(_count(accounts, tmp_path)) == {}


def test_pictures_that_nobody_paid_for_are_found(accounts: Accounts, tmp_path: Path) -> None:
    del accounts["ledger"][1]

    assert _damage(_count(accounts, tmp_path)) == {"pictures_not_bought": [MARKER]}


def test_a_purchase_without_a_task_is_found(accounts: Accounts, tmp_path: Path) -> None:
    accounts["ledger"].append(_purchase("job-3", 1) | {"prompt": "t00002r0"})

    assert _damage(_count(accounts, tmp_path)) == {
        "bought_for_nobody": ["t00002r0"],
        "bought_twice": ["t00002r0"],
    }


def test_a_submit_that_became_two_tasks_is_found(accounts: Accounts, tmp_path: Path) -> None:
    accounts["records"].append(_record() | {"id": "imgtask_" + "2" * 32})

    found = _damage(_count(accounts, tmp_path))

    assert found == {"records_doubled": [MARKER], "records_that_differ": [MARKER]}


@pytest.mark.parametrize(
    "states", [("processing", "pending"), ("completed", "processing"), ("failed", "completed")]
)
def test_a_status_that_goes_back_is_found(
    accounts: Accounts, tmp_path: Path, states: tuple[str, ...]
) -> None:
    accounts["client"] += [_poll(state) for state in states]

    assert _damage(_count(accounts, tmp_path)) == {"went_back": [MARKER]}


def test_an_answer_that_changes_after_the_end_is_found(accounts: Accounts, tmp_path: Path) -> None:
    accounts["client"][-1]["same"] = False

    assert _damage(_count(accounts, tmp_path)) == {"changed_after_the_end": [MARKER]}


@pytest.mark.parametrize("how", ["gone", "cut", "another"])
def test_a_picture_that_is_not_what_the_record_says_is_found(
    accounts: Accounts, tmp_path: Path, how: str
) -> None:
    evidence = _evidence(accounts, tmp_path)
    path = tmp_path / TASK / "0.png"
    match how:
        case "gone":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:-20])
        case _:
            path.write_bytes(_png("red"))

    assert _damage(count(evidence)) == {"images_bad": [f"{TASK}/0.png"]}


def test_answers_that_are_neither_success_nor_503_are_found(
    accounts: Accounts, tmp_path: Path
) -> None:
    accounts["client"] += [_submit(503), _submit(500), _submit(0)]

    assert _damage(_count(accounts, tmp_path)) == {"answers_beside_2xx_and_503": {"500": 1}}


def test_an_unknown_outcome_counts_also_for_one_picture_of_several(
    accounts: Accounts, tmp_path: Path
) -> None:
    accounts["client"][4]["body"]["missing"] = [{"code": "outcome_unknown"}]

    found = _count(accounts, tmp_path)

    assert (found["outcome_unknown"], found["completed_in_part"]) == (1, 1)


def _count(accounts: Accounts, directory: Path) -> dict[str, Any]:
    return count(_evidence(accounts, directory))


def _damage(found: dict[str, Any]) -> dict[str, Any]:
    names = (
        "lost", "bought_twice", "bought_for_nobody", "pictures_not_bought", "records_open",
        "records_doubled", "records_that_differ", "went_back", "changed_after_the_end",
        "images_bad", "answers_beside_2xx_and_503",
    )  # fmt: skip
    return {name: found[name] for name in names if found[name]}


def _evidence(accounts: Accounts, directory: Path) -> Evidence:
    (directory / TASK).mkdir()
    for index in range(2):
        (directory / TASK / f"{index}.png").write_bytes(_png("blue"))
    return Evidence(accounts["client"], accounts["ledger"], accounts["records"], directory)


def _submit(status: int) -> dict[str, Any]:
    about = {"order": 1, "marker": MARKER, "n": 2, "model": "flux-pro", "error": "X: y"}
    return {"what": "submit", "status": status, "task": TASK, "seconds": 0.1} | about


def _poll(state: str) -> dict[str, Any]:
    return {"what": "poll", "marker": MARKER, "status": 200, "state": state, "seconds": 0.1}


def _body() -> dict[str, Any]:
    return {"id": TASK, "status": "completed", "data": [{}, {}]}


def _purchase(job: str, seed: int | None, provider: str = "bfl") -> dict[str, Any]:
    return {"provider": provider, "prompt": f"{MARKER} a fox", "job_id": job, "seed": seed}


def _record() -> dict[str, Any]:
    data = _png("blue")
    image = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "width": 8}
    images = [image | {"name": f"{TASK}/{index}.png", "height": 8} for index in range(2)]
    return {
        "id": TASK,
        "status": "completed",
        "request": json.dumps({"prompt": f"{MARKER} a fox"}),
        "result": json.dumps({"images": images}),
        "losses": "0",
    }


def _png(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()
