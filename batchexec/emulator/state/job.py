"""Jobs and their tasks."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from batchexec.emulator.errors import BatchError

from .queue import Queue
from .resource import Body, Resource

if TYPE_CHECKING:
    from batchexec.emulator.clock import Timer
    from batchexec.emulator.node.runs import PrepRun, ReleaseRun
    from batchexec.emulator.scheduling.dependencies import Dependencies
    from batchexec.emulator.scheduling.retention import Retained

    from .pool import Node


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

    def requeue(self, now: datetime) -> None:
        """Back to the queue, as if it had never had a node; no retry is counted."""
        self.forget_execution()
        self.node_info = None
        self.move("active", now)

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


def settings(listed: list[Body] | None) -> dict[str, str]:
    """Environment settings, as they stand in a body, as a mapping."""
    return {item["name"]: item.get("value") or "" for item in listed or ()}
