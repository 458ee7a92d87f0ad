"""Which node takes a task: the open nodes of a pool, for one look at the queues."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchexec.emulator.state import Job, Node, Pool, Task


class OpenNodes:
    """The nodes of a pool that have free slots and take tasks, by how many are free."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._packs = (pool.body.get("taskSchedulingPolicy") or {}).get("nodeFillType") == "pack"
        self._lines: dict[int, deque[Node]] = {}
        for node in pool.nodes.values():
            if node.free > 0 and node.takes_tasks:
                self.put(node)

    def __bool__(self) -> bool:
        return bool(self._lines)

    def put(self, node: Node) -> None:
        """A node is open, or open again: it goes behind those that have as many free slots."""
        if node.free > 0:
            line = self._lines.get(node.free)
            if line is None:
                line = self._lines[node.free] = deque()
            line.append(node)

    def take(self, job: Job, task: Task) -> Node | None:
        """Take out the emptiest node on which the task fits, or the fullest where the pool packs; None for none.

        A node that the task's affinity names goes first, whatever its load.
        """
        hint = task.body.get("affinityInfo")
        if hint:
            node = self._hinted(str(hint.get("affinityId")))
            if node is not None and node.free >= task.slots and not barred(node, job) and self._remove(node):
                return node
        for free in sorted(self._lines, reverse=not self._packs) if len(self._lines) > 1 else tuple(self._lines):
            if free < task.slots:
                continue
            node = next((node for node in self._lines[free] if not barred(node, job)), None)
            if node is not None:
                self._remove(node)
                return node
        return None

    def hold(self, job: Job, task: Task) -> None:
        """Keep the emptiest node for a task that does not fit there yet: nobody else gets it in this look."""
        if task.slots > self.pool.slots:
            return  # it never will
        for free in sorted(self._lines, reverse=True):
            node = next((node for node in self._lines[free] if not barred(node, job)), None)
            if node is not None:
                self._remove(node)
                return

    def _hinted(self, affinity: str) -> Node | None:
        return self.pool.nodes.get(affinity.removeprefix("TVM:").lower())

    def _remove(self, node: Node) -> bool:
        line = self._lines.get(node.free)
        if line is None or node not in line:
            return False
        if line[0] is node:
            line.popleft()
        else:
            line.remove(node)
        if not line:
            del self._lines[node.free]
        return True


def barred(node: Node, job: Job) -> bool:
    """Whether the job's preparation task failed on the node."""
    prep = node.prepared.get(job)
    return prep is not None and prep.bars_node


def victims(pool: Pool, job: Job, task: Task) -> list[Task]:
    """The fewest tasks of lower jobs that allow preemption whose end makes room for this one; none where room is
    being made already, or cannot be."""
    best: list[Task] = []
    for node in pool.nodes.values():
        if not node.takes_tasks or barred(node, job):
            continue
        room = node.free + sum(other.slots for other, run in node.runs.items() if run.reason is not None)
        if room >= task.slots:
            return []
        chosen = []
        for other in sorted(_preemptible(node, job), key=lambda other: (other.job.priority, -other.seq)):
            if room >= task.slots:
                break
            chosen.append(other)
            room += other.slots
        if room >= task.slots and (not best or len(chosen) < len(best)):
            best = chosen
    return best


def _preemptible(node: Node, job: Job) -> list[Task]:
    return [
        task
        for task, run in node.runs.items()
        if run.reason is None and task.job.priority < job.priority and task.job.body.get("allowTaskPreemption")
    ]
