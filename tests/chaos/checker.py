"""Compares what the client saw with what was bought, what the records say and what is stored.

Nothing is judged while a run is under way: everybody writes down what happened, and afterwards the
four accounts have to agree. What is counted here are facts; which count a run may have is the
run's own business.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.chaos.load import marker_of
from tests.chaos.system import Record, in_doubt

__all__ = ["Evidence", "count", "lines"]

_ORDER = {"pending": 0, "processing": 1, "completed": 2, "failed": 2}
_FOREIGN = "169.254.169.254"  # where some faults of the sandbox want us to go
_SOLD_TOGETHER = {"midjourney"}  # one purchase, whatever n is


@dataclass(frozen=True)
class Evidence:
    """What is left of a run."""

    client: list[dict[str, Any]]  # the client's log
    ledger: list[dict[str, Any]]  # the sandbox's purchases
    records: list[Record]  # what Redis holds in the end
    images: Path  # the directory of pictures

    @classmethod
    def of(cls, directory: Path, records: list[Record], images: Path | None = None) -> Evidence:
        """What a system has left in its directory, and in Redis; pictures may be elsewhere."""
        return cls(
            lines(directory / "client.jsonl"),
            lines(directory / "ledger.jsonl"),
            records,
            images or directory / "images",
        )


def lines(path: Path) -> list[dict[str, Any]]:
    """The entries of a file of JSON lines; none when there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def count(evidence: Evidence) -> dict[str, Any]:
    """The figures of a run.

    `lost` are tasks that were accepted and are not known any more or did not end; `bought_twice`
    tasks for which more was bought than they asked for, or one picture of theirs twice;
    `records_doubled` submits that became two tasks; `went_back` tasks whose status was seen to go
    back; `changed_after_the_end` those whose answer was another one when it was asked for again.
    """
    submits = [entry for entry in evidence.client if entry["what"] == "submit"]
    polls = [entry for entry in evidence.client if entry["what"] == "poll"]
    looks = [entry for entry in evidence.client if entry["what"] == "look"]
    asked = [*submits, *polls, *looks]
    accepted = {entry["marker"]: entry for entry in submits if entry["status"] == 202}
    ends = {e["marker"]: e["body"] for e in evidence.client if e["what"] == "end"}
    records = _by_marker(evidence.records)
    answers = Counter(entry["status"] for entry in asked)
    completed = [body for body in ends.values() if body["status"] == "completed"]
    missing = [failure["code"] for body in completed for failure in body.get("missing", [])]
    failed = Counter(b["error_detail"]["code"] for b in ends.values() if b["status"] == "failed")
    bought_twice = sorted(_bought_twice(evidence))
    return {
        "orders": len({entry["order"] for entry in submits}),
        "submitted": len(submits),
        "most_tries": max(Counter(entry["order"] for entry in submits).values(), default=0),
        "accepted": len(accepted),
        "refused_503": sum(entry["status"] == 503 for entry in submits),
        "submits_without_answer": sum(entry["status"] == 0 for entry in submits),
        "polls": len(polls),
        "polls_503": sum(entry["status"] == 503 for entry in polls),
        "polls_without_answer": sum(entry["status"] == 0 for entry in polls),
        "why_no_answer": dict(
            Counter(entry["error"].partition(":")[0] for entry in asked if entry["status"] == 0)
        ),
        "answers_beside_2xx_and_503": {
            str(status): number
            for status, number in sorted(answers.items())
            if status not in (0, 503) and not 200 <= status < 300
        },
        "completed": len(completed),
        "completed_in_part": sum(bool(body.get("missing")) for body in completed),
        "pictures": sum(len(body["data"]) for body in completed),
        "pictures_missing": dict(Counter(missing)),
        "failed": dict(failed),
        "addresses_shown": sum(_FOREIGN in json.dumps(body) for body in ends.values()),
        "outcome_unknown": failed["outcome_unknown"]
        + sum("outcome_unknown" in str(b.get("missing")) for b in completed),
        "lost": sorted(marker for marker in accepted if marker not in ends),
        "purchases": len(evidence.ledger),
        "bought_twice": bought_twice,
        "bought_for_nobody": sorted(
            {marker_of(entry["prompt"]) for entry in evidence.ledger} - set(records)
        ),
        "pictures_not_bought": sorted(_not_bought(evidence.ledger, ends)),
        "records": len(evidence.records),
        "records_open": sum(r["status"] not in ("completed", "failed") for r in evidence.records),
        "records_doubled": sorted(marker for marker, found in records.items() if len(found) > 1),
        "records_in_doubt": sum(bool(in_doubt(record)) for record in evidence.records),
        "records_that_differ": sorted(_differ(ends, records)),
        "went_back": sorted(_went_back(polls)),
        "changed_after_the_end": sorted(e["marker"] for e in looks if not e["same"]),
        "losses": sum(int(record["losses"]) for record in evidence.records),
        "images_checked": sum(len(_images(record)) for record in evidence.records),
        "images_bad": _bad_images(evidence),
        "slowest_answer": round(
            max((e["seconds"] for e in asked if not e.get("held")), default=0.0), 3
        ),
    }


def _by_marker(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[marker_of(json.loads(record["request"])["prompt"])].append(record)
    return found


def _bought_twice(evidence: Evidence) -> set[str]:
    """Markers of tasks for which a call was paid twice, or more pictures than were asked for.

    The ledger has an entry per picture, those of one call with one job id. Calls of one task have
    different seeds, where the provider takes seeds: two calls with the same one are the same
    purchase, made twice, be it of another provider.
    """
    asked = {e["marker"]: e["n"] for e in evidence.client if e["what"] == "submit"}
    calls: defaultdict[tuple[str, int | None], set[str]] = defaultdict(set)
    pictures: Counter[str] = Counter()
    twice = set()
    for entry in evidence.ledger:
        marker = marker_of(entry["prompt"])
        calls[marker, entry["seed"]].add(entry["job_id"])
        pictures[marker] += 1
        if pictures[marker] > (1 if entry["provider"] in _SOLD_TOGETHER else asked.get(marker, 0)):
            twice.add(marker)
    return twice | {marker for (marker, _), jobs in calls.items() if len(jobs) > 1}


def _not_bought(ledger: Iterable[Mapping[str, Any]], ends: Mapping[str, Any]) -> set[str]:
    """Completed tasks with more pictures than the ledger has purchases: the account is wrong."""
    sold = Counter(
        marker_of(e["prompt"])
        for e in ledger
        for _ in range(4 if e["provider"] in _SOLD_TOGETHER else 1)
    )
    return {
        marker
        for marker, body in ends.items()
        if body["status"] == "completed" and len(body["data"]) > sold[marker]
    }


def _differ(ends: Mapping[str, Any], records: Mapping[str, list[Record]]) -> set[str]:
    """Ended tasks whose record says something else than the client was told."""
    return {
        marker
        for marker, body in ends.items()
        if [(r["id"], r["status"]) for r in records.get(marker, [])]
        != [(body["id"], body["status"])]
    }


def _went_back(polls: Iterable[Mapping[str, Any]]) -> set[str]:
    """Markers of tasks whose polls, which came one after the other, tell of a way back."""
    last: dict[str, str] = {}
    back = set()
    for entry in polls:
        state = entry["state"]
        if state is None:
            continue
        before = last.get(entry["marker"], "pending")
        if _ORDER[state] < _ORDER[before] or (_ORDER[before] == 2 and state != before):
            back.add(entry["marker"])
        last[entry["marker"]] = state
    return back


def _images(record: Record) -> list[dict[str, Any]]:
    return json.loads(record["result"])["images"] if record["status"] == "completed" else []


def _bad_images(evidence: Evidence) -> list[str]:
    """Names of pictures of completed tasks that are not stored as their record says."""
    return [
        image["name"]
        for record in evidence.records
        for image in _images(record)
        if not _is_sound(evidence.images / image["name"], image)
    ]


def _is_sound(path: Path, image: Mapping[str, Any]) -> bool:
    try:
        data = path.read_bytes()
        with warnings.catch_warnings(), Image.open(path) as picture:
            picture.load()
            return (
                hashlib.sha256(data).hexdigest() == image["sha256"]
                and len(data) == image["bytes"]
                and picture.size == (image["width"], image["height"])
            )
    except OSError:
        return False
