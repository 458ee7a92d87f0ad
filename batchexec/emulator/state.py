"""What the service knows: pools, nodes, jobs and tasks as plain objects, each changing state in one place."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .clock import Timer
from .errors import BatchError

if TYPE_CHECKING:
    from .attempts import NodeRun, PrepRun, TaskRun
    from .node import NodeAgent
    from .quotas import Quotas

Body = dict[str, Any]
_serial = itertools.count(1)


class Resource:
    """What all have in common: an id, a body as the client gave it, a state with its times."""

    __slots__ = (
        "body",
        "created",
        "id",
        "modified",
        "previous_state",
        "previous_state_time",
        "seq",
        "state",
        "state_time",
        "version",
    )

    def __init__(self, id: str, body: Body, state: str, now: datetime) -> None:
        self.id = id
        self.body = body
        self.seq = next(_serial)
        self.version = self.seq
        self.state = state
        self.state_time = now
        self.previous_state: str | None = None
        self.previous_state_time: datetime | None = None
        self.created = now
        self.modified = now

    def move(self, state: str, now: datetime) -> None:
        """The one place where a state changes."""
        self.previous_state, self.previous_state_time = self.state, self.state_time
        self.state, self.state_time = state, now

    def touch(self, now: datetime) -> None:
        self.modified = now
        self.version = next(_serial)

    @property
    def etag(self) -> str:
        return f"0x{0x8DD000000000000 + self.version:X}"


class Node(Resource):
    """A machine of a pool: `free` slots, the tasks on it, the runs of its start and the jobs' preparation tasks."""

    __slots__ = (
        "agent",
        "dedicated",
        "free",
        "pool",
        "prepared",
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
        self.total_run = 0
        self.succeeded = 0
        self.agent: NodeAgent

    @property
    def takes_tasks(self) -> bool:
        return self.schedulable and self.state in ("idle", "running")

    def take(self, task: Task, run: TaskRun, now: datetime) -> None:
        self.free -= task.slots
        self.runs[task] = run
        self.total_run += 1
        if self.state == "idle":
            self.move("running", now)

    def give_back(self, task: Task, now: datetime) -> None:
        self.free += task.slots
        del self.runs[task]
        if not self.runs and self.state == "running":
            self.move("idle", now)


class Pool(Resource):
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

    def count(self, dedicated: bool) -> int:
        return sum(node.dedicated is dedicated for node in self.nodes.values())


class Task(Resource):
    __slots__ = (
        "container",
        "end_time",
        "exit_code",
        "failure",
        "job",
        "last_requeue",
        "last_retry",
        "launched",
        "node",
        "node_info",
        "requeues",
        "result",
        "retries",
        "slots",
        "start_time",
    )

    def __init__(self, id: str, job: Job, body: Body, now: datetime) -> None:
        super().__init__(id, body, "active", now)
        self.job = job
        self.slots: int = body.get("requiredSlots", 1)
        self.node: Node | None = None
        self.node_info: Body | None = None
        self.forget_execution()
        self.retries = 0
        self.last_retry: datetime | None = None
        self.requeues = 0
        self.last_requeue: datetime | None = None
        self.launched = False  # whether a process was ever started for it, in this life or an earlier one
        job.tasks[id.lower()] = self
        job.wide = job.wide or self.slots > 1
        job.counts["active"] += 1
        job.queue[self.seq] = self
        job.recent[self.seq] = self

    def forget_execution(self) -> None:
        self.start_time: datetime | None = None
        self.end_time: datetime | None = None
        self.exit_code: int | None = None
        self.failure: Body | None = None
        self.container: Body = {}
        self.result: str | None = None

    def move(self, state: str, now: datetime) -> None:
        job = self.job
        job.counts[self.state] -= 1
        job.counts[state] += 1
        if self.state == "active":
            job.queue.pop(self.seq, None)
        if state == "active":
            job.enqueue(self)
        if state == "completed":
            job.results[self.result or "failure"] += 1
        elif self.state == "completed":
            job.results[self.result or "failure"] -= 1
        super().move(state, now)
        job.recent.pop(self.seq, None)
        job.recent[self.seq] = self

    @property
    def retry_limit(self) -> int:
        own = (self.body.get("constraints") or {}).get("maxTaskRetryCount")
        if own is None:
            own = (self.job.body.get("constraints") or {}).get("maxTaskRetryCount")
        return own or 0

    @property
    def succeeded(self) -> bool:
        return self.result == "success"


class Job(Resource):
    """`queue` holds the active tasks by their creation, `recent` all tasks, last changed last."""

    __slots__ = (
        "counts",
        "disable_option",
        "end_time",
        "environment",
        "prepared_on",
        "queue",
        "recent",
        "results",
        "start_time",
        "tasks",
        "terminate_reason",
        "timer",
        "wide",
    )

    def __init__(self, id: str, body: Body, now: datetime) -> None:
        super().__init__(id, body, "active", now)
        self.start_time = now
        self.end_time: datetime | None = None
        self.wide = False  # whether any task takes more than one slot
        self.terminate_reason: str | None = None
        self.disable_option: str | None = None
        self.tasks: dict[str, Task] = {}
        self.queue: dict[int, Task] = {}
        self.recent: dict[int, Task] = {}
        self.counts: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        self.prepared_on: dict[str, PrepRun] = {}
        self.timer: Timer | None = None
        self.environment = settings(body.get("commonEnvironmentSettings"))

    @property
    def pool_id(self) -> str:
        return str(self.body["poolInfo"]["poolId"])

    @property
    def priority(self) -> int:
        return int(self.body.get("priority", 0))

    @property
    def at_work(self) -> int:
        return self.counts["running"] + self.counts["preparing"]

    @property
    def takes_quota(self) -> bool:
        """Whether it counts as an active job of the account; one that was active does until it is gone."""
        return "completed" not in (self.state, self.previous_state if self.state == "deleting" else None)

    @property
    def room(self) -> bool:
        """Whether maxParallelTasks allows one more task to start."""
        limit = int(self.body.get("maxParallelTasks", -1))
        return limit < 0 or self.at_work < limit

    @property
    def all_done(self) -> bool:
        return self.counts["completed"] == len(self.tasks)

    def enqueue(self, task: Task) -> None:
        late = bool(self.queue) and next(reversed(self.queue)) > task.seq
        self.queue[task.seq] = task
        if late:
            self.queue = dict(sorted(self.queue.items()))

    def remove(self, task: Task) -> None:
        self.counts[task.state] -= 1
        if task.state == "completed":
            self.results[task.result or "failure"] -= 1
        for index in (self.queue, self.recent):
            index.pop(task.seq, None)
        del self.tasks[task.id.lower()]

    def refuse_unless_open(self) -> None:
        """Raise what the service answers when a completed or ending job is asked to do more."""
        code = {
            "completed": "JobCompleted",
            "terminating": "JobBeingTerminated",
            "deleting": "JobBeingDeleted",
        }.get(self.state)
        if code:
            raise BatchError(code)


class Account:
    """All pools and jobs, by lower-cased id, and the work on them that goes on beside requests."""

    def __init__(self, name: str, quotas: Quotas) -> None:
        self.name = name
        self.quotas = quotas
        self.pools: dict[str, Pool] = {}
        self.jobs: dict[str, Job] = {}
        self._work: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside the request that asked for it."""
        started = asyncio.ensure_future(work)
        self._work.add(started)
        started.add_done_callback(self._work.discard)
        return started

    async def idle(self) -> None:
        """Wait for all that was spawned."""
        while self._work:
            await asyncio.wait(set(self._work), timeout=5)

    def pool(self, id: str) -> Pool:
        pool = self.pools.get(id.lower())
        if pool is None:
            raise BatchError("PoolNotFound")
        return pool

    def job(self, id: str) -> Job:
        job = self.jobs.get(id.lower())
        if job is None:
            raise BatchError("JobNotFound")
        return job

    def task(self, job_id: str, id: str) -> Task:
        task = self.job(job_id).tasks.get(id.lower())
        if task is None:
            raise BatchError("TaskNotFound")
        return task


def settings(listed: list[Body] | None) -> dict[str, str]:
    """Environment settings, as they stand in a body, as a mapping."""
    return {item["name"]: item.get("value") or "" for item in listed or ()}
