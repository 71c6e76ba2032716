"""`python -m tests.chaos`: breaks the system, counts what came of it, and reports it."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.chaos.bench import Bench
from tests.chaos.removals import REMOVALS, is_caught
from tests.chaos.report import as_markdown
from tests.chaos.runs import RUNS

_RUNS = "\n".join(f"  {str(run.__doc__).splitlines()[0]}" for run in RUNS.values())
_REMOVALS = "\n".join(f"  {name:10}{removal.what}" for name, removal in REMOVALS.items())


def main(arguments: list[str]) -> int:
    """Exit code 0: every run passed, or the run failed that had to."""
    chosen = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleared away
    if chosen.report:
        print(as_markdown(chosen.report))
        return 0
    if chosen.without:
        return 0 if is_caught(chosen.without, chosen.seed) else 1
    runs = [run.upper() for run in chosen.runs] or list(RUNS)
    if unknown := [run for run in runs if run not in RUNS]:
        print(f"no such run: {' '.join(unknown)}; there are {' '.join(RUNS)}", file=sys.stderr)
        return 2
    out = (chosen.out or Path(tempfile.mkdtemp(prefix="chaos-"))).resolve()
    print(f"reports and logs: {out}", file=sys.stderr)
    if chosen.jobs > 1 and len(runs) > 1:
        return _side_by_side(runs, chosen, out)
    passed = [
        Bench(
            run,
            seed=chosen.seed,
            full=chosen.full,
            directory=out / run,
            settings=dict(setting.split("=", 1) for setting in chosen.set),
        ).carry_out(RUNS[run])["passed"]
        for run in runs
    ]
    return 0 if all(passed) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Breaks the running system under load, and counts what came of it.",
        epilog=f"runs:\n{_RUNS}\n\nmechanisms:\n{_REMOVALS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", metavar="A…H", help="all of them, if none is named")
    parser.add_argument("--seed", type=int, default=1, help="the same one breaks the same things")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="the sizes whose figures are published")
    size.add_argument("--short", action="store_false", dest="full", help="a minute each (default)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where reports and logs go")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="N runs at the same time")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the system, such as WORKER_POOL=gevent",
    )
    parser.add_argument(
        "--without", choices=REMOVALS, help="see a run fail in a copy that lacks the mechanism"
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="the reports there as a table")
    return parser


def _side_by_side(runs: list[str], chosen: argparse.Namespace, out: Path) -> int:
    """Each run in a process of its own, so many at a time."""
    command = [sys.executable, "-m", "tests.chaos", f"--seed={chosen.seed}", f"--out={out}"]
    command += ["--full"] * chosen.full + [f"--set={setting}" for setting in chosen.set]
    with ThreadPoolExecutor(chosen.jobs) as pool:
        codes = list(pool.map(lambda run: subprocess.run([*command, run]).returncode, runs))
    return 0 if not any(codes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
