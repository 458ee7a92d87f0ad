"""Which task runs where and when, and what follows from its end. Driven by events: nothing here polls."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from .attempts import TASK_ENDED, TaskRun
from .clock import Clock
from .state import Account, Job, Node, Pool, Task


class Scheduler:
    """Moves tasks between the queue, the nodes and their end.

    `task_over` is told of each task that was completed or deleted.
    """

    def __init__(self, account: Account, clock: Clock) -> None:
        self.account = account
        self.clock = clock
        self.task_over: Callable[[Job], None] = lambda job: None
        self._woken = False
        self._stopping = False

    # -- starting tasks

    def wake(self) -> None:
        """Something changed that may let a task start: look once, after the current event."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._woken = False
        if self._stopping:
            return
        waiting = [job for job in self.account.jobs.values() if job.queue and job.state == "active"]
        waiting.sort(key=lambda job: (-job.priority, job.seq))
        for job in waiting:
            pool = self.account.pools.get(job.pool_id.lower())
            if pool is None or pool.state != "active":
                continue
            while job.queue and job.room:
                task = next(iter(job.queue.values()))
                node = self._node_for(pool, job, task)
                if node is None:
                    break
                self._place(task, node)

    def _node_for(self, pool: Pool, job: Job, task: Task) -> Node | None:
        """The emptiest node that takes the task, or the fullest where the pool packs."""
        packs = (pool.body.get("taskSchedulingPolicy") or {}).get("nodeFillType") == "pack"
        best: Node | None = None
        for node in pool.nodes.values():
            if node.free < task.slots or not node.takes_tasks:
                continue
            prep = node.prepared.get(job)
            if prep is not None and prep.bars_node:
                continue
            if best is None or (node.free < best.free if packs else node.free > best.free):
                best = node
        return best

    def _place(self, task: Task, node: Node) -> None:
        now = self.clock.now()
        job = task.job
        task.forget_execution()
        task.node = node
        node_url = node.agent.url
        root = f"workitems/{job.id}/job-1/{task.id}"
        task.node_info = {
            "affinityId": f"TVM:{node.id}",
            "nodeUrl": node_url,
            "poolId": node.pool.id,
            "nodeId": node.id,
            "taskRootDirectory": root,
            "taskRootDirectoryUrl": f"{node_url}/files/{root}",
        }
        task.move("preparing", now)
        node.take(task, node.agent.start(task), now)

    # -- what the nodes report

    def running(self, task: Task, run: TaskRun) -> None:
        task.container = run.container
        run.start_time = task.start_time = self.clock.now()
        task.move("running", run.start_time)

    def finished(self, task: Task, run: TaskRun) -> None:
        now = self.clock.now()
        node = run.agent.node
        node.give_back(task, now)
        task.node = None
        if run.reason == "requeue":
            self._requeue(task)
        elif run.reason != "deleted":
            self._complete(task, run)
            node.succeeded += task.succeeded
        self.wake()

    def _requeue(self, task: Task) -> None:
        task.forget_execution()
        task.node_info = None
        task.move("active", self.clock.now())

    def _complete(self, task: Task, run: TaskRun) -> None:
        task.end_time = self.clock.now()
        task.exit_code, task.failure = run.exit_code, run.failure
        task.result = "success" if run.failure is None else "failure"
        task.move("completed", task.end_time)
        self.task_over(task.job)

    # -- ending tasks

    def end_task(self, task: Task, reason: str) -> None:
        """Stop a task that is at work, or complete one that still waits."""
        if task.node is not None:
            task.node.runs[task].stop(reason)
        elif task.state == "active" and reason == "ended":
            task.failure = TASK_ENDED
            task.result = "failure"
            task.end_time = self.clock.now()
            task.move("completed", task.end_time)
            self.task_over(task.job)

    def reactivate(self, task: Task) -> None:
        """Give a failed task another life, with its count of retries begun anew."""
        task.move("active", self.clock.now())
        task.forget_execution()
        task.retries, task.last_retry, task.node_info = 0, None, None
        self.wake()

    async def idle(self, tasks: list[Task]) -> None:
        """Wait until these tasks are off their nodes."""
        await asyncio.gather(*(task.node.runs[task].finished for task in tasks if task.node is not None))

    def delete_task(self, task: Task) -> None:
        directory = self.directory_of(task)
        self.end_task(task, "deleted")
        pending = [task] if task.node is not None else []
        task.job.remove(task)
        self.task_over(task.job)

        async def clean() -> None:
            await self.idle(pending)
            if directory is not None:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

        self.account.spawn(clean())

    def directory_of(self, task: Task) -> Path | None:
        """Where the task's files are; None before it has a node and when the node is gone."""
        if task.node_info is None:
            return None
        pool = self.account.pools.get(task.node_info["poolId"].lower())
        node = pool.nodes.get(task.node_info["nodeId"].lower()) if pool else None
        return node.agent.root / task.node_info["taskRootDirectory"] if node else None

    # -- the end

    def stop(self) -> None:
        """Start nothing more."""
        self._stopping = True
