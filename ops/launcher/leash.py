"""Becomes a command that ends with the launcher: `leash.py LAUNCHER_PID COMMAND…`. Linux only.

A program of its own because nothing but the new process itself can ask the kernel for this, and
running Python between fork and exec is not safe in a program with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2); stays set across exec

if __name__ == "__main__":
    launcher, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(launcher):
        sys.exit("the launcher died before its child was ready")
    os.execvp(command[0], command)  # noqa: S606
