"""Every way a generation can go wrong, named from the caller's side.

    DarkroomError
    ├── ConfigurationError      the start stops; names the variable
    ├── StoreUnavailable        Redis cannot be asked, or refuses writes
    ├── SubmitRefused           a new task is not taken, and nothing was kept
    │   ├── LimitExceeded       a limit of the key does not admit it
    │   ├── QueueFull           too much waits already
    │   ├── NameReused          the caller's name for the submit stands for something else
    │   └── RetryRefused        the failed task that it was to stand for cannot be retried
    ├── LeaseLost               another worker holds the task: stop, touch nothing
    ├── GenerationFailed        the task is over, with the `Failure` that its record keeps
    └── ProviderError
        ├── not executed, costs nothing
        │   ├── RateLimited         wait, then the same route again
        │   ├── Unavailable         the same, no connection or an admission refusal
        │   ├── NotAuthorised       key, country, permission
        │   ├── OutOfCredit         the provider wants money first
        │   ├── ModelNotServed      the upstream model is gone or not granted
        │   └── Refused             the provider does not take this request
        ├── ContentRefused      prompt or picture against the provider's rules
        ├── JobFailed           executed, no picture
        ├── JobLost             accepted once, now unknown to the provider
        ├── BadAnswer           executed as far as we know, but the answer has no use
        └── OutcomeUnknown      sent, and no answer: it may have been bought

Adapters raise them, only the runner acts on them.
"""

from __future__ import annotations

from typing import ClassVar

from common.limits import LimitName, RequestsLeft
from common.task import Billed, Failure

__all__ = [
    "BadAnswer",
    "ConfigurationError",
    "ContentRefused",
    "DarkroomError",
    "GenerationFailed",
    "JobFailed",
    "JobLost",
    "LeaseLost",
    "LimitExceeded",
    "ModelNotServed",
    "NameReused",
    "NotAuthorised",
    "OutOfCredit",
    "OutcomeUnknown",
    "ProviderError",
    "QueueFull",
    "RateLimited",
    "Refused",
    "RetryRefused",
    "StoreUnavailable",
    "SubmitRefused",
    "Unavailable",
]


class DarkroomError(Exception):
    """Base of everything this project raises on purpose."""


class ConfigurationError(DarkroomError):
    """A setting is missing, misspelt or impossible; the message names the variable."""


class StoreUnavailable(DarkroomError):
    """Redis did not answer in time or refused the write: whether it happened is not known."""


class SubmitRefused(DarkroomError):
    """A new task is not taken. It was decided before anything was kept."""


class LimitExceeded(SubmitRefused):
    """The key's limits do not admit the task: nothing was kept, and no request was counted.

    `limit` is the one that is in the way, `used` how much of it is taken, in its own unit. `wait`
    is in how many seconds that changes, None when nobody knows. `left` is there with a limit on
    requests.
    """

    def __init__(
        self, limit: LimitName, *, used: float, wait: float | None, left: RequestsLeft | None
    ) -> None:
        super().__init__(limit)
        self.limit = limit
        self.used = used
        self.wait = wait
        self.left = left


class QueueFull(SubmitRefused):
    """So many tasks wait that this one would not be finished in time. `wait`: seconds until it
    might, if nobody else submits."""

    def __init__(self, wait: float) -> None:
        super().__init__(wait)
        self.wait = wait


class NameReused(SubmitRefused):
    """The caller gave this submit a name that stands for another request."""


class RetryRefused(SubmitRefused):
    """A failed task cannot be tried again as another one.

    `reason` is `absent`, `open`, `completed` or `cancelled`, as the task is; `retried`, and `known`
    is the task that was made of it; or `billed`, and `known` is what is known of its bill.
    """

    def __init__(self, reason: str, known: str = "") -> None:
        super().__init__(reason, known)
        self.reason = reason
        self.known = known


class LeaseLost(DarkroomError):
    """The generation number is no longer ours: whoever holds the task now goes on with it."""


class GenerationFailed(DarkroomError):
    """The task ends here. `failure` is what its record and its owner get to see."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)  # so that pickling gives it back whole
        self.failure = failure

    def __str__(self) -> str:
        return self.failure.code  # the message is for the owner, not for logs and Flower


class ProviderError(DarkroomError):
    """What a provider did to a call.

    `message` is shown to the caller: it must not hold keys, internal addresses or raw bodies.
    `retry_after` is in seconds, when the provider named a wait. `request_id` is by what the
    provider knows the call, when it said so; it is for logs.
    """

    code: ClassVar[str] = "upstream_error"
    retryable: ClassVar[bool] = False  # the same call, on the same route, later
    elsewhere: ClassVar[bool] = False  # the same call, on another route, if nothing was bought
    billed: Billed = "unknown"

    def __init__(
        self,
        message: str,
        *,
        billed: Billed | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.request_id = request_id
        if billed is not None:
            self.billed = billed


class RateLimited(ProviderError):
    """The provider asks to come back later; nothing ran."""

    code = "all_channels_failed"
    elsewhere = True
    retryable = True
    billed: Billed = "no"


class Unavailable(ProviderError):
    """No connection, or turned away at the door; nothing ran."""

    code = "all_channels_failed"
    elsewhere = True
    retryable = True
    billed: Billed = "no"


class NotAuthorised(ProviderError):
    """The provider does not accept our credential for this."""

    code = "all_channels_failed"
    elsewhere = True
    billed: Billed = "no"


class OutOfCredit(ProviderError):
    """The account behind our credential has no money left or met its spending limit."""

    code = "all_channels_failed"
    elsewhere = True
    billed: Billed = "no"


class ModelNotServed(ProviderError):
    """The upstream model does not exist any more, or is not granted to our account."""

    code = "all_channels_failed"
    elsewhere = True
    billed: Billed = "no"


class Refused(ProviderError):
    """The provider calls the request itself wrong (400, 413, 422)."""

    code = "invalid_value"
    billed: Billed = "no"


class ContentRefused(ProviderError):
    """Prompt or picture is against the provider's content rules."""

    code = "content_policy_violation"
    billed: Billed = "unknown"


class JobFailed(ProviderError):
    """The provider ran the job and says that it failed."""

    elsewhere = True


class JobLost(ProviderError):
    """The provider accepted the job and no longer knows it."""

    billed: Billed = "yes"


class BadAnswer(ProviderError):
    """An answer that holds no picture we can use, after work that may have been charged."""


class OutcomeUnknown(ProviderError):
    """The request was sent and its fate never learned. Sending it again could buy twice."""

    code = "outcome_unknown"
