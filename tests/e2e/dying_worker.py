"""A worker that is killed at the moment at which its first picture would get its name."""

from __future__ import annotations

import os
import signal
import sys

from workers.__main__ import main


def _kill(event: str, arguments: tuple[object, ...]) -> None:
    if event == "os.rename" and str(arguments[1]).endswith(".png"):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.addaudithook(_kill)
    sys.exit(main(["worker"]))
