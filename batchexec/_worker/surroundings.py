"""What user code finds around it in its process, and what is left of it there."""

from __future__ import annotations

import os
import sys

from . import cache


def have_home(work_dir: str) -> None:
    """Give user code a HOME that it can write to: in a container, that of the image may belong to another user."""
    home = os.environ.get("HOME", "")
    if not os.path.isdir(home) or not os.access(home, os.W_OK | os.X_OK):
        os.environ["HOME"] = work_dir


def find_modules_in(directory: str) -> None:
    """Have the user's modules found there. Where the process stays for other tasks, those of an earlier job go."""
    for earlier in [path for path in sys.path if cache.is_source(path)]:
        sys.path.remove(earlier)
        if earlier != directory:
            for name, module in list(sys.modules.items()):
                places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
                if any(place and place.startswith(earlier) for place in places):
                    del sys.modules[name]
    sys.path.insert(1, directory)


def empty(directory: str) -> None:
    """A node keeps a task's directory for days. What is of no use any more makes room for other tasks now."""
    try:
        if not os.listdir(directory):
            return
    except FileNotFoundError:  # user code removed it
        return
    from . import trees

    trees.empty(directory)


def peak_memory() -> int | None:
    """Peak resident memory of this process in bytes, where the system tells (VmHWM: ru_maxrss survives a fork)."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
