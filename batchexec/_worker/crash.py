"""After a worker process died without a result: its logs go to storage, so that the client can say why."""

from __future__ import annotations

import os
from typing import Any

from . import logs
from .task import Task


def report(task: Task, status: int) -> None:
    """Upload the log blob. `status` is the dead process's exit code, or minus the signal that killed it."""
    if task.has_result():
        return
    paths = [_existing(task, name) for name in ("stdout.txt", "stderr.txt")]
    tails = [logs.tail(path) for path in paths]
    header: dict[str, Any] = {"status": status, "oom_kills": _oom_kills(), "tails": [len(tail) for tail in tails]}
    task.upload_log(paths, header, tails)


def _existing(task: Task, name: str) -> str:
    """The stream's file: one of the worker's own where it led the stream there, else the task's."""
    own = os.path.join(task.work_dir, f".batchexec-{name}")
    return own if os.path.exists(own) else os.path.join(task.task_dir, name)


def _oom_kills() -> int | None:
    """Out-of-memory kills in this task's control group, where the system tells (a container's own group)."""
    try:
        with open("/sys/fs/cgroup/memory.events") as file:
            return dict(line.split() for line in file).get("oom_kill")  # type: ignore[return-value]
    except (OSError, ValueError):
        return None
