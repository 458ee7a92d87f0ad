"""Which task runs where and when, and what follows from its end. Driven by events: nothing here polls."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from . import containers
from .attempts import TASK_ENDED, TaskRun
from .clock import Clock, seconds_of
from .directories import make_top
from .errors import BatchError
from .node import NodeAgent
from .state import Account, Job, Node, Pool, Task

_log = logging.getLogger(__name__)


class Scheduler:
    """Moves tasks between the queue, the nodes and their end, and jobs and pools along with them.

    `path` is the PATH of the nodes.
    """

    def __init__(self, account: Account, clock: Clock, root: Path, url: str, path: str) -> None:
        self.account = account
        self.clock = clock
        self._nodes = root / "nodes"
        make_top(self._nodes)
        self._url = url
        self._path = path
        self._told_of_containers = False
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
        node_url = f"{self._url}/pools/{node.pool.id}/nodes/{node.id}"
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

    def starting(self, node: Node) -> None:
        """The start task begins; where the pool does not wait for it, tasks may run beside it."""
        if node.state == "starting":
            waits = (node.start_task or {}).get("waitForSuccess") is not False
            node.move("waitingforstarttask" if waits else "idle", self.clock.now())
            self.wake()

    def started(self, node: Node) -> None:
        """The start task is over."""
        if node.state == "waitingforstarttask" and node.start_run is not None:
            good = node.start_run.result == "success"
            node.move("idle" if good else "starttaskfailed", self.clock.now())
            self.wake()

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
        self.settle(task.job)

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
            self.settle(task.job)

    def reactivate(self, task: Task) -> None:
        """Give a failed task another life, with its count of retries begun anew."""
        task.move("active", self.clock.now())
        task.forget_execution()
        task.retries, task.last_retry, task.node_info = 0, None, None
        self.wake()

    async def _idle(self, tasks: list[Task]) -> None:
        """Wait until these tasks are off their nodes."""
        await asyncio.gather(*(task.node.runs[task].finished for task in tasks if task.node is not None))

    def delete_task(self, task: Task) -> None:
        directory = self.directory_of(task)
        self.end_task(task, "deleted")
        pending = [task] if task.node is not None else []
        task.job.remove(task)
        self.settle(task.job)

        async def clean() -> None:
            await self._idle(pending)
            if directory is not None:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

        self.spawn(clean())

    def directory_of(self, task: Task) -> Path | None:
        """Where the task's files are; None before it has a node and when the node is gone."""
        if task.node_info is None:
            return None
        pool = self.account.pools.get(task.node_info["poolId"].lower())
        node = pool.nodes.get(task.node_info["nodeId"].lower()) if pool else None
        return node.agent.root / task.node_info["taskRootDirectory"] if node else None

    # -- jobs

    def settle(self, job: Job) -> None:
        """End a job whose tasks are all complete, where it says so."""
        if job.state == "active" and job.body.get("onAllTasksComplete") == "terminatejob" and job.all_done:
            self.terminate_job(job, "AllTasksCompleted")

    def watch(self, job: Job) -> None:
        """(Re)start the job's wall clock."""
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
        limit = seconds_of((job.body.get("constraints") or {}).get("maxWallClockTime") or "")
        if limit is not None and limit < 10 * 365 * 86400:
            left = limit - (self.clock.now() - job.start_time).total_seconds()
            job.timer = self.clock.call_later(max(0.0, left), lambda: self._out_of_time(job))

    def _out_of_time(self, job: Job) -> None:
        if job.state not in ("terminating", "completed", "deleting"):
            self.terminate_job(job, "MaxWallClockTimeExpiry")

    def terminate_job(self, job: Job, reason: str) -> None:
        """Kill what runs; what waits stays active for ever, as in the service."""
        job.terminate_reason = reason
        job.move("terminating", self.clock.now())
        if job.timer is not None:
            job.timer.cancel()
        self.spawn(self._terminate(job))

    async def _terminate(self, job: Job) -> None:
        await self._stop_all(job, "ended")
        if job.state == "terminating":
            job.end_time = self.clock.now()
            job.move("completed", job.end_time)

    async def _stop_all(self, job: Job, reason: str) -> None:
        at_work = [task for task in job.tasks.values() if task.node is not None] if job.at_work else []
        for task in at_work:
            self.end_task(task, reason)
        for prep in job.prepared_on.values():
            prep.stop("ended")
        await self._idle(at_work)

    def delete_job(self, job: Job) -> None:
        job.move("deleting", self.clock.now())
        if job.timer is not None:
            job.timer.cancel()
        self.spawn(self._delete(job))

    async def _delete(self, job: Job) -> None:
        await self._stop_all(job, "deleted")
        # All nodes at one moment: pools and nodes may go while the directories do.
        nodes = [node for pool in self.account.pools.values() for node in pool.nodes.values()]
        await asyncio.gather(*(node.agent.forget(job) for node in nodes))
        self.account.jobs.pop(job.id.lower(), None)

    def disable_job(self, job: Job, option: str) -> None:
        job.disable_option = option
        job.move("disabling", self.clock.now())
        self.spawn(self._disable(job, option))

    async def _disable(self, job: Job, option: str) -> None:
        at_work = [task for task in job.tasks.values() if task.node is not None]
        for task in at_work if option != "wait" else ():
            if option == "requeue":
                task.requeues += 1
                task.last_requeue = self.clock.now()
            self.end_task(task, "requeue" if option == "requeue" else "ended")
        await self._idle(at_work)
        if job.state == "disabling":
            job.move("disabled", self.clock.now())

    def enable_job(self, job: Job) -> None:
        job.disable_option = None
        job.move("active", self.clock.now())
        self.settle(job)
        self.wake()

    # -- pools

    def resize(self, pool: Pool, dedicated: int, spot: int, option: str = "requeue") -> None:
        """Bring the pool to these numbers of nodes; the state shows `resizing` until that is so."""
        pool.target_dedicated, pool.target_spot = dedicated, spot
        pool.allocate("resizing", self.clock.now())
        self.spawn(self._resize(pool, option))

    async def _resize(self, pool: Pool, option: str) -> None:
        leaving: list[Node] = []
        pool.resize_errors = []
        for dedicated, target in ((True, pool.target_dedicated), (False, pool.target_spot)):
            present = [node for node in pool.nodes.values() if node.dedicated is dedicated]
            granted, error = self.account.quotas.grant(self.account, pool, dedicated, target - len(present))
            for _ in range(granted):
                self._add_node(pool, dedicated)
            if error is not None:
                pool.resize_errors.append(error)
            leaving += sorted(present, key=lambda node: len(node.runs))[: max(0, len(present) - target)]
        await asyncio.gather(*(self._remove_node(node, option) for node in leaving))
        if pool.allocation_state != "steady":
            pool.allocate("steady", self.clock.now())
        self.wake()

    def _add_node(self, pool: Pool, dedicated: bool) -> None:
        now = self.clock.now()
        node = Node(node_id(dedicated), pool, dedicated, now)
        root = self._nodes / node.id
        node.agent = NodeAgent(node, root, self.account.name, self._url, self._path, self.clock, self)
        pool.nodes[node.id] = node
        if node.start_task is not None:
            node.start_run = node.agent.start_up(node.start_task)
        if node.agent.has_containers and not self._told_of_containers:
            self._told_of_containers = True
            _log.warning("pool %s: %s", pool.id, containers.NOTICE)

    async def _remove_node(self, node: Node, option: str) -> None:
        """Take a node out: its tasks go back to the queue, end, or are awaited first."""
        node.schedulable = False
        tasks = list(node.runs)
        if option != "taskcompletion":
            node.move("leavingpool", self.clock.now())
            for task in tasks:
                self.end_task(task, "requeue" if option == "requeue" else "ended")
        await self._idle(tasks)
        node.move("leavingpool", self.clock.now())
        await node.agent.stop()
        node.pool.nodes.pop(node.id, None)
        await asyncio.to_thread(shutil.rmtree, node.agent.root, ignore_errors=True)

    def delete_pool(self, pool: Pool) -> None:
        if pool.state == "deleting":
            raise BatchError("PoolBeingDeleted")
        pool.move("deleting", self.clock.now())
        self.spawn(self._delete_pool(pool))

    async def _delete_pool(self, pool: Pool) -> None:
        await asyncio.gather(*(self._remove_node(node, "requeue") for node in list(pool.nodes.values())))
        self.account.pools.pop(pool.id.lower(), None)

    # -- the end

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the request that asked for it."""
        started = asyncio.ensure_future(work)
        self.account.work.add(started)
        started.add_done_callback(self.account.work.discard)

    async def stop(self) -> None:
        """Kill everything that runs; no state is brought to an end."""
        self._stopping = True
        agents = [node.agent for pool in self.account.pools.values() for node in pool.nodes.values()]
        await asyncio.gather(*(agent.stop() for agent in agents))
        while self.account.work:
            await asyncio.wait(set(self.account.work), timeout=5)


def node_id(dedicated: bool) -> str:
    """An id of the shape the service gives: `tvmps_<hash>_d` for dedicated nodes, `_p` for spot."""
    return f"tvmps_{secrets.token_hex(8)}_{'d' if dedicated else 'p'}"
