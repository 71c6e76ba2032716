"""What each run is worth: takes one mechanism out of a copy of the tree, and sees its run fail.

A removal is a change of text that must fit exactly once. When the code it removes has changed, it
says so instead of passing for the wrong reason.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.bench import CAME_TO_ITS_END
from tests.stack import ROOT

__all__ = ["REMOVALS", "Removal", "is_caught", "remove"]

_LEFT_OUT = (".git", ".venv", ".*_cache", "__pycache__", "data", "build", "*.egg-info")


@dataclass(frozen=True)
class Removal:
    """One mechanism: the run that watches over it, and the checks of which one has to fail.

    `edits` are (file, text, text in its place).
    """

    what: str
    run: str
    seen_by: frozenset[str]
    edits: tuple[tuple[str, str, str], ...]


_NO_ALLOWANCE = (
    "common/connection.py",
    "_allowance.set(_Allowance(seconds))",
    "_allowance.set(_Allowance(100 * seconds))",
)

REMOVALS = {
    "lease": Removal(
        "A dead worker's claim never runs out.",
        "A",
        frozenset({"lost", "records_open"}),
        (("common/store.py", "self._lease = _ms(lease)", "self._lease = _ms(1000 * lease)"),),
    ),
    "journal": Removal(
        "A call is sent without a word in the journal.",
        "A",
        frozenset({"bought_twice"}),
        (
            (
                "common/lua/tasks.lua",
                "'lease', until_, unpack(args, first, first + 2 * granted - 1))",
                "'lease', until_)",
            ),
        ),
    ),
    "sweep": Removal(
        "A message that was lost is not sent again.",
        "C",
        frozenset({"lost", "records_open"}),
        (
            (
                "common/lua/fleet.lua",
                "          hinted = announce(id, queue, owner, summary, created * 1000)",
                "          hinted = now",
            ),
        ),
    ),
    "fence": Removal(
        "A worker whose claim has gone to another may still write.",
        "D",
        frozenset({"bought_twice"}),
        (("common/lua/tasks.lua", "  return lease and current == generation", "  return true"),),
    ),
    "handover": Removal(
        "A worker that is told to stop goes on waiting for its jobs.",
        "E",
        frozenset({"did_not_end_by_themselves", "losses"}),
        (
            (
                "workers/courier.py",
                "if self._stopping.wait(min(wait, ",
                "if threading.Event().wait(min(wait, ",
            ),
        ),
    ),
    "patience": Removal(
        "A write that Redis does not take is given up at once.",
        "B",
        frozenset({"outcome_unknown"}),
        (
            (
                "workers/courier.py",
                "                if work.time_left <= 0:\n                    raise",
                "                raise",
            ),
        ),
    ),
    "doubt": Removal(
        "A call that was cut off after it was sent counts as not sent.",
        "G",
        frozenset({"bought_twice"}),
        (("workers/providers/http.py", "            if trouble.sent:", "            if False:"),),
    ),
    "allowance": Removal(
        "A request may wait for Redis again and again.",
        "F",
        frozenset({"1.5 s slow: slowest"}),
        (_NO_ALLOWANCE,),
    ),
    "timeout": Removal(
        "A request waits for Redis as long as it takes.",
        "F",
        frozenset({"hung: slowest", "hung: answers", CAME_TO_ITS_END}),
        (
            _NO_ALLOWANCE,
            (
                "common/connection.py",
                '"timeout": timeout,\n        "socket_timeout": timeout,',
                '"timeout": timeout,\n        "socket_timeout": None,',
            ),
        ),
    ),
}


def remove(removal: Removal, tree: Path) -> None:
    """Take the mechanism out of a copy of the tree. Raises ValueError when it is not found."""
    for name, old, new in removal.edits:
        path = tree / name
        text = path.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{name} has this {text.count(old)} times, not once:\n{old}")
        path.write_text(text.replace(old, new))


def is_caught(name: str, seed: int) -> bool:
    """Whether the run that watches over a mechanism fails without it, as it must."""
    removal = REMOVALS[name]
    with tempfile.TemporaryDirectory(prefix=f"chaos-without-{name}-") as directory:
        tree, out = Path(directory, "tree"), Path(directory, "out")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        remove(removal, tree)
        print(f"Without {name}: {removal.what} Run {removal.run} has to fail.", file=sys.stderr)
        command = [sys.executable, "-m", "tests.chaos", removal.run, "--out", str(out)]
        subprocess.run([*command, "--seed", str(seed)], cwd=tree, check=False)
        path = out / f"{removal.run}.json"
        report = json.loads(path.read_text()) if path.exists() else {"checks": []}
    failed = {check["what"] for check in report["checks"] if not check["ok"]}
    caught = bool(failed & removal.seen_by)
    verdict = "is caught" if caught else "is NOT caught"
    print(f"Without {name}: {verdict}; failed: {', '.join(sorted(failed)) or 'nothing'}")
    return caught
