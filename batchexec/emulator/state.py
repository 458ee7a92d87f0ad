"""What the service knows: pools, nodes, jobs and tasks as plain objects, each changing state in one place."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from batchexec.emulator.batch.errors import BatchError
from batchexec.emulator.faults.faults import Faults
from batchexec.emulator.scheduling.waiting import Queue

from .clock import Timer

if TYPE_CHECKING:
    from pathlib import Path

    from batchexec.emulator.node.agent import NodeAgent
    from batchexec.emulator.node.attempts import NodeRun, PrepRun, ReleaseRun, TaskRun
    from batchexec.emulator.node.container_runtime import ContainerRuntime
    from batchexec.emulator.node.own_storage import OwnStorage
    from batchexec.emulator.scheduling.dependencies import Dependencies
    from batchexec.emulator.scheduling.quotas import Quotas
    from batchexec.emulator.scheduling.retention import Retained

Body = dict[str, Any]
_serial = itertools.count(1)


class Resource:
    """What all have in common: an id, a body as the client gave it, a state with its times.

    With a data directory every attribute is kept but those that a class calls `transient`: they hold other objects,
    or follow from what is kept. An assignment tells the watcher by itself (see `watch`); `changed` tells it of what no
    assignment shows: a change inside of a list or a mapping, or that the resource is gone for good.
    """

    transient: ClassVar[frozenset[str]] = frozenset({"body", "seq"})  # they have columns of their own
    watcher: ClassVar[Callable[[Resource, str], object] | None] = None

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

    def changed(self) -> None:
        if Resource.watcher is not None:
            Resource.watcher(self, "")

    @property
    def etag(self) -> str:
        return f"0x{0x8DD000000000000 + self.version:X}"


def watch(watcher: Callable[[Resource, str], object] | None) -> None:
    """From now on call `watcher(resource, name)` when an attribute of that name was set; None: no longer.

    Only this makes assignments dearer: without a data directory they cost what they always do.
    """
    Resource.watcher = watcher
    if watcher is None:
        Resource.__setattr__ = object.__setattr__  # type: ignore[method-assign]
        return

    def assign(self: Resource, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        watcher(self, name)

    Resource.__setattr__ = assign  # type: ignore[method-assign, assignment]


def next_serial() -> int:
    return next(_serial)


def continue_serials(first: int) -> None:
    """Count on where an earlier run ended, so that no serial number and no ETag comes twice."""
    global _serial
    _serial = itertools.count(first)


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


class Task(Resource):
    """`blocked`: it waits for tasks that it depends on. `cleaned`: its files went when their time was over.

    `ending`: its end was asked for, and comes when its process is gone.
    """

    transient = Resource.transient | {"job", "node", "slots"}
    __slots__ = (
        "blocked",
        "cleaned",
        "container",
        "end_time",
        "ending",
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
        self.blocked = bool(body.get("dependsOn"))
        self.cleaned = False
        job.tasks[id.lower()] = self
        job.wide = job.wide or self.slots > 1
        job.counts["active"] += 1
        if not self.blocked:
            job.queue.add(self)
        job.recent[self.seq] = self

    def forget_execution(self) -> None:
        self.start_time: datetime | None = None
        self.end_time: datetime | None = None
        self.exit_code: int | None = None
        self.failure: Body | None = None
        self.container: Body = {}
        self.result: str | None = None
        self.ending = False

    def move(self, state: str, now: datetime) -> None:
        job = self.job
        job.counts[self.state] -= 1
        job.counts[state] += 1
        if self.state == "active":
            job.queue.discard(self)
        if state == "active" and not self.blocked:
            job.queue.add(self)
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
    """`queue` holds the active tasks that may start, `recent` all tasks, last changed last.

    `auto_pool` is the id of the pool that was made for the job. `passed_over` counts, for the first waiting task of a
    number of slots, the later ones that started before it: its serial number and their count.
    """

    transient = Resource.transient | {
        "counts",
        "dependencies",
        "environment",
        "passed_over",
        "prepared_on",
        "queue",
        "recent",
        "released_on",
        "results",
        "retention",
        "tasks",
        "timer",
        "wide",
    }
    __slots__ = (
        "auto_pool",
        "counts",
        "dependencies",
        "disable_option",
        "end_time",
        "environment",
        "passed_over",
        "prepared_on",
        "queue",
        "recent",
        "released_on",
        "results",
        "retention",
        "scheduling_error",
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
        self.queue = Queue()
        self.recent: dict[int, Task] = {}
        self.counts: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        self.prepared_on: dict[str, PrepRun] = {}
        self.released_on: dict[str, ReleaseRun] = {}
        self.auto_pool: str | None = None
        self.scheduling_error: Body | None = None
        self.dependencies: Dependencies | None = None
        self.retention: Retained | None = None
        self.passed_over: dict[int, tuple[int, int]] = {}
        self.timer: Timer | None = None
        self.environment = settings(body.get("commonEnvironmentSettings"))

    @property
    def pool_id(self) -> str:
        return str(self.auto_pool or self.body["poolInfo"].get("poolId") or "")

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

    def remove(self, task: Task) -> None:
        self.counts[task.state] -= 1
        if task.state == "completed":
            self.results[task.result or "failure"] -= 1
        self.queue.discard(task)
        self.recent.pop(task.seq, None)
        del self.tasks[task.id.lower()]
        task.changed()

    def reindex(self) -> None:
        """Make anew what follows from the tasks, when they were read from a data directory."""
        tasks = list(self.tasks.values())
        self.counts = Counter(task.state for task in tasks)
        self.results = Counter(task.result or "failure" for task in tasks if task.state == "completed")
        self.queue = Queue()
        for task in tasks:
            if task.state == "active" and not task.blocked:
                self.queue.add(task)
        self.recent = {task.seq: task for task in sorted(tasks, key=lambda task: task.state_time)}

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

    def __init__(self, name: str, quotas: Quotas, faults: Faults | None = None) -> None:
        self.name = name
        self.quotas = quotas
        self.faults = faults or Faults()
        self.pools: dict[str, Pool] = {}
        self.jobs: dict[str, Job] = {}
        self.container_runtime: ContainerRuntime | None = None  # of this machine; None: containers are processes
        self.storage: OwnStorage | None = None
        self.trusted: Path | None = None  # certificates that nodes trust, where the service is of an authority of ours
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

    def forget_pool(self, pool: Pool) -> None:
        """The pool is gone, with its nodes."""
        if self.pools.pop(pool.id.lower(), None) is not None:
            pool.changed()

    def forget_job(self, job: Job) -> None:
        """The job is gone, with its tasks."""
        if self.jobs.pop(job.id.lower(), None) is not None:
            job.changed()

    def pool(self, id: str) -> Pool:
        pool = self.pools.get(id.lower())
        if pool is None:
            raise BatchError("PoolNotFound")
        return pool

    def node(self, pool_id: str, id: str) -> Node:
        node = self.pool(pool_id).nodes.get(id.lower())
        if node is None:
            raise BatchError("NodeNotFound")
        return node

    def any_node(self, id: str) -> Node | None:
        """The node of this id, in whatever pool; they do not come twice."""
        return next((pool.nodes[id] for pool in self.pools.values() if id in pool.nodes), None)

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
