"""What one of each thing costs: the only figures that the reckoning starts from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["COSTS", "Costs", "costs_from", "read_costs", "write_costs"]

COSTS = Path(__file__).resolve().parent / "costs.json"


@dataclass(frozen=True)
class Costs:
    """Seconds of one processor core and bytes, each for one of what it is named after.

    A `task` is an inline generation with a small picture, without its submit at the front end; a
    `job` is one whose provider is asked twice a second, with the looks of its first two seconds. A
    `picture` is a PNG of `picture_bytes`: for a worker what it costs above the small one, for the
    front end to hand it out. A `slot` is a generation in flight. `log` is Redis' append-only file.
    """

    submit_web: float
    poll_web: float
    picture_web: float
    task_worker: float
    job_worker: float
    look_worker: float
    picture_worker: float
    task_redis: float  # its submit included
    job_redis: float
    poll_redis: float
    renewal_redis: float
    idle_redis: float  # a second of a worker and a sweep that have nothing to do
    record_bytes: float
    log_bytes: float
    redis_in_bytes: float
    redis_out_bytes: float
    picture_bytes: float
    slot_bytes: float
    web_bytes: float
    worker_bytes: float
    measured: str  # when, where and how busy the machine was

    def __post_init__(self) -> None:
        """Raises ValueError where something costs nothing or less: that is no measurement."""
        wrong = [name for name, cost in asdict(self).items() if cost != self.measured and cost <= 0]
        if wrong:
            raise ValueError(f"costs that cannot be: {', '.join(wrong)}; measure again")


def read_costs(file: Path = COSTS) -> Costs:
    """The costs as they were last written. Raises ValueError where one is missing or cannot be."""
    try:
        return Costs(**json.loads(file.read_text()))
    except TypeError as error:
        raise ValueError(f"{file}: {error}") from error


def write_costs(costs: Costs, file: Path = COSTS) -> None:
    file.write_text(json.dumps(asdict(costs), indent=1) + "\n")


def costs_from(directory: Path) -> Costs:
    """What a run of `python -m ops.bench` wrote there, of the cases that are needed.

    Raises FileNotFoundError where a case is missing, ValueError where a run was too brief.
    """
    generation = _case(directory, "generation")
    numbers = generation["numbers"]
    least = numbers["least"]
    inline, large = least["inline"], least["large"]
    job, long_job, looks = least["job"], least["job, long"], numbers["looks"]
    idle = _case(directory, "idle")["numbers"]["megabytes"]
    submits = _case(directory, "submits")["numbers"]["rounds"]["submit"]
    about = generation["machine"]
    return Costs(
        submit_web=min(entry["cpu_us"] for entry in submits) / 1e6,
        poll_web=least["poll"]["web_us"] / 1e6,
        picture_web=numbers["served_us"] / 1e6,
        task_worker=inline["worker_us"] / 1e6,
        job_worker=job["worker_us"] / 1e6,
        look_worker=(long_job["worker_us"] - job["worker_us"]) / looks / 1e6,
        picture_worker=(large["worker_us"] - inline["worker_us"]) / 1e6,
        task_redis=inline["redis_us"] / 1e6,
        job_redis=job["redis_us"] / 1e6,
        poll_redis=least["poll"]["redis_us"] / 1e6,
        renewal_redis=numbers["renewed_us"] / 1e6,
        idle_redis=numbers["idle"]["redis_us"] / 1e6,
        record_bytes=inline["redis_kept"],
        log_bytes=inline["redis_log"],
        redis_in_bytes=inline["redis_in"],
        redis_out_bytes=inline["redis_out"],
        picture_bytes=numbers["picture_bytes"],
        slot_bytes=numbers["slot_bytes"],
        web_bytes=idle["web"] * 1e6,
        worker_bytes=idle["worker"] * 1e6,
        measured=f"{about['date']}, commit {about['commit']}, {about['cores']} cores "
        f"({about['processor']}), load average {about['load_average'][0]} at the start",
    )


def _case(directory: Path, name: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((directory / f"{name}.json").read_text())
    if told["size"] != "full":
        raise ValueError(f"{name}: a brief run tells that a case works, not what it costs")
    return told
