"""Processes that a program leaves behind in groups of their own (daemons, `setsid`): ended when it is over."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_CHILD_SUBREAPER = 36
_ROUNDS = 1000  # each ends those that were found; their children are found by the next


def adopt() -> None:
    """Have what this process' descendants leave become children of this process, as init's otherwise (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> frozenset[int]:
    """This process' children, as far as the system tells."""
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task") if sys.platform == "linux" else ():
        try:
            with open(f"/proc/self/task/{thread}/children") as file:
                found.update(map(int, file.read().split()))
        except OSError:  # a kernel without it, or the thread has just ended
            pass
    return frozenset(found)


def end(before: frozenset[int]) -> None:
    """Kill the children that were not there before, and theirs."""
    for _ in range(_ROUNDS):
        new = children() - before
        if not new:
            return
        for process in new:
            try:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            except PermissionError:  # another user's, as by sudo
                before = before | {process}
            except (ProcessLookupError, ChildProcessError):
                pass  # somebody else was faster
