"""The tasks of a job that wait for a node."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .job import Task


class Queue:
    """Waiting tasks, the earliest created first among those that take as many slots.

    Tasks come and go in any order, in logarithmic time: one taken out stays in its line until it comes to the head.
    """

    __slots__ = ("_lines", "_tasks")

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}
        self._lines: dict[int, list[int]] = {}  # by slots: heaps of the tasks' serial numbers

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task: Task) -> bool:
        return task.seq in self._tasks

    def add(self, task: Task) -> None:
        self._tasks[task.seq] = task
        line = self._lines.get(task.slots)
        if line is None:
            line = self._lines[task.slots] = []
        heappush(line, task.seq)

    def discard(self, task: Task) -> None:
        if self._tasks.pop(task.seq, None) is not None and not self._tasks:
            self._lines.clear()

    def heads(self) -> list[Task]:
        """The first of each line, earliest created first: one task where all take as many slots."""
        found = []
        for slots, line in list(self._lines.items()):
            while line and line[0] not in self._tasks:
                heappop(line)
            if line:
                found.append(self._tasks[line[0]])
            else:
                del self._lines[slots]
        if len(found) > 1:
            found.sort(key=lambda task: task.seq)
        return found
