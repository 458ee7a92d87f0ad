"""Which task runs where and when, and what follows from its end. Driven by events: nothing here polls."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from batchexec.emulator.clock import Clock
from batchexec.emulator.node.failures import TASK_ENDED
from batchexec.emulator.node.runs import TaskRun
from batchexec.emulator.state import Account, Job, Node, Task

from .placement import OpenNodes, victims
from .retention import Retention

if TYPE_CHECKING:
    from batchexec.emulator.node.agent import NodeAgent

_PATIENCE = 10  # later tasks that may start before one that needs more slots; then a node is kept for it


class Scheduler:
    """Moves tasks between the queue, the nodes and their end.

    `completed` is told of each task that was completed, `gone` of the job of one that was deleted.
    """

    def __init__(self, account: Account, clock: Clock) -> None:
        self.account = account
        self.clock = clock
        self.completed: Callable[[Task], None] = lambda task: None
        self.gone: Callable[[Job], None] = lambda job: None
        self.retention = Retention(clock, self._clean)
        self.cleaning: dict[Path, asyncio.Task[None]] = {}  # directories of tasks, while they are removed
        self._woken = False
        self.stopping = False

    # -- starting tasks

    def added(self, task: Task) -> None:
        """A task was created."""
        if task.blocked:
            self._wait(task)
        else:
            self.wake()

    def _wait(self, task: Task) -> None:
        if task.job.dependencies is None:
            from .dependencies import Dependencies

            task.job.dependencies = Dependencies(task.job, self._free)
        task.job.dependencies.add(task)

    def _free(self, task: Task) -> None:
        """All that the task depends on is satisfied."""
        task.blocked = False
        if task.state == "active":
            task.job.queue.add(task)
            self.wake()

    def restored(self, job: Job) -> None:
        """A job was loaded with its tasks, none of which is at work: see again who waits, and whose files are due."""
        for task in job.tasks.values():
            if task.state == "completed" and task.node_info is not None and not task.cleaned:
                self.retention.keep(task)
        for task in [task for task in job.tasks.values() if task.blocked]:
            self._wait(task)
        self.wake()

    def wake(self) -> None:
        """Something changed that may let a task start: look once, after the current event."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._woken = False
        if self.stopping:
            return
        waiting = [job for job in self.account.jobs.values() if job.queue and job.state == "active"]
        if len(waiting) > 1:
            waiting.sort(key=lambda job: (-job.priority, job.seq))
        open_nodes: dict[str, OpenNodes] = {}
        yielding = self._lowest_yielding() if waiting else math.inf
        for job in waiting:
            pool_id = job.pool_id.lower()
            nodes = open_nodes.get(pool_id)
            if nodes is None:
                pool = self.account.pools.get(pool_id)
                if pool is None or pool.state != "active":
                    continue
                nodes = open_nodes[pool_id] = OpenNodes(pool)
            self._start_tasks(job, nodes)
            if yielding < job.priority and job.queue and job.room:
                for task in victims(nodes.pool, job, job.queue.heads()[0]):
                    self.end_task(task, "requeue")

    def _start_tasks(self, job: Job, nodes: OpenNodes) -> None:
        """Start what fits: the earliest first, but one that needs many slots is passed over by `_PATIENCE` others."""
        holding: set[int] = set()
        while nodes and job.queue and job.room:
            passed: list[Task] = []
            for task in job.queue.heads():
                node = nodes.take(job, task)
                if node is not None:
                    self._place(task, node)
                    nodes.put(node)
                    for other in passed:
                        self._pass_over(other)
                    break
                if task.slots not in holding and self._was_patient(task):
                    holding.add(task.slots)
                    nodes.hold(job, task)
                passed.append(task)
            else:
                return

    @staticmethod
    def _pass_over(task: Task) -> None:
        passed = task.job.passed_over
        seq, count = passed.get(task.slots, (task.seq, 0))
        passed[task.slots] = task.seq, count + 1 if seq == task.seq else 1

    @staticmethod
    def _was_patient(task: Task) -> bool:
        seq, count = task.job.passed_over.get(task.slots, (task.seq, 0))
        return seq == task.seq and count >= _PATIENCE

    def _lowest_yielding(self) -> float:
        """The lowest priority of the jobs whose tasks may be preempted."""
        yielding = (job.priority for job in self.account.jobs.values() if job.body.get("allowTaskPreemption"))
        return min(yielding, default=math.inf)

    def _place(self, task: Task, node: Node) -> None:
        now = self.clock.now()
        task.forget_execution()
        task.node = node
        task.node_info = node.agent.info
        task.move("preparing", now)
        node.take(task, node.agent.start(task), now)

    # -- what the nodes report

    def running(self, task: Task, run: TaskRun) -> None:
        task.container = run.container
        run.start_time = task.start_time = self.clock.now()
        task.move("running", run.start_time)

    def finished(self, task: Task, run: TaskRun) -> None:
        now = self.clock.now()
        if run.reason == "abandoned":
            return  # the task lives on elsewhere
        node = run.agent.node
        node.give_back(task, now)
        task.node = None
        if run.reason == "requeue":
            task.requeue(now)
        elif run.reason != "deleted":
            self._complete(task, run)
            node.total_run += 1
            node.succeeded += task.succeeded
        self.wake()

    def _complete(self, task: Task, run: TaskRun) -> None:
        task.exit_code, task.failure = run.exit_code, run.failure
        self._end(task)

    def _end(self, task: Task) -> None:
        """The one way to completion: what depends on the task, its files and its job follow."""
        task.end_time = self.clock.now()
        task.result = "success" if task.failure is None else "failure"
        task.move("completed", task.end_time)
        if task.node_info is not None:
            self.retention.keep(task)
        if task.job.dependencies is not None:
            task.job.dependencies.completed(task)
        self.completed(task)

    # -- ending tasks

    def end_task(self, task: Task, reason: str) -> None:
        """Stop a task that is at work, or complete one that still waits."""
        if task.node is not None:
            task.ending = task.ending or reason == "ended"
            task.node.runs[task].stop(reason)
        elif task.state == "active" and reason == "ended":
            task.failure = TASK_ENDED
            self._end(task)

    def requeue_for_user(self, task: Task) -> None:
        """Put a task at work back, as a user asked for: this is counted, unlike recovery and preemption."""
        task.requeues += 1
        task.last_requeue = self.clock.now()
        self.end_task(task, "requeue")

    def reactivate(self, task: Task) -> None:
        """Give a failed task another life, with its count of retries begun anew."""
        self._undo(task)
        task.move("active", self.clock.now())
        task.forget_execution()
        task.retries, task.last_retry, task.node_info, task.cleaned = 0, None, None, False
        self.wake()

    def _undo(self, task: Task) -> None:
        if task.job.dependencies is not None:
            task.job.dependencies.undone(task)
        self.retention.drop(task)

    def abandon(self, task: Task) -> None:
        """Requeue a task without ending it where it runs: the service has lost the node, and so it runs twice."""
        if task.node is not None:
            node = task.node
            run = node.runs[task]
            run.abandon()
            run.agent.abandoned.append(run)
            now = self.clock.now()
            node.give_back(task, now)
            task.node = None
            task.requeue(now)
            self.wake()

    async def idle(self, tasks: list[Task]) -> None:
        """Wait until these tasks are off their nodes."""
        await asyncio.gather(*(task.node.runs[task].finished for task in tasks if task.node is not None))

    def delete_task(self, task: Task) -> None:
        agent = self._agent_of(task)
        self.end_task(task, "deleted")
        pending = []
        if task.node is not None:
            task.node.runs[task].reason = "deleted"  # even if its end was asked for before, and otherwise
            pending.append(task)
        if task.job.dependencies is not None:
            task.job.dependencies.undone(task)
        task.job.remove(task)
        self.gone(task.job)

        if agent is not None:
            self._remove_files(agent, task, pending)

    # -- files

    def directory_of(self, task: Task) -> Path | None:
        """Where the task's files are; None before it has a node, and when they are not there any more."""
        agent = self._agent_of(task)
        return agent.files_of(task.job, task.id) if agent else None

    def _agent_of(self, task: Task) -> NodeAgent | None:
        if task.node_info is None:
            return None
        pool = self.account.pools.get(task.node_info["poolId"].lower())
        node = pool.nodes.get(task.node_info["nodeId"].lower()) if pool else None
        return node.agent if node else None

    def _clean(self, task: Task) -> None:
        agent = self._agent_of(task)
        if agent is not None:
            self._remove_files(agent, task, [])

    def _remove_files(self, agent: NodeAgent, task: Task, pending: list[Task]) -> None:
        """Remove a task's directory once the `pending` are off their nodes; another task of its id waits for that."""
        root = agent.task_root(task.job, task.id)
        earlier = self.cleaning.get(root)

        async def clean() -> None:
            try:
                if earlier is not None:
                    await asyncio.wait({earlier})
                await self.idle(pending)
                await asyncio.to_thread(agent.remove_files, task.job, task.id)
            finally:
                if self.cleaning[root] is cleaning:
                    del self.cleaning[root]

        cleaning = self.cleaning[root] = self.account.spawn(clean())

    async def cleaned(self, root: Path) -> None:
        """Wait until a directory is not that of an earlier task any more."""
        while (cleaning := self.cleaning.get(root)) is not None:
            await asyncio.wait({cleaning})

    # -- the end

    def stop(self) -> None:
        """Start nothing more."""
        self.stopping = True
