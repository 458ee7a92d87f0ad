"""Pools and their nodes."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING

from .resource import Body, Resource

if TYPE_CHECKING:
    from batchexec.emulator.node.agent import NodeAgent
    from batchexec.emulator.node.runs import NodeRun, PrepRun, TaskRun

    from .job import Job, Task


class Pool(Resource):
    transient = Resource.transient | {"nodes"}
    __slots__ = (
        "allocation_state",
        "allocation_time",
        "autoscale_run",
        "nodes",
        "resize_errors",
        "slots",
        "target_dedicated",
        "target_spot",
    )

    def __init__(self, id: str, body: Body, now: datetime) -> None:
        super().__init__(id, body, "active", now)
        self.nodes: dict[str, Node] = {}
        self.slots: int = body.get("taskSlotsPerNode", 1)
        self.allocation_state = "steady"
        self.allocation_time = now
        self.target_dedicated = 0
        self.target_spot = 0
        self.resize_errors: list[Body] = []
        self.autoscale_run: Body | None = None

    @property
    def vm_size(self) -> str:
        return str(self.body["vmSize"])

    def allocate(self, state: str, now: datetime) -> None:
        self.allocation_state, self.allocation_time = state, now

    def forget(self, node: Node) -> None:
        """The node is gone."""
        if self.nodes.pop(node.id, None) is not None:
            node.changed()

    def count(self, dedicated: bool) -> int:
        return sum(node.dedicated is dedicated for node in self.nodes.values())


class Node(Resource):
    """A machine of a pool: `free` slots, the tasks on it, the runs of its start and the jobs' preparation tasks.

    `leaving`: it takes no more tasks, as it waits for those it has and goes then. `recent` are tasks it had last.
    """

    transient = Resource.transient | {"agent", "free", "pool", "prepared", "recent", "runs", "start_run"}
    __slots__ = (
        "agent",
        "boot_time",
        "dedicated",
        "errors",
        "free",
        "leaving",
        "pool",
        "prepared",
        "recent",
        "runs",
        "schedulable",
        "start_run",
        "start_task",
        "succeeded",
        "total_run",
    )

    def __init__(self, id: str, pool: Pool, dedicated: bool, now: datetime) -> None:
        self.start_task: Body | None = pool.body.get("startTask")
        super().__init__(id, {}, "starting" if self.start_task else "idle", now)
        self.start_run: NodeRun | None = None
        self.pool = pool
        self.dedicated = dedicated
        self.free = pool.slots
        self.runs: dict[Task, TaskRun] = {}
        self.prepared: dict[Job, PrepRun] = {}
        self.schedulable = True
        self.leaving = False
        self.boot_time = now
        self.errors: list[Body] = []
        self.recent: deque[Task] = deque(maxlen=10)
        self.total_run = 0
        self.succeeded = 0
        self.agent: NodeAgent

    @property
    def takes_tasks(self) -> bool:
        return self.schedulable and not self.leaving and self.state in ("idle", "running")

    def take(self, task: Task, run: TaskRun, now: datetime) -> None:
        self.free -= task.slots
        self.runs[task] = run
        self.recent.append(task)
        if self.state == "idle":
            self.move("running", now)

    def give_back(self, task: Task, now: datetime) -> None:
        self.free += task.slots
        del self.runs[task]
        if not self.runs and self.state == "running":
            self.rest(now)

    def rest(self, now: datetime) -> None:
        """It is up: idle, at work already, or offline where its scheduling is disabled."""
        self.move("running" if self.runs else "idle" if self.schedulable else "offline", now)
