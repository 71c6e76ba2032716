"""Decides which call goes wrong, and how: asked for by an admin call, a prompt word or a header."""

import re
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ops.sandbox.ledger import Call

FAULTS = {
    # Refused before anything is bought
    "rate_limited": "429; Retry-After is `retry_after`: seconds (1), HTTP date, or null for none",
    "active_limit": "429 or a full queue while `limit` (24) jobs are running (bfl, midjourney)",
    "no_credit": "no money left: openai 429 insufficient_quota, fal 403, others 402",
    "bad_key": "401, gemini 400",
    "overloaded": "503, midjourney a full queue, huggingface a model being loaded",
    "server_error": "500 before anything is bought, which the caller cannot know",
    "moderated": "the prompt is refused: 400, together 422, stability 403, bfl a job; not billed",
    "no_account": "nobody is free to do the work: midjourney code 3",
    # Bought, and then the answer goes wrong
    "moderated_output": "the picture is refused: 400, together 422, stability blurs it, bfl a job",
    "failed": "the work fails: 500, bfl job `Error`; billed, except by stability and a1111",
    "bad_gateway": "502 with a proxy's HTML page; billed",
    "not_json": "200 with an HTML page; billed",
    "reset": "the connection is cut instead of an answer; billed",
    "hang": "no answer until the client goes away, `seconds` (600) at most; billed",
    "slow": "the answer comes `seconds` (30) later",
    "drip": "the body comes one byte every `seconds` (1)",
    # The job's life
    "aborted": "ended before it began (replicate); not billed",
    "job_lost": "polls do not know the job (bfl, midjourney)",
    "never_ready": "polls say that the job runs (bfl, midjourney)",
    "unknown_status": "polls say `Preempted`, a status nobody has heard of (bfl, midjourney)",
    "queued": "others come first: code 22, then `NOT_START` (midjourney)",
    "modal": "polls say `MODAL`: somebody has to confirm (midjourney)",
    "data_removed": "a success whose pictures are deleted already (replicate)",
    "foreign_polling_url": "the polling_url points to http://169.254.169.254 (bfl)",
    "text_only": "the model talks instead of drawing; billed (gemini)",
    # The picture
    "bad_info": "what is told about the pictures cannot be read (a1111)",
    "grid_first": "a picture that shows all of them comes before them (a1111)",
    "no_image": "a success without a picture; billed",
    "fewer_images": "one picture fewer than asked; all billed (openai, together, ideogram, a1111)",
    "truncated_image": "the picture ends after 60 % of its bytes",
    "corrupt_image": "bytes in the middle of the picture are wrong",
    "html_image": "an HTML page where the picture should be",
    "huge_image": "a small PNG that unpacks to 16384x16384 pixels",
    "wrong_size": "a sound picture, half as wide and half as high as asked for",
    "expired_url": "the picture's URL answers 403, midjourney's 404",
    "foreign_image_url": "the picture's URL points to http://169.254.169.254",
    "redirect_image": "the picture's URL redirects to http://169.254.169.254",
}
"""What each fault does, for people. A fault a provider has no use for does nothing there."""


def _known(name: str) -> str:
    if name not in FAULTS:
        raise ValueError(f"unknown fault {name!r}; known: {', '.join(FAULTS)}")
    return name


class Fault(BaseModel):
    """One fault to strike calls of one kind, until it has struck `times` times.

    Of the calls it could strike it strikes a `share`, evenly spread: 0.9 lets every tenth pass.

    Seconds given here are real ones; only the defaults are divided by SANDBOX_SPEED.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: Annotated[str, AfterValidator(_known)]
    provider: str | None = None
    call: Call = "submit"
    times: Annotated[int | None, Field(ge=1)] = None
    share: Annotated[float, Field(gt=0, le=1)] = 1
    prompt_contains: str | None = None
    seconds: Annotated[float | None, Field(ge=0)] = None
    retry_after: int | float | str | None = 1
    limit: Annotated[int, Field(ge=0)] = 24


class Settings(BaseModel):
    """How the sandbox behaves when nothing is wrong. `delay` is real seconds, per provider."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    picture: Literal["drawn", "plain"] | None = None
    delay: Annotated[float | None, Field(ge=0)] = None
    provider: str | None = None


Order = Fault | Settings
Strikes = dict[str, Fault]
"""The faults one call suffers, by name."""

_WORD = re.compile(
    r"""(?:(?P<provider>[a-z0-9_-]+)\.)? (?P<fault>[a-z_]+) (?:@(?P<call>submit|poll|download))?
        (?::(?P<value>\d+(?:\.\d+)?))? (?:\*(?P<times>\d+))?""",
    re.VERBOSE,
)
_PROMPT_WORD = re.compile(r"\bsim:(\S*[a-z0-9])")


class UnknownFault(ValueError):
    """A prompt word or header asks for a fault that does not exist."""


def parse_orders(body: Any) -> list[Order]:
    """Read the JSON of an admin call: one order or a list. Raises pydantic.ValidationError."""
    orders = body if isinstance(body, list) else [body]
    return [
        Fault.model_validate(order)
        if isinstance(order, dict) and "fault" in order
        else Settings.model_validate(order)
        for order in orders
    ]


@dataclass
class _Standing:
    fault: Fault
    left: int | None
    met: int = 0  # calls it could have struck

    def strikes_next(self) -> bool:
        """Whether the next of these calls is one that is struck."""
        self.met += 1
        share = self.fault.share
        if int(self.met * share) == int((self.met - 1) * share):
            return False
        self.left = None if self.left is None else self.left - 1
        return True


@dataclass
class Faults:
    """The standing faults and settings. Safe to use from many threads."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _standing: list[_Standing] = field(default_factory=list)
    _said: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    _delays: dict[str | None, float] = field(default_factory=dict)
    _plain: bool = False

    def obey(self, orders: list[Order]) -> None:
        with self._lock:
            for order in orders:
                if isinstance(order, Fault):
                    self._standing.append(_Standing(order, order.times))
                    continue
                if order.picture is not None:
                    self._plain = order.picture == "plain"
                if order.delay is not None:
                    self._delays[order.provider] = order.delay

    def clear(self) -> None:
        with self._lock:
            self._standing.clear()
            self._said.clear()
            self._delays.clear()
            self._plain = False

    def as_json(self) -> dict[str, Any]:
        with self._lock:
            faults = [
                standing.fault.model_dump() | {"times": standing.left}
                for standing in self._standing
            ]
            delays = {name or "*": seconds for name, seconds in self._delays.items()}
            picture = "plain" if self._plain else "drawn"
        return {"faults": faults, "settings": {"picture": picture, "delay": delays}}

    @property
    def plain(self) -> bool:
        """Whether pictures are to cost next to nothing."""
        return self._plain

    def delay(self, provider: str) -> float | None:
        """Real seconds the provider's work takes, when they were set."""
        with self._lock:
            return self._delays.get(provider, self._delays.get(None))

    def strike(self, provider: str, call: Call, *, prompt: str, header: str) -> Strikes:
        """The faults this call suffers. Each that is limited in number is used up by one.

        Raises UnknownFault for a word nobody knows: a typing error must not look like success.
        """
        spoken = [
            *((prompt, word) for word in _PROMPT_WORD.findall(prompt)),
            *(("", word.strip()) for word in header.split(",") if word.strip()),
        ]
        worded = [(whose, word, _from_word(word)) for whose, word in spoken]
        strikes: Strikes = {}
        with self._lock:
            for standing in self._standing:
                fault = standing.fault
                if _strikes(fault, provider, call, prompt) and standing.strikes_next():
                    strikes[fault.fault] = fault
            self._standing = [standing for standing in self._standing if standing.left != 0]
            for whose, word, fault in worded:
                if not _strikes(fault, provider, call, prompt):
                    continue
                self._said[whose, word] += fault.times is not None and whose != ""
                if fault.times is None or self._said[whose, word] <= fault.times:
                    strikes[fault.fault] = fault
        return strikes


def _strikes(fault: Fault, provider: str, call: Call, prompt: str) -> bool:
    return (
        fault.call == call
        and fault.provider in (None, provider)
        and (fault.prompt_contains or "") in prompt
    )


def _from_word(word: str) -> Fault:
    """Read `name`, or all of `provider.name@call:value*times`."""
    match = _WORD.fullmatch(word)
    if match is None or match["fault"] not in FAULTS:
        raise UnknownFault(
            f"{word!r} is no fault of the sandbox. It is written "
            f"[provider.]name[@call][:value][*times]; names: {', '.join(FAULTS)}"
        )
    said = {name: match[name] for name in ("fault", "provider", "call", "times") if match[name]}
    if match["value"]:
        number = float(match["value"])
        whole = int(number) if number.is_integer() else number
        said |= {"seconds": number, "retry_after": whole, "limit": int(number)}
    return Fault.model_validate(said)
