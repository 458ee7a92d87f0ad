"""Processes that tests start by a fork, or look at."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any


def in_process(work: Callable[[], None]) -> Any:
    """A fork of this process, at work."""
    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    return process


def process_lives(pid: str | int) -> bool:
    """Whether a process is at work: one that is dead is not, though nobody may have waited for it yet."""
    return Path("/proc", str(pid).strip(), "cwd").exists()


def process_is_there(pid: str | int) -> bool:
    """Whether there is such a process, be it only a dead one that nobody has waited for."""
    return Path("/proc", str(pid).strip()).exists()
