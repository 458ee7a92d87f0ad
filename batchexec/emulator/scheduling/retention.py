"""How long the files of completed tasks are kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from batchexec.emulator.clock import Clock, Timer, seconds_of

if TYPE_CHECKING:
    from batchexec.emulator.state import Job, Task

_DEFAULT_SECONDS = 7 * 86400.0
_FOR_EVER_SECONDS = 10 * 365 * 86400.0


class Retained:
    """The completed tasks of one job that still have their files: a line for each time they are kept, in seconds.

    A line is in the order of the tasks' ends, so its first task is the next one due.
    """

    __slots__ = ("lines", "timer")

    def __init__(self) -> None:
        self.lines: dict[float, deque[Task]] = {}
        self.timer: Timer | None = None


class Retention:
    """Has the files of completed tasks removed when their retention time is over; one timer per job.

    The service may keep them longer (REST documentation of TaskConstraints); here they go at once.
    """

    def __init__(self, clock: Clock, clean: Callable[[Task], None]) -> None:
        self._clock = clock
        self._clean = clean

    def keep(self, task: Task) -> None:
        """A task was completed, or loaded so, and has files."""
        given = (task.body.get("constraints") or {}).get("retentionTime")
        seconds = _DEFAULT_SECONDS if given is None else seconds_of(given)
        if seconds is None or seconds > _FOR_EVER_SECONDS:
            return
        job = task.job
        kept = job.retention
        if kept is None:
            kept = job.retention = Retained()
        line = kept.lines.get(seconds)
        if line is None:
            line = kept.lines[seconds] = deque()
        line.append(task)
        if len(line) == 1:
            self._set_timer(job, kept)

    def drop(self, task: Task) -> None:
        """The task is active again; its files stay where they are."""
        for line in task.job.retention.lines.values() if task.job.retention else ():
            if task in line:
                line.remove(task)

    def forget(self, job: Job) -> None:
        """The job is gone, with all files."""
        if job.retention is not None and job.retention.timer is not None:
            job.retention.timer.cancel()
        job.retention = None

    def _set_timer(self, job: Job, kept: Retained) -> None:
        if kept.timer is not None:
            kept.timer.cancel()
            kept.timer = None
        due = [self._left(line[0], seconds) for seconds, line in kept.lines.items() if line]
        if due:
            kept.timer = self._clock.call_later(max(0.0, min(due)), lambda: self._clean_up(job, kept))

    def _left(self, task: Task, seconds: float) -> float:
        end = task.end_time or self._clock.now()
        return (end + timedelta(seconds=seconds) - self._clock.now()).total_seconds()

    def _clean_up(self, job: Job, kept: Retained) -> None:
        for seconds, line in kept.lines.items():
            while line and self._left(line[0], seconds) <= 0:
                task = line.popleft()
                if task.job.tasks.get(task.id.lower()) is task:
                    task.cleaned = True
                    self._clean(task)
        self._set_timer(job, kept)
