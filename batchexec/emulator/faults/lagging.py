"""Lists and counts that are behind the truth, as the service's own indexes can be."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from batchexec.emulator.clock import Clock
from batchexec.emulator.state import Job, Task

from .faults import Faults


def seen(tasks: Iterable[Task], faults: Faults, clock: Clock, job: Job, by_filter: bool) -> Iterable[Task]:
    """The tasks that a list shows now: the newest are missing, and a filter overlooks what has just changed."""
    seconds = faults.lag("tasks", job=job.id, pool=job.pool_id)
    if not seconds:
        return tasks
    cut = clock.now() - timedelta(seconds=seconds)
    return [task for task in tasks if (task.state_time if by_filter else task.created) <= cut]


def counts(job: Job, faults: Faults, clock: Clock) -> dict[str, int] | None:
    """The task counts of some time ago; None where they do not lag."""
    seconds = faults.lag("counts", job=job.id, pool=job.pool_id)
    if not seconds:
        return None
    cut = clock.now() - timedelta(seconds=seconds)
    found = dict.fromkeys(("active", "running", "completed", "succeeded", "failed"), 0)
    for task in job.tasks.values():
        state = _state_at(task, cut)
        if state is not None:
            found["running" if state == "preparing" else state] += 1
            if state == "completed":
                found["succeeded" if task.succeeded else "failed"] += 1
    return found


def _state_at(task: Task, cut: datetime) -> str | None:
    """The state that a task had; of those before the last but one, `active` stands for all."""
    if task.created > cut:
        return None
    if task.state_time <= cut:
        return task.state
    earlier = task.previous_state_time
    return task.previous_state if earlier is not None and earlier <= cut else "active"
