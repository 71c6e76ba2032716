"""What a long queue costs: each operation by the processor time of Redis, and the memory of a task.

Wall-clock time would be that of the machine; Redis works in one thread, and tells what that used.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.connection import connect
from common.store import TaskStore
from common.task import Failure, new_task_id
from ops.bench.report import Finding, Row, Series, spread
from ops.bench.rig import Rig, rig
from ops.bench.worker import REQUEST

__all__ = ["backlog"]

_DEADLINE = 30 * 24 * 3600.0  # seconds: nothing times out, however long the run takes
_QUEUE = "images.openai"
_AGAIN = "sweep of the same 100 again"  # whose records are in the processor's caches now
_SHARE = 4  # tasks of a caller that are announced; the others wait in its line
_OWNERS = {"one caller": 1, "1,000 callers": 1000}


def backlog(directory: Path, brief: bool) -> Finding:
    """Submit, poll, claim and sweep with 1,000,000 pending tasks, against 100."""
    sizes = [100, 5_000] if brief else [100, 10_000, 100_000, 1_000_000]
    rows, lines, numbers = [], [], {}
    for callers, number in _OWNERS.items():
        if brief and number > 1:
            continue
        with rig(directory / str(number)) as bench:
            seen = {}
            memory, before = 0.0, bench.redis_memory()
            pending = 0
            for size in sizes:
                _fill(bench, size - pending, number)
                pending = size
                memory = (bench.redis_memory() - before) / size
                seen[size] = _costs(bench, number, brief)
        few, many = sizes[0], sizes[-1]
        for operation in seen[few]:
            name = f"{operation}, {many:,} pending of {callers}"
            row = _compared(name, seen, operation, few, many)
            if operation == _AGAIN:
                row = replace(row, target="", met=None)
            rows.append(replace(row, met=None) if brief else row)
            # With few tasks of many callers none waits in a line, and no line moves up.
            if few <= _SHARE * number < sizes[1]:
                row = _compared("the same, with lines in both", seen, operation, sizes[1], many)
                rows.append(replace(row, target="", met=None))
            lines.append(
                Series(
                    f"{operation}, {callers}",
                    [(size, statistics.median(seen[size][operation])) for size in sizes],
                )
            )
        rows.append(
            Row(
                f"memory of Redis per pending task, {many:,} of {callers}",
                "≤ 2.5 kB",
                f"{memory / 1000:.2f} kB",
                met=memory <= 2500,
            )
        )
        numbers[callers] = {"memory": memory, "micros": seen}
    title = ("Cost of an operation against the length of the queue", "pending tasks", "µs of Redis")
    return Finding(rows, numbers, {"backlog.svg": (*title, lines)})


def _compared(
    name: str,
    seen: Mapping[int, Mapping[str, Sequence[float]]],
    operation: str,
    few: int,
    many: int,
) -> Row:
    """What an operation costs with many tasks against what it costs with few."""
    costs, with_few = seen[many][operation], seen[few][operation]
    ratio = statistics.median(costs) / statistics.median(with_few)
    return Row(
        name,
        "≤ 1.2 × that with 100",
        f"{statistics.median(costs):.0f} µs of Redis, "
        f"{statistics.median(with_few):.0f} µs with {few:,}",
        spread([cost / other for cost, other in zip(costs, with_few, strict=True)]),
        f"{ratio:.2f}",
        ratio <= 1.2,
    )


def _create(store: TaskStore, owner: str) -> str:
    task_id = new_task_id()
    store.create(
        task_id,
        owner=owner,
        queue=_QUEUE,
        route="openai/gpt-image-2",
        request=REQUEST,
        deadline=_DEADLINE,
    )
    return task_id


def _fill(bench: Rig, number: int, owners: int) -> None:
    """Keep so many tasks more, a thousand to a round trip."""
    client = connect(bench.redis_url, timeout=300)
    bench.store.health()  # which loads the functions: within a pipeline that cannot be seen to lack
    done = 0
    while done < number:
        pipeline: Any = client.pipeline(transaction=False)
        piped = TaskStore(pipeline, lease=30)
        for count in range(done, min(number, done + 1000)):
            _create(piped, f"caller-{count % owners}")
        pipeline.execute()
        done += 1000
    client.close()


def _costs(bench: Rig, owners: int, brief: bool) -> dict[str, list[float]]:
    """Microseconds of Redis by operation, several times over. The queue stays as long as it was."""
    rounds = [_round(bench, owners, 50 if brief else 300) for _ in range(1 if brief else 5)]
    return {operation: [costs[operation] for costs in rounds] for operation in rounds[0]}


def _round(bench: Rig, owners: int, times: int) -> dict[str, float]:
    store, client = bench.store, bench.client
    made: list[str] = []
    claims = min(times, 90)

    def cost(action: Callable[[int], object], number: int) -> float:
        before = bench.redis_cpu()
        for count in range(number):
            action(count)
        return (bench.redis_cpu() - before) / number * 1e6

    def claim(_: int) -> None:
        """Take the next in turn, as a worker does."""
        called: Any = client.zrange(f"darkroom:called:{_QUEUE}", 0, 0)
        assert store.claim(called[0], "bench") is not None

    costs = {
        "submit": cost(lambda n: made.append(_create(store, f"caller-{n % owners}")), times),
        "poll": cost(lambda n: store.read(made[n]), times),
        "claim": cost(claim, claims),
    }
    for task_id in made[: times - claims]:
        _take_away(bench, task_id)
    # Those that the sweep looks at wait, announced or in their caller's line.
    due: Any = client.zrange(f"darkroom:called:{_QUEUE}", 0, 99)
    due += client.zrange(f"darkroom:line:{_QUEUE}:caller-0", 0, 99 - len(due))
    for sweep in ("sweep of 100 due", _AGAIN):
        client.zadd("darkroom:due", dict.fromkeys(due, 1))  # before all others that are due by now
        costs[sweep] = cost(lambda _: store.sweep("bench", limit=100), 1)
    return costs


def _take_away(bench: Rig, task_id: str) -> None:
    """End a task that was made to measure, whoever's turn it is."""
    claim = bench.store.claim(task_id, "bench")
    if claim is not None:
        bench.store.fail(
            task_id, claim.task.generation, Failure("cancelled", "It was made to measure.")
        )
