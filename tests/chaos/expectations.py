"""How a task must end when its provider does what a fault of the sandbox says.

`ops/sandbox/README.md` says what each fault does and whether it is billed. What follows from it is
written down here by hand, not computed: it is what the code is held against.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common.settings import PROVIDER_NAMES

__all__ = ["CASES", "Case", "End"]


@dataclass(frozen=True)
class End:
    """The status, or the code of the failure; what it says of the bill; and what was bought.

    `bought` is the number of purchases. Where a picture is `missing` from a task that has others,
    its code is there.
    """

    outcome: str
    billed: str = ""
    bought: int = 1
    missing: str = ""

    def __str__(self) -> str:
        parts = [self.outcome, self.billed and f"billed {self.billed}", f"{self.bought} bought"]
        return ", ".join(
            [*filter(None, parts), *([f"missing: {self.missing}"] * bool(self.missing))]
        )


@dataclass(frozen=True)
class Case:
    """One fault at one provider. `words` ask for it in the prompt, of a task with `n` pictures.

    `until_deadline`: it ends when the model's time is over, and not before.
    """

    fault: str
    provider: str
    words: str
    end: End
    n: int = 1

    @property
    def until_deadline(self) -> bool:
        return self.end.outcome == "timeout"

    @property
    def shuts_account(self) -> bool:
        """Whether other tasks of the provider are turned away for a while."""
        return self.fault in ("no_credit", "bad_key")


_DONE = End("completed")
_TURNED_AWAY = End("all_channels_failed", "no", bought=0)
_REFUSED = End("content_policy_violation", "unknown", bought=0)
_WITHHELD = End("content_policy_violation", "unknown")
_UNKNOWN = End("outcome_unknown", "unknown")
_UNKNOWN_AND_FREE = End("outcome_unknown", "unknown", bought=0)
_FAILED = End("upstream_error", "unknown")
_FAILED_FOR_FREE = End("upstream_error", "no", bought=0)
_OWN_FAILED = End("upstream_error", "no")  # a server of one's own sends no bill
_SPOILT = End("upstream_error", "yes")
_TIMED_OUT = End("timeout", "yes")

_ALL = frozenset(PROVIDER_NAMES)
_JOBS = frozenset({"bfl", "replicate", "fal", "midjourney", "comfyui"})
_LINKS = frozenset({"bfl", "replicate", "fal", "midjourney", "ideogram"})  # of any host
_SEVERAL = frozenset({"openai", "compatible", "replicate", "together", "a1111"})
_LOOKED_UP = frozenset({"midjourney", "comfyui"})  # a call without an answer is found there
_NO_CENSOR = frozenset({"huggingface", "a1111", "comfyui"})
_ADMISSION = frozenset({"openai", "compatible", "huggingface", "gemini", "midjourney", "a1111"})

# By fault: how it is written in the prompt, how many pictures are asked for, and for each group of
# providers the end. Who is in no group has no use for the fault. A refusal at the door is asked for
# once or twice, and then no more: what costs nothing has to be tried again.
_TABLE: dict[str, tuple[str, int, dict[frozenset[str], End]]] = {
    "rate_limited": ("rate_limited:1*1", 1, {_ALL: _DONE}),
    "active_limit": ("active_limit:0*2", 1, {frozenset({"bfl", "midjourney"}): _DONE}),
    "no_account": ("no_account*2", 1, {frozenset({"midjourney"}): _DONE}),
    "no_credit": (
        "no_credit",
        1,
        {_ALL - {"midjourney", "a1111", "comfyui"}: _TURNED_AWAY},
    ),
    "bad_key": ("bad_key", 1, {_ALL: _TURNED_AWAY}),
    "overloaded": ("overloaded*2", 1, {_ADMISSION: _DONE, _ALL - _ADMISSION: _UNKNOWN_AND_FREE}),
    "server_error": (
        "server_error",
        1,
        {
            frozenset({"stability", "a1111"}): _FAILED_FOR_FREE,
            _ALL - {"stability", "a1111"}: _UNKNOWN_AND_FREE,
        },
    ),
    "moderated": (
        "moderated",
        1,
        {
            frozenset({"midjourney", "stability"}): End("content_policy_violation", "no", bought=0),
            _ALL - _NO_CENSOR - {"midjourney", "stability"}: _REFUSED,
        },
    ),
    "moderated_output": ("moderated_output", 1, {_ALL - _NO_CENSOR: _WITHHELD}),
    "failed": (
        "failed",
        1,
        {
            frozenset({"stability", "fal", "a1111"}): _FAILED_FOR_FREE,
            frozenset({"comfyui"}): _OWN_FAILED,
            frozenset({"bfl", "replicate", "gemini", "midjourney"}): _FAILED,
            frozenset({"openai", "compatible", "together", "huggingface", "ideogram"}): _UNKNOWN,
        },
    ),
    "bad_gateway": ("bad_gateway", 1, {_LOOKED_UP: _DONE, _ALL - _LOOKED_UP: _UNKNOWN}),
    "not_json": ("not_json", 1, {_ALL: _FAILED}),
    "reset": ("reset", 1, {_LOOKED_UP: _DONE, _ALL - _LOOKED_UP: _UNKNOWN}),
    "hang": ("hang:2", 1, {_LOOKED_UP: _DONE, _ALL - _LOOKED_UP: _UNKNOWN}),
    "slow": ("slow:2", 1, {_ALL: _DONE}),
    "drip": ("drip:0", 1, {_ALL: _DONE}),
    "aborted": ("aborted", 1, {frozenset({"replicate"}): _FAILED_FOR_FREE}),
    "job_lost": (
        "job_lost",
        1,
        {_JOBS - {"comfyui"}: _SPOILT, frozenset({"comfyui"}): _OWN_FAILED},
    ),
    "never_ready": ("never_ready", 1, {_JOBS: _TIMED_OUT}),
    "unknown_status": ("unknown_status", 1, {_JOBS: _TIMED_OUT}),
    "queued": ("queued", 1, {frozenset({"midjourney"}): _DONE}),
    "modal": ("modal", 1, {frozenset({"midjourney"}): _FAILED}),
    "data_removed": ("data_removed", 1, {frozenset({"replicate"}): _SPOILT}),
    "foreign_polling_url": (
        "foreign_polling_url",
        1,
        {frozenset({"bfl", "replicate", "fal"}): _DONE},  # nobody goes there
    ),
    "text_only": ("text_only", 1, {frozenset({"gemini"}): _FAILED}),
    "bad_info": ("bad_info", 1, {frozenset({"a1111"}): _DONE}),
    "grid_first": ("grid_first", 2, {frozenset({"a1111"}): End("completed", bought=2)}),
    "no_image": (
        "no_image",
        1,
        {
            frozenset({"comfyui"}): _OWN_FAILED,
            frozenset(
                {"together", "huggingface", "stability", "ideogram", "gemini", "a1111"}
            ): _FAILED,
            frozenset({"openai", "compatible", "bfl", "replicate", "fal", "midjourney"}): _SPOILT,
        },
    ),
    "fewer_images": (
        "fewer_images",
        2,
        {
            _SEVERAL: End("completed", bought=2, missing="upstream_error"),
            frozenset({"fal", "ideogram"}): End(
                "completed", bought=2, missing="content_policy_violation"
            ),
        },
    ),
    "truncated_image": ("truncated_image", 1, {_ALL: _SPOILT}),
    # A JPEG has no checksum: what is wrong in the middle of it is a picture all the same.
    "corrupt_image": (
        "corrupt_image",
        1,
        {_ALL - {"gemini"}: _SPOILT, frozenset({"gemini"}): _DONE},
    ),
    "html_image": (
        "html_image",
        1,
        {_ALL - {"huggingface"}: _SPOILT, frozenset({"huggingface"}): _FAILED},
    ),
    "huge_image": ("huge_image", 1, {_ALL: _SPOILT}),
    "wrong_size": ("wrong_size", 1, {_ALL: _DONE}),
    "expired_url": ("expired_url", 1, {_LINKS | {"comfyui"}: _SPOILT}),
    "foreign_image_url": ("foreign_image_url", 1, {_LINKS: _SPOILT}),
    "redirect_image": ("redirect_image", 1, {_LINKS | {"comfyui"}: _SPOILT}),
}


def _cases() -> Iterator[Case]:
    for fault, (words, n, ends) in _TABLE.items():
        for providers, end in ends.items():
            for provider in sorted(providers):
                yield Case(fault, provider, f"sim:{words}", end, n)


CASES = tuple(_cases())
