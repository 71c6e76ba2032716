"""`python -m ops.capacity`: what a number of generations a minute needs, and whether that is so."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ops.capacity.check import check
from ops.capacity.costs import Costs, costs_from, read_costs, write_costs
from ops.capacity.plan import Demand, plan, redis_limit
from ops.capacity.simulator import Stack, simulate

__all__ = ["DOCUMENT", "main", "tables"]

DOCUMENT = Path(__file__).resolve().parents[1] / "CAPACITY.md"

_INLINE = "inline, 5 s"
_JOB = "job, 30 s"
_PER_MINUTE = (10, 1_000, 100_000)
_SHARES = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95)


def main(arguments: list[str]) -> int:
    """Exit code 0 when it did what it was asked to, 2 when costs are missing or cannot be."""
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.costs:
            write_costs(costs_from(chosen.costs))
            _write("figures", tables(read_costs()))
        elif chosen.check:
            _write("check", check(read_costs()))
        else:
            demand = Demand(chosen.per_minute, chosen.provider, chosen.looks, chosen.polls)
            asked = [(f"{chosen.provider:g} s", demand, chosen.retention_hours)]
            print(_plans(read_costs(), asked) if chosen.per_minute else tables(read_costs()))
    except (OSError, KeyError, ValueError) as error:
        print(f"the costs are not there: {error!r}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ops.capacity",
        description="Reckons processes, Redis and storage from measured costs. Without arguments "
        "for 10, 1,000 and 100,000 generations a minute.",
    )
    parser.add_argument("--per-minute", type=float, default=0, help="generations a minute")
    parser.add_argument("--provider", type=float, default=5, help="seconds (%(default)s)")
    parser.add_argument("--looks", type=float, default=0, help="at a job by its worker (0: inline)")
    parser.add_argument("--polls", type=float, default=5, help="of a task by its caller")
    parser.add_argument("--retention-hours", type=float, default=24, help="RETENTION_HOURS")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--costs",
        type=Path,
        metavar="DIR",
        help="take the costs from a run of ops.bench and put the figures into ops/CAPACITY.md",
    )
    other.add_argument(
        "--check",
        action="store_true",
        help="measure two points of the running system, and put that beside the simulated ones "
        "into ops/CAPACITY.md; a minute and a half on a quiet machine",
    )
    return parser


def tables(costs: Costs) -> str:
    """All figures of ops/CAPACITY.md that follow from costs, in Markdown."""
    asked = []
    for per_minute in _PER_MINUTE:
        asked += [
            (_INLINE, Demand(per_minute, 5, polls=5), 24.0),
            (_JOB, Demand(per_minute, 30, looks=60, polls=15), 24.0),
        ]
    asked += [(f"{name}, kept 1 h", demand, 1.0) for name, demand, _ in asked if demand.rate > 1000]
    limits = ", ".join(
        f"{redis_limit(costs, demand):,.0f} a minute ({name})" for name, demand, _ in asked[-2:]
    )
    return (
        f"Costs of {costs.measured}.\n\n{_plans(costs, asked)}\n"
        f"One Redis is busy for 60 % of its time at {limits.replace(', kept 1 h', '')}.\n\n"
        f"{_curve(costs)}"
    )


def _plans(costs: Costs, asked: Sequence[tuple[str, Demand, float]]) -> str:
    lines = [
        "| a minute | provider | in flight | front ends | workers | their memory | Redis: cores "
        "| memory | log | traffic | pictures | kept | stacks |",
        "|---" * 13 + "|",
    ]
    for name, demand, hours in asked:
        needed = plan(costs, demand, retention_hours=hours)
        cells = (
            f"{demand.per_minute:,.0f}",
            name,
            f"{needed.in_flight:,.0f}",
            f"{needed.web_processes:,} ({_few(needed.web_cores)})",
            f"{needed.worker_processes:,} ({_few(needed.worker_cores)})",
            _bytes(needed.processes_bytes),
            _few(needed.redis_cores),
            _bytes(needed.redis_bytes),
            f"{_bytes(needed.log_rate)}/s",
            f"{_bytes(needed.redis_traffic)}/s",
            f"{_bytes(needed.picture_rate)}/s",
            _bytes(needed.stored_bytes),
            f"{needed.stacks}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _curve(costs: Costs) -> str:
    """What queues add, as a worker gets busier."""
    most = 1 / costs.task_worker
    lines = [
        "| worker busy | generations a second | added p50 | p99 |",
        "|---|---|---|---|",
    ]
    for share in _SHARES:
        rate = share * most
        outcome = simulate(
            costs, Stack(slots=1000), rate=rate, provider=1.0, seconds=1 + 6000 / rate
        )
        p50, p99 = (1000 * outcome.quantile(share) for share in (0.5, 0.99))
        lines.append(f"| {share:.0%} | {rate:.0f} | {p50:.1f} ms | {p99:.1f} ms |")
    return "\n".join(lines) + "\n"


def _few(value: float) -> str:
    """Three digits at most, where they say anything."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB"


def _write(block: str, text: str) -> None:
    """Put figures into the document, between the marks of their block."""
    begin, end = f"<!-- {block} -->\n", f"<!-- end of {block} -->\n"
    before, _, rest = DOCUMENT.read_text().partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise ValueError(f"{DOCUMENT} has no block {block!r}")
    DOCUMENT.write_text(f"{before}{begin}\n{text}\n{end}{after}")
    print(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
