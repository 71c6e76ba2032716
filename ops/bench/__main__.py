"""`python -m ops.bench`: measures what the product can do, and holds it against its targets."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from ops.bench import backlog, front_end, generation, pictures, stack, worker
from ops.bench.report import Finding, Row, drawing, machine, table

__all__ = ["CASES", "main"]

CASES: Mapping[str, Callable[[Path, bool], Finding]] = {
    "submits": front_end.submits,
    "polls": front_end.polls,
    "latency": front_end.latency,
    "cost": worker.cost,
    "generation": generation.generation,
    "added": worker.added,
    "in-flight": worker.in_flight,
    "pictures": pictures.pictures,
    "waiters": stack.waiters,
    "backlog": backlog.backlog,
    "idle": stack.idle,
    "round-trips": stack.round_trips,
}

_CASES = "\n".join(
    f"  {name:12}{str(case.__doc__).splitlines()[0]}" for name, case in CASES.items()
)


def main(arguments: list[str]) -> int:
    """Exit code 0 when all cases ran, whether or not they met their targets."""
    chosen = _parser().parse_args(arguments)
    out = (chosen.out or Path(tempfile.mkdtemp(prefix="bench-"))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in chosen.case or CASES:
        began = time.monotonic()
        about = machine()
        finding = CASES[name](out / name, chosen.brief)
        seconds = round(time.monotonic() - began, 1)
        print(f"{name}: {seconds:.0f} s, load average {about['load_average'][0]}", file=sys.stderr)
        rows += finding.rows
        written = {
            "case": name,
            "size": "brief" if chosen.brief else "full",
            "seconds": seconds,
            "machine": about,
            "rows": [{**asdict(row), "verdict": row.verdict} for row in finding.rows],
            "numbers": finding.numbers,
        }
        (out / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
        for file, (title, right, up, lines) in finding.drawings.items():
            (out / file).write_text(drawing(title, right, up, lines))
    (out / "table.md").write_text(table(rows) + "\n")
    print(table(rows))
    print(f"numbers, drawings and logs: {out}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ops.bench",
        description="Measures the product against its targets, on this machine. Linux only.",
        epilog=f"cases:\n{_CASES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="this one; more than once for several"
    )
    parser.add_argument(
        "--brief", action="store_true", help="seconds a case: shows that it runs, not what it costs"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where numbers and drawings go")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
