"""What a provider adapter is: it translates one provider's protocol, and does nothing else.

An adapter does not retry, sleep, log or store. `submit` and `poll` return the same kind of thing,
because some providers answer with pictures, some with a job to ask about, some with either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from common.catalog import Route
from common.task import ImageRequest
from workers.providers.http import Http

__all__ = ["Job", "Outcome", "Picture", "Pictures", "Provider"]


@dataclass(frozen=True, slots=True)
class Picture:
    """The bytes as the provider sent them: untrusted until `workers.images` has verified them."""

    data: bytes = field(repr=False)
    revised_prompt: str | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Pictures:
    """A finished call. `usage` is what the provider says of cost: plain JSON data, our names
    (`cost_usd` in dollars, with `cost_estimated` when it is our sum, `request_id`, and the
    provider's own token counts under `tokens`)."""

    pictures: tuple[Picture, ...]
    usage: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """What the provider holds for us. `state` is plain JSON data from which any process, on any
    machine, can go on polling; `progress` is 0 to 100, or None when the provider does not tell."""

    id: str
    state: dict[str, Any] = field(default_factory=dict)
    progress: int | None = None
    usage: dict[str, Any] = field(default_factory=dict)


Outcome = Pictures | Job


class Provider(ABC):
    """One image API. Instances are shared between threads and hold no state of a call."""

    name: ClassVar[str]
    auth: ClassVar[tuple[str, str]]  # the header with the key, and what precedes the key in it
    pictures_per_call: ClassVar[int] = 1  # how many pictures one call can ask for
    poll_every: ClassVar[float] = 1.0  # seconds between two polls of a job
    longest_submit: ClassVar[float] = 300.0  # seconds after which a submit is given up as unknown

    def __init__(self, api: Http) -> None:
        self._api = api

    @abstractmethod
    def submit(
        self, request: ImageRequest, route: Route, *, count: int, first: int, timeout: float
    ) -> Outcome:
        """Buy `count` pictures, numbers `first` and following of the task.

        `first` keeps fanned-out calls apart: a given seed is used as seed + first. `timeout` is
        the number of seconds after which the whole call must be over, body included.
        Raises a `common.errors.ProviderError`; `OutcomeUnknown` when the request was sent and
        its fate is not known.
        """

    def poll(self, job: Job, *, timeout: float) -> Outcome:
        """Ask once what became of a job; downloads the pictures when it is done.

        May be repeated at will: raises `Unavailable` or `RateLimited` for trouble that a later
        poll can cure, any other `ProviderError` when the job has ended without a picture.
        """
        raise NotImplementedError(f"{self.name} answers inline and has no jobs")

    def cancel(self, job: Job, *, timeout: float) -> bool:
        """Ask the provider to stop a job. True when it says that the work has been stopped.

        Not every provider can; what was bought may be charged all the same. Raises a
        `ProviderError` when the provider could not be asked.
        """
        return False
