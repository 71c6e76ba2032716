"""Submits and polls: how many a process of the front end takes, and how long each is under way.

The reference is a view that answers with the same JSON always, on the same server, in the same
run: rounds take turns, and each round has its own ratio.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.store import TaskStore
from common.task import ImageRequest, Result, StoredImage, new_task_id
from ops.bench.load import Load, Outcome, get, post, run
from ops.bench.report import Finding, Row, Series, ratio_row
from ops.bench.rig import KEY, Running, rig

__all__ = ["latency", "polls", "submits"]

_BODY = {"model": "dall-e-2", "prompt": "a red apple on a wooden table", "size": "1024x1024"}
_BEARER = {"Authorization": f"Bearer {KEY}"}
SUBMIT = post("/v1/images/generations", _BODY, **_BEARER)
_CONSTANT = get("/constant")
_SHARE = 0.6  # of the most that a process takes, where its latency is judged


def submits(directory: Path, brief: bool) -> Finding:
    """Submits a second, of 50 clients, against the constant view and the textbook."""
    with rig(directory) as bench:
        web, textbook = bench.web(), bench.textbook_web()
        callers = [
            post("/v1/images/generations", _BODY, Authorization=f"Bearer {key}")
            for key in bench.keys(50)
        ]
        rounds = _rounds(
            brief,
            {
                "constant": (textbook, [_CONSTANT]),
                "submit": (web, [SUBMIT]),
                "submit, 50 callers": (web, callers),
                "textbook": (textbook, [post("/images", _BODY)]),
            },
        )
    rates = _of(rounds, "rate")
    rows = [
        ratio_row("submits/s", rates["submit"], rates["constant"], 0.45, "constant view"),
        ratio_row(
            "submits/s, 50 callers",
            rates["submit, 50 callers"],
            rates["constant"],
            0.45,
            "constant view",
        ),
        ratio_row("submits/s", rates["submit"], rates["textbook"], 2.5, "textbook"),
        _cpu_row("submit", rounds),
    ]
    return Finding(rows, {"rounds": rounds})


def polls(directory: Path, brief: bool) -> Finding:
    """Polls a second, of 50 clients, against the constant view."""
    with rig(directory) as bench:
        web, textbook = bench.web(), bench.textbook_web()
        pending = [f"/v1/tasks/{kept(bench.store, bench.owner)}" for _ in range(200)]
        completed = [f"/v1/tasks/{complete(bench.store, bench.owner)}" for _ in range(200)]
        rounds = _rounds(
            brief,
            {
                "constant": (textbook, [_CONSTANT]),
                "pending": (web, [get(path, **_BEARER) for path in pending]),
                "completed": (web, [get(path, **_BEARER) for path in completed]),
                "pending, If-None-Match": (web, _unchanged(web, pending)),
                "completed, If-None-Match": (web, _unchanged(web, completed)),
            },
        )
    rates = _of(rounds, "rate")
    rows = [
        ratio_row(
            f"polls/s, {name}",
            rates[name],
            rates["constant"],
            0.65 if "Match" in name else 0.6,
            "constant view",
        )
        for name in rates
        if name != "constant"
    ]
    return Finding([*rows, _cpu_row("poll", rounds)], {"rounds": rounds})


def latency(directory: Path, brief: bool) -> Finding:
    """Latency of submits and polls that come at their own times, up to nine tenths of the most."""
    shares = (_SHARE,) if brief else (0.2, 0.4, _SHARE, 0.8, 0.9)
    seconds = 1.5 if brief else 6.0
    rows, lines, numbers = [], [], {}
    with rig(directory) as bench:
        web = bench.web()
        paths = [f"/v1/tasks/{kept(bench.store, bench.owner)}" for _ in range(200)]
        for name, requests in (
            ("submit", [SUBMIT]),
            ("poll", [get(path, **_BEARER) for path in paths]),
        ):
            closed = [_load(web, requests, seconds / 2) for _ in range(1 if brief else 3)]
            most = statistics.median(outcome.rate for outcome in closed)
            found = {}
            for share in shares:
                times = 1 if brief or share != _SHARE else 5
                found[share] = [
                    _load(web, requests, seconds, rate=share * most, seed=seed)
                    for seed in range(times)
                ]
            rows.append(_latency_row(name, _SHARE * most, found[_SHARE]))
            lines += [
                Series(
                    f"{name}, {quantile}",
                    [(s * most, 1000 * _median(found[s], quantile)) for s in shares],
                )
                for quantile in ("p50", "p99")
            ]
            numbers[name] = {
                "most": most,
                "by_share": {s: [asdict(outcome) for outcome in found[s]] for s in shares},
            }
    title = ("Latency against throughput, one process", "requests a second", "ms")
    return Finding(rows, numbers, {"latency.svg": (*title, lines)})


def kept(store: TaskStore, owner: str) -> str:
    """A new task; its message lies in a queue that nobody serves."""
    request = ImageRequest(_BODY["model"], _BODY["prompt"], size=_BODY["size"])
    task_id = new_task_id()
    created = store.create(
        task_id, owner=owner, queue="images.openai", request=request, deadline=3600
    )
    assert created is not None
    return task_id


def complete(store: TaskStore, owner: str) -> str:
    """A task that has ended well."""
    task_id = kept(store, owner)
    claim = store.claim(task_id, "bench")
    assert claim is not None
    image = StoredImage(f"{task_id}/0.png", "png", 1024, 1024, 1_500_000, "0" * 64, "an apple")
    result = Result((image,), "openai", "gpt-image-2", {"cost_usd": 0.04, "seconds": 8.1})
    assert store.complete(task_id, claim.task.generation, result)
    return task_id


def _median(outcomes: list[Outcome], what: str) -> float:
    values: list[float] = [getattr(outcome, what) for outcome in outcomes]
    return statistics.median(values)


def _load(web: Running, requests: list[str], seconds: float, **options: Any) -> Outcome:
    connections = 200 if options.get("rate") else 50
    return run(Load(web.port, requests, seconds, connections=connections, **options))


def _unchanged(web: Running, paths: list[str]) -> list[str]:
    """Requests that carry the tag of what they ask for."""
    answers = run(
        Load(web.port, [get(path, **_BEARER) for path in paths], 0.5, connections=1, trace=True)
    ).answers
    requests = []
    for path, (_, answer) in zip(paths, answers, strict=False):
        tag = next(line[6:] for line in answer.splitlines() if line.lower().startswith("etag: "))
        requests.append(get(path, If_None_Match=tag, **_BEARER))
    return requests


_Kinds = dict[str, tuple[Running, list[str]]]


def _rounds(brief: bool, kinds: _Kinds) -> dict[str, list[dict[str, Any]]]:
    """Rounds that take turns, the first of each thrown away; processor time in µs a request."""
    seconds, rounds = (0.4, 1) if brief else (3.0, 7)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    for number in range(-1, rounds):
        for name, (web, requests) in kinds.items():
            before = web.cpu()
            outcome = _load(web, requests, 0.5 if number < 0 else seconds)
            bad = {s: n for s, n in outcome.statuses.items() if s not in ("200", "202", "304")}
            if bad:
                raise RuntimeError(f"{name}: answers {bad}")
            if number >= 0:
                used = (web.cpu() - before) / outcome.count * 1e6
                found[name].append(
                    {
                        "rate": outcome.rate,
                        "cpu_us": used,
                        "p50_ms": 1000 * outcome.p50,
                        "p99_ms": 1000 * outcome.p99,
                        "client_cpu": outcome.cpu / outcome.seconds,
                    }
                )
    return found


def _of(rounds: dict[str, list[dict[str, Any]]], what: str) -> dict[str, list[float]]:
    return {name: [entry[what] for entry in entries] for name, entries in rounds.items()}


def _cpu_row(what: str, rounds: dict[str, list[dict[str, Any]]]) -> Row:
    """The least that any round took: what others do on the machine can only add to it."""
    least = {name: min(micros) for name, micros in _of(rounds, "cpu_us").items()}
    ratios = {name: least["constant"] / micros for name, micros in least.items()}
    return Row(
        f"the same by processor time: µs of the front end per {what}, the least of all rounds",
        "",
        ", ".join(f"{name} {micros:.0f}" for name, micros in least.items()),
        ratio=", ".join(f"{ratio:.2f}" for name, ratio in ratios.items() if name != "constant"),
    )


def _latency_row(name: str, rate: float, outcomes: list[Outcome]) -> Row:
    p50, p99 = _median(outcomes, "p50"), _median(outcomes, "p99")
    ratios = [outcome.p99 / outcome.p50 for outcome in outcomes]
    return Row(
        f"p99 of a {name} at 60 % ({rate:.0f}/s)",
        "≤ 5 × its p50",
        f"p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms",
        f"{min(ratios):.1f}–{max(ratios):.1f}",
        f"{statistics.median(ratios):.1f}",
        statistics.median(ratios) <= 5,
    )
