"""Processes as Linux accounts for them: who is whose child, and the CPU time of each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    command: str
    own_ms: float
    """CPU time of the process itself."""
    children_ms: float
    """CPU time of its children that have ended and were waited for, and of theirs."""


def available() -> bool:
    return (_PROC / "self" / "stat").exists()


def descendants(root: int) -> list[Process]:
    """Every process below `root`, parents before their children."""
    everyone = [process for path in _PROC.iterdir() if path.name.isdigit() and (process := read(int(path.name)))]
    found: list[Process] = []
    family = {root}
    while True:
        more = [process for process in everyone if process.parent in family and process.pid not in family]
        if not more:
            return found
        found += more
        family |= {process.pid for process in more}


def read(pid: int) -> Process | None:
    """None when there is no such process any more."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
        command = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything: what follows it begins after the last one.
    fields = stat.rpartition(")")[2].split()
    user, system, children_user, children_system = (int(field) * 1000 / _TICK for field in fields[11:15])
    return Process(pid, int(fields[1]), command, user + system, children_user + children_system)
