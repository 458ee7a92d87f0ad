"""Which tasks of a job wait for which others: by id and by ranges of ids that are numbers."""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING

from .exit_conditions import verdict

if TYPE_CHECKING:
    from batchexec.emulator.state import Job, Task

_NUMBER = re.compile(r"-?[0-9]+")


def number_of(id: str) -> int | None:
    """The number that an id stands for in ranges: leading zeros do not matter."""
    return int(id) if _NUMBER.fullmatch(id) else None


class Dependencies:
    """The waiting tasks of one job; `free` is told of each whose dependencies are all satisfied.

    Who waits watches one dependency at a time that is not satisfied, and goes on to the next when it is. Tasks that
    depend on the same range share one gate, and a gate watches a random number of those missing: so chains, and
    ranges over everything before, cost little more than their length. A task that is not there (yet) satisfies nobody.
    """

    def __init__(self, job: Job, free: Callable[[Task], None]) -> None:
        self._job = job
        self._free = free
        self._by_id: dict[str, list[_Waiting]] = {}
        self._by_number: dict[int, list[_Gate]] = {}
        self._gates: dict[tuple[int, int], _Gate] = {}
        self._numbers: Numbers | None = None  # those satisfied; kept from the first range on

    def add(self, task: Task) -> None:
        """A task with `dependsOn` that was just created or loaded: it is freed at once where nothing is missing."""
        body = task.body["dependsOn"]
        ids = [id.lower() for id in body.get("taskIds") or ()]
        ranges = [(item["start"], item["end"]) for item in body.get("taskIdRanges") or ()]
        self._go_on(_Waiting(task, ids[::-1], ranges[::-1]))

    def completed(self, task: Task) -> None:
        if not verdict(task).satisfies:
            return
        for waiting in self._by_id.pop(task.id.lower(), ()):
            self._go_on(waiting)
        number = number_of(task.id) if self._numbers is not None else None
        if number is not None and self._numbers is not None:
            self._numbers.add(number)
            for gate in self._by_number.pop(number, ()):
                self._look(gate)

    def undone(self, task: Task) -> None:
        """A completed task was reactivated or deleted: it satisfies nobody who comes later."""
        number = number_of(task.id) if self._numbers is not None else None
        if number is not None and self._numbers is not None:
            self._numbers.discard(number)

    def _satisfied(self, id: str) -> bool:
        task = self._job.tasks.get(id)
        return task is not None and task.state == "completed" and verdict(task).satisfies

    def _go_on(self, waiting: _Waiting) -> None:
        while waiting.ids:
            if not self._satisfied(waiting.ids[-1]):
                self._by_id.setdefault(waiting.ids[-1], []).append(waiting)
                return
            waiting.ids.pop()
        while waiting.ranges:
            key = waiting.ranges[-1]
            gate = self._gates.get(key)
            if gate is None:
                gate = _Gate(*key)
                if self._look(gate):
                    waiting.ranges.pop()
                    continue
                self._gates[key] = gate
            gate.waiting.append(waiting)
            return
        # It may have been terminated or deleted while it waited.
        if waiting.task.blocked and self._job.tasks.get(waiting.task.id.lower()) is waiting.task:
            self._free(waiting.task)

    def _look(self, gate: _Gate) -> bool:
        """Open the gate where its range is complete; else have it watch a number that is missing."""
        if self._numbers is None:
            self._numbers = self._count()
        missing = self._numbers.missing(gate.start, gate.end)
        if missing is not None:
            self._by_number.setdefault(missing, []).append(gate)
            return False
        self._gates.pop((gate.start, gate.end), None)
        for waiting in gate.waiting:
            waiting.ranges.pop()
            self._go_on(waiting)
        gate.waiting = []
        return True

    def _count(self) -> Numbers:
        numbers = Numbers()
        for task in self._job.tasks.values():
            if task.state == "completed" and (number := number_of(task.id)) is not None and verdict(task).satisfies:
                numbers.add(number)
        return numbers


class _Waiting:
    """A task with the dependencies it has yet to see satisfied, the next one last."""

    __slots__ = ("ids", "ranges", "task")

    def __init__(self, task: Task, ids: list[str], ranges: list[tuple[int, int]]) -> None:
        self.task = task
        self.ids = ids
        self.ranges = ranges


class _Gate:
    """A range of numbers, and who waits for all of it."""

    __slots__ = ("end", "start", "waiting")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.waiting: list[_Waiting] = []


class Numbers:
    """A set of whole numbers, kept as intervals: quick to tell what of a range is missing."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def _find(self, number: int) -> int:
        """The index of the last interval that starts at or before the number, -1 for none."""
        return bisect_right(self._starts, number) - 1

    def __contains__(self, number: int) -> bool:
        at = self._find(number)
        return at >= 0 and number <= self._ends[at]

    def add(self, number: int) -> None:
        at = self._find(number)
        if at >= 0 and number <= self._ends[at]:
            return
        after = at + 1
        left = at >= 0 and self._ends[at] == number - 1
        right = after < len(self._starts) and self._starts[after] == number + 1
        if left and right:
            self._ends[at] = self._ends[after]
            del self._starts[after], self._ends[after]
        elif left:
            self._ends[at] = number
        elif right:
            self._starts[after] = number
        else:
            self._starts.insert(after, number)
            self._ends.insert(after, number)

    def discard(self, number: int) -> None:
        if number not in self:
            return
        at = self._find(number)
        start, end = self._starts[at], self._ends[at]
        parts = [part for part in ((start, number - 1), (number + 1, end)) if part[0] <= part[1]]
        self._starts[at : at + 1] = [part[0] for part in parts]
        self._ends[at : at + 1] = [part[1] for part in parts]

    def missing(self, start: int, end: int) -> int | None:
        """Any number from `start` to `end` that is not in the set; None where all are."""
        low = self._next_missing(start)
        if low > end:
            return None
        at = self._find(end)
        high = self._starts[at] - 1 if at >= 0 and end <= self._ends[at] else end
        return self._next_missing(random.randint(low, high))  # `high` is missing, so none above it is found

    def _next_missing(self, number: int) -> int:
        at = self._find(number)
        return self._ends[at] + 1 if at >= 0 and number <= self._ends[at] else number
