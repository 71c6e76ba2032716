"""How often a process that serves thousands at once looks for garbage."""

from __future__ import annotations

import gc

__all__ = ["settle"]

_YOUNG = 2_000  # new objects that one collection waits for; Python's own 700 are for few that stay


def settle() -> None:
    """Call this when the start of the process is over.

    What was made for it stays: 100,000 objects that no collection of garbage need look at. What is
    made from now on mostly goes without one; yet each collection looks through what thousands of
    tasks or requests in flight hold, and nobody is answered meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
