"""What an API key may do, and what it has used.

Days and months are those of UTC, by the clock of Redis. Money is in US dollars here, and in
millionths of a dollar in Redis, so that sums are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

__all__ = [
    "MONTHS_KEPT",
    "UNLIMITED",
    "LimitName",
    "Limits",
    "RequestsLeft",
    "Usage",
    "Used",
    "UsedByModel",
    "millionths",
    "usage_from",
]

MONTHS_KEPT = 13  # before the current one; `MONTH_KEPT` in `lua/limits.lua` sees to it

LimitName = Literal["requests_per_minute", "tasks_in_flight", "images_per_day", "usd_per_month"]

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may do; None, and no models, stand for no limit.

    `models` are ids of models, in which `*` stands for any characters. Tasks are in flight until
    they are final. An image counts on the day, and its price in the month, in which its task was
    accepted.
    """

    models: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    tasks_in_flight: int | None = None
    images_per_day: int | None = None
    usd_per_month: float | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Limits:
        """From the JSON that `dataclasses.asdict` makes; what is absent is not limited."""
        return cls(**{**data, "models": tuple(data.get("models", ()))})

    def allows(self, model_id: str) -> bool:
        return not self.models or any(fnmatchcase(model_id, pattern) for pattern in self.models)

    def counted(self) -> dict[str, int]:
        """The limits for which Redis counts, without those that are not set."""
        limits = {
            "requests_per_minute": self.requests_per_minute,
            "tasks_in_flight": self.tasks_in_flight,
            "images_per_day": self.images_per_day,
            "usd_per_month": millionths(self.usd_per_month),
        }
        return {name: limit for name, limit in limits.items() if limit is not None}


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class RequestsLeft:
    """What is left of `limit` requests per minute, and in how many seconds all of it is."""

    limit: int
    remaining: int
    reset: float


@dataclass(frozen=True, slots=True)
class UsedByModel:
    """What was used of one model.

    `images` were bought or may have been, or are on their way. `estimated_usd` is the part of
    `spend_usd` that is not known: of open tasks, of calls whose outcome is unknown, and what is
    our sum from list prices. `unpriced_images` are those of `images` of which no price is known;
    they count nothing in `spend_usd`.
    """

    images: int = 0
    spend_usd: float = 0.0
    estimated_usd: float = 0.0
    unpriced_images: int = 0


@dataclass(frozen=True, slots=True)
class Used:
    """What was used in one month (`2026-11`) or on one day (`2026-11-25`), by model."""

    period: str
    models: Mapping[str, UsedByModel]

    @classmethod
    def of(cls, period: str, flat: Iterable[str]) -> Used:
        """From the fields and values of a hash, as Redis returns them."""
        items = iter(flat)
        sums: dict[str, dict[str, int]] = {}
        for name, value in zip(items, items, strict=True):
            model, _, what = name.rpartition(":")
            sums.setdefault(model, {})[what] = int(value)
        models = {
            model: UsedByModel(
                images=sums[model].get("images", 0),
                spend_usd=sums[model].get("spent", 0) / _MILLION,
                estimated_usd=(sums[model].get("spent", 0) - sums[model].get("known", 0))
                / _MILLION,
                unpriced_images=sums[model].get("unpriced", 0),
            )
            for model in sorted(sums)
            if any(sums[model].values())
        }
        return cls(period, models)

    @property
    def total(self) -> UsedByModel:
        """All models together."""
        used = self.models.values()
        return UsedByModel(
            images=sum(model.images for model in used),
            spend_usd=round(sum(model.spend_usd for model in used), 6),
            estimated_usd=round(sum(model.estimated_usd for model in used), 6),
            unpriced_images=sum(model.unpriced_images for model in used),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What a key has used. `now` is in Unix milliseconds."""

    now: int
    open_tasks: int
    requests_left: int | None  # None without a limit
    month: Used
    today: Used
    asked: Used  # the month that was asked for


def usage_from(reply: Sequence[Any], month: str = "") -> Usage:
    """From what Redis says when it is asked for the use of `month`, '' being this one."""
    now, tasks, left, this_month, date, in_month, in_day, asked = reply
    return Usage(
        now=now,
        open_tasks=tasks,
        requests_left=None if left < 0 else left,
        month=Used.of(this_month, in_month),
        today=Used.of(date, in_day),
        asked=Used.of(month or this_month, asked),
    )


def millionths(usd: float | None) -> int | None:
    """An amount in dollars as Redis keeps it."""
    return None if usd is None else round(usd * _MILLION)
