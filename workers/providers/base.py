"""What a provider adapter is: it translates one provider's protocol, and does nothing else.

An adapter does not retry, sleep, log or store. `submit` and `poll` return the same kind of thing,
because some providers answer with pictures, some with a job to ask about, some with either.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pybase64

from common.catalog import Route
from common.errors import BadAnswer, ContentRefused, JobLost, ProviderError
from common.pictures import Format
from common.task import Billed, ImageRequest
from workers.providers.http import File, Http

__all__ = [
    "Image",
    "InDoubt",
    "Job",
    "MaskForm",
    "Order",
    "Outcome",
    "Picture",
    "Pictures",
    "Provider",
    "Stopped",
    "anonymous",
    "delivered",
    "from_base64",
    "nearest_ratio",
]


@dataclass(frozen=True, slots=True)
class Picture:
    """The bytes as the provider sent them: untrusted until `workers.images` has verified them.

    `quarter` when they show four pictures, two by two, and this is one of them: 0 upper left,
    1 upper right, 2 lower left, 3 lower right. `workers.images` cuts it out, because whoever cuts
    has to decode, and only there are bytes decoded: within limits, and off the event loop.
    """

    data: bytes = field(repr=False)
    revised_prompt: str | None = None
    seed: int | None = None
    quarter: int | None = None


@dataclass(frozen=True, slots=True)
class Pictures:
    """A finished call. In place of a picture that the provider withheld stands the error that
    says why, so that the others of the call are kept.

    `usage` is what the provider says of cost: plain JSON data, our names (`cost_usd` in dollars,
    with `cost_estimated` when it is our sum, `request_id`, by which the provider knows the call,
    and its own token counts under `tokens`).
    """

    pictures: tuple[Picture | ProviderError, ...]
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

InDoubt = Literal["none", "lookup", "key"]

Stopped = Billed | Literal["asked"]
"""What a job that was stopped costs; or that its provider was asked, and later polls will tell."""


MaskForm = Literal["alpha", "black"]
"""How a provider wants a mask to mark what is made anew: fully transparent, or black on white."""


@dataclass(frozen=True, slots=True)
class Image:
    """A picture that a call starts from: checked, and as its caller sent it."""

    data: bytes = field(repr=False)
    format: Format

    @property
    def mime(self) -> str:
        return f"image/{self.format}"

    @property
    def base64(self) -> str:
        return pybase64.b64encode(self.data).decode("ascii")

    def file(self, name: str) -> File:
        """It as a file of a form, by a name that is ours."""
        return File(f"{name}.{self.format}", self.data, self.mime)


@dataclass(frozen=True, slots=True)
class Order:
    """What one call is to buy: `count` pictures, numbers `first` and following of the task.

    `first` keeps fanned-out calls apart: a given seed is used as seed + first. `key` names the
    call: the same whenever the same call is sent again, and different from every other.
    `images` are what it starts from, and `mask`, of the size of the first of them and in the form
    that the provider wants, says what of it is made anew.
    """

    request: ImageRequest
    route: Route
    count: int = 1
    first: int = 0
    key: str = ""
    images: tuple[Image, ...] = ()
    mask: Image | None = None


class Provider(ABC):
    """One image API. Instances are shared between threads and hold no state of a call."""

    name: ClassVar[str]
    auth: ClassVar[tuple[str, str]]  # the header with the key, and what precedes the key in it
    pictures_per_call: ClassVar[int] = 1  # how many pictures one call can ask for
    poll_every: ClassVar[float] = 1.0  # seconds between two polls of a job
    longest_submit: ClassVar[float] = 300.0  # seconds after which a submit is given up as unknown
    cancels: ClassVar[bool] = False  # whether a job can be stopped, at least as long as it waits
    progress_every: ClassVar[float | None] = None
    """Seconds between two looks at how far a submit in flight has come (see `progress`). None: the
    provider does not tell."""
    mask_form: ClassVar[MaskForm] = "alpha"
    in_doubt: ClassVar[InDoubt] = "none"
    """How a call whose answer never came can be cleared up. `none`: not at all; `lookup`: the
    provider can be asked for it (see `lookup`); `key`: it can be sent again under the same
    `Order.key`, and is carried out once."""

    def __init__(self, api: Http, file: str = "") -> None:
        """`file`: path of what the operator wrote for this adapter; few have a use for one."""
        self._api = api

    @abstractmethod
    def submit(self, order: Order, *, timeout: float) -> Outcome:
        """Buy what the order says.

        `timeout` is the number of seconds after which the whole call must be over, body included.
        Raises a `common.errors.ProviderError`; `OutcomeUnknown` when the request was sent and
        its fate is not known.
        """

    def poll(self, job: Job, *, timeout: float) -> Outcome:
        """Ask once what became of a job; downloads the pictures when it is done.

        May be repeated at will: raises `Unavailable` or `RateLimited` for trouble that a later
        poll can cure, any other `ProviderError` when the job has ended without a picture.
        """
        raise NotImplementedError(f"{self.name} answers inline and has no jobs")

    def lookup(self, order: Order, *, timeout: float) -> Job | None:
        """The job of a call that was sent and never answered; None when there is none (yet).

        Asked of providers whose `in_doubt` is `lookup`. May be repeated at will; raises
        `Unavailable` or `RateLimited` when the provider could not be asked.
        """
        raise NotImplementedError(f"{self.name} cannot be asked for a call that was not answered")

    def progress(self, order: Order, *, timeout: float) -> int | None:
        """How far the submit of `order`, which is in flight, has come: 0 to 100, or None when the
        provider does not tell (yet).

        Asked of providers with a `progress_every`, while another thread waits in `submit`. May be
        repeated at will; raises a `ProviderError` when the provider could not be asked, which says
        nothing of the submit.
        """
        raise NotImplementedError(f"{self.name} does not tell how far a submit has come")

    def cancel(self, job: Job, *, timeout: float) -> Stopped | None:
        """Stop a job. None when it goes on all the same, or is over.

        Asked of providers that say `cancels`. May be repeated at will; raises a `ProviderError`
        when the provider could not be asked.
        """
        raise NotImplementedError(f"{self.name} cannot be told to stop a job")

    def _fetch(
        self,
        url: str,
        *,
        hosts: Collection[str],
        deadline: float,
        revised_prompt: str | None = None,
        seed: int | None = None,
    ) -> Picture | ProviderError:
        """One of the pictures that an answer named the addresses of, or why it cannot be had.

        Raises Unavailable or RateLimited for trouble that a later poll can cure.
        """
        try:
            data = self._api.download(url, hosts=hosts, deadline=deadline)
        except (BadAnswer, JobLost) as reason:
            return reason
        return Picture(data, revised_prompt, seed)


def delivered(places: Iterable[Picture | ProviderError], usage: dict[str, Any]) -> Pictures:
    """A finished call with at least one place, each with its picture or the reason why not.

    Raises one of the reasons when no place has a picture: a refusal, if there is one.
    """
    pictures = Pictures(tuple(places), usage)
    reasons = [place for place in pictures.pictures if isinstance(place, ProviderError)]
    if len(reasons) == len(pictures.pictures):
        raise next((reason for reason in reasons if isinstance(reason, ContentRefused)), reasons[0])
    return pictures


def anonymous(user: str) -> str:
    """64 hexadecimal digits that stand for a caller's `user`: only equality matters to providers,
    whoever it is stays with us."""
    return hashlib.sha256(b"darkroom user " + user.encode("utf-8", "replace")).hexdigest()


def from_base64(text: object) -> bytes | None:
    """The bytes that an answer's base64 stands for, with or without a `data:` prefix.

    None when it stands for none: no text, empty, or not base64.
    """
    if not isinstance(text, str):
        return None
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return pybase64.b64decode(text, validate=True) or None
    except ValueError:
        return None


def nearest_ratio(width: int, height: int, ratios: Iterable[str]) -> str:
    """Of `ratios`, such as `16:9`, the one whose shape is most like width x height."""

    def distance(ratio: str) -> float:
        across, down = ratio.split(":")
        return abs(math.log(width / height) - math.log(int(across) / int(down)))

    return min(ratios, key=distance)
