"""The life of jobs: their clocks, their ends, and what pauses them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batchexec.emulator.clock import Clock, seconds_of
from batchexec.emulator.errors import BatchError
from batchexec.emulator.state import Account, Body, Job, Task

from .scheduler import Scheduler

if TYPE_CHECKING:
    from .auto_pools import AutoPools

_OPEN = ("active", "disabling", "disabled", "enabling")
_FOR_EVER_SECONDS = 10 * 365 * 86400
_FORCED_SECONDS = 1.0  # that a forced end waits for what it killed


class Jobs:
    """Moves jobs between their states, and their tasks along with them."""

    def __init__(self, account: Account, clock: Clock, scheduler: Scheduler) -> None:
        self._account = account
        self._clock = clock
        self._scheduler = scheduler
        self.auto_pools: AutoPools
        scheduler.completed = self._completed
        scheduler.gone = self.settle

    # -- beginning and going on

    def begin(self, job: Job) -> None:
        """A job was created: make its pool and its manager task, where it asks for them."""
        self._account.jobs[job.id.lower()] = job
        self.auto_pools.begin(job)
        if job.scheduling_error is not None:
            self.terminate(job, None)  # so the service does, see the documentation of autoPoolSpecification
            return
        manager = job.body.get("jobManagerTask")
        if manager is not None:
            self._scheduler.added(Task(manager["id"], job, self._manager_body(job, manager), self._clock.now()))
        self.changed(job)

    def _manager_body(self, job: Job, manager: Body) -> Body:
        """The manager as a task. To be alone on its node it takes all slots of it, if the pool is there by now."""
        own = ("killJobOnCompletion", "runExclusive", "allowLowPriorityNode")
        body = {name: value for name, value in manager.items() if name not in own}
        pool = self._account.pools.get(job.pool_id.lower())
        if manager.get("runExclusive") is not False and pool is not None:
            body["requiredSlots"] = pool.slots
        return body

    def changed(self, job: Job) -> None:
        """A job is new, or was updated."""
        self.watch(job)
        self.settle(job)
        self._scheduler.wake()

    def watch(self, job: Job) -> None:
        """(Re)start the job's wall clock."""
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
        limit = seconds_of((job.body.get("constraints") or {}).get("maxWallClockTime") or "")
        if limit is not None and limit < _FOR_EVER_SECONDS:
            left = limit - (self._clock.now() - job.start_time).total_seconds()
            job.timer = self._clock.call_later(max(0.0, left), lambda: self._out_of_time(job))

    def _out_of_time(self, job: Job) -> None:
        if job.state in _OPEN:
            self.terminate(job, "MaxWallClockTimeExpiry")

    def resume(self, job: Job) -> None:
        """Go on with a job that was loaded: its clock, or the change of state in which the service ended."""
        going_on = {
            "terminating": self._terminate,
            "deleting": self._delete,
            "disabling": self._disable,
            "enabling": self._enable,
        }.get(job.state)
        if job.state in _OPEN:
            self.watch(job)
        if going_on is not None:
            self._account.spawn(going_on(job))

    # -- what the end of a task means

    def _completed(self, task: Task) -> None:
        job = task.job
        if job.state in _OPEN:
            if job.body.get("onTaskFailure") == "performexitoptionsjobaction":
                self._act_on_exit(job, task)
            manager = job.body.get("jobManagerTask")
            if (
                manager is not None
                and manager["id"].lower() == task.id.lower()
                and manager.get("killJobOnCompletion") is not False
                and job.state in _OPEN
            ):
                self.terminate(job, "JMComplete")
        self.settle(job)

    def _act_on_exit(self, job: Job, task: Task) -> None:
        from .exit_conditions import verdict

        action = verdict(task).job_action
        if action == "terminate":
            self.terminate(job, "TaskFailed")
        elif action == "disable" and job.state == "active":
            self.disable(job, "requeue")

    def settle(self, job: Job) -> None:
        """End a job whose tasks are all complete, where it says so."""
        if job.state == "active" and job.body.get("onAllTasksComplete") == "terminatejob" and job.all_done:
            self.terminate(job, "AllTasksComplete")

    # -- ending

    def terminate(self, job: Job, reason: str | None, force: bool = False) -> None:
        """Kill what runs, then release the nodes; what waits stays active for ever, as in the service.

        `force`: hardly wait for nodes, and run no release tasks.
        """
        job.terminate_reason = reason
        job.move("terminating", self._clock.now())
        if job.timer is not None:
            job.timer.cancel()
        self._account.spawn(self._terminate(job, force))

    async def _terminate(self, job: Job, force: bool = False) -> None:
        await self._stop_all(job, "ended", force)
        if not force:
            await self._release(job)
        if job.state == "terminating":
            job.end_time = self._clock.now()
            job.move("completed", job.end_time)
            self.auto_pools.end(job)

    async def _stop_all(self, job: Job, reason: str, force: bool) -> None:
        """End all that runs and wait until it has; on a node out of contact that takes until there is contact again."""
        at_work = [task for task in job.tasks.values() if task.node is not None] if job.at_work else []
        for task in at_work:
            self._scheduler.end_task(task, reason)
        for prep in job.prepared_on.values():
            prep.stop("ended")
        idle = self._account.spawn(self._scheduler.idle(at_work))
        await asyncio.wait({idle}, timeout=_FORCED_SECONDS if force else None)

    async def _release(self, job: Job) -> None:
        """Run the release task, once, on each node where the preparation task let the job's tasks start."""
        if "jobReleaseTask" not in job.body:
            return
        for prep in list(job.prepared_on.values()):
            await prep.done
            if self._scheduler.stopping:
                return  # the service ends, and its nodes are off by now
            node = self._account.any_node(prep.node_id)
            if node is None or node.state not in ("idle", "running", "offline"):
                continue
            if not prep.bars_node and node.prepared.get(job) is prep and node.id not in job.released_on:
                node.agent.release(job)
        await asyncio.gather(*(run.done for run in job.released_on.values()))

    def delete(self, job: Job, force: bool = False) -> None:
        """Kill what runs, release the nodes unless that was done, and forget the job with its tasks and files."""
        ended = job.state == "completed"
        job.move("deleting", self._clock.now())
        if job.timer is not None:
            job.timer.cancel()
        self._account.spawn(self._delete(job, force or ended))

    async def _delete(self, job: Job, force: bool = False) -> None:
        await self._stop_all(job, "deleted", force)
        if not force:
            await self._release(job)
        for run in job.released_on.values():
            run.stop("ended")
        # All nodes at one moment: pools and nodes may go while the directories do.
        nodes = [node for pool in self._account.pools.values() for node in pool.nodes.values()]
        await asyncio.gather(*(node.agent.forget(job) for node in nodes))
        self._scheduler.retention.forget(job)
        self._account.forget_job(job)
        self.auto_pools.end(job)

    # -- pausing

    def disable(self, job: Job, option: str) -> None:
        """Start nothing more. What runs is put back, ended or awaited: `requeue`, `terminate`, `wait`."""
        if job.state not in ("active", "disabling", "disabled"):
            raise BatchError("OperationInvalidForCurrentState", State=job.state)
        job.disable_option = option
        job.move("disabling", self._clock.now())
        self._account.spawn(self._disable(job))

    async def _disable(self, job: Job) -> None:
        at_work = [task for task in job.tasks.values() if task.node is not None]
        for task in at_work:
            if job.disable_option == "requeue":
                self._scheduler.requeue_for_user(task)
            elif job.disable_option == "terminate":
                self._scheduler.end_task(task, "ended")
        await self._scheduler.idle(at_work)
        if job.state == "disabling":
            job.move("disabled", self._clock.now())

    def enable(self, job: Job) -> None:
        """Go on with a disabled job."""
        if job.state not in ("disabling", "disabled", "enabling"):
            raise BatchError("OperationInvalidForCurrentState", State=job.state)
        job.move("enabling", self._clock.now())
        self._account.spawn(self._enable(job))

    async def _enable(self, job: Job) -> None:
        if job.state == "enabling":
            job.disable_option = None
            job.move("active", self._clock.now())
            self.settle(job)
            self._scheduler.wake()
