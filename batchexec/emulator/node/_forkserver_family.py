"""Ending processes with all that they started. Standard library only."""

from __future__ import annotations

import os
import signal
import sys


def kill_group(pid: int, reaped: bool = False) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        if not reaped:  # a child that has not come to its setsid yet
            os.kill(pid, signal.SIGKILL)


def kill_descendants() -> None:
    """Kill and reap all below this process, which adopts orphans."""
    while pids := _children():
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    """Children of this process; with PR_SET_CHILD_SUBREAPER the orphans below it become children as well."""
    threads = os.listdir("/proc/self/task") if sys.platform == "linux" else []
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/self/task/{thread}/children") as listing:
                found += [int(pid) for pid in listing.read().split()]
        except OSError:  # the thread has just ended; its children are another's now
            pass
    return found


def adopt_orphans() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
