"""The life of jobs: their clocks, their ends, and what pauses them."""

from __future__ import annotations

import asyncio

from .clock import Clock, seconds_of
from .scheduler import Scheduler
from .state import Account, Job


class Jobs:
    """Moves jobs between their states, and their tasks along with them."""

    def __init__(self, account: Account, clock: Clock, scheduler: Scheduler) -> None:
        self._account = account
        self._clock = clock
        self._scheduler = scheduler
        scheduler.task_over = self.settle

    def settle(self, job: Job) -> None:
        """End a job whose tasks are all complete, where it says so."""
        if job.state == "active" and job.body.get("onAllTasksComplete") == "terminatejob" and job.all_done:
            self.terminate(job, "AllTasksCompleted")

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
        if limit is not None and limit < 10 * 365 * 86400:
            left = limit - (self._clock.now() - job.start_time).total_seconds()
            job.timer = self._clock.call_later(max(0.0, left), lambda: self._out_of_time(job))

    def _out_of_time(self, job: Job) -> None:
        if job.state not in ("terminating", "completed", "deleting"):
            self.terminate(job, "MaxWallClockTimeExpiry")

    def terminate(self, job: Job, reason: str) -> None:
        """Kill what runs; what waits stays active for ever, as in the service."""
        job.terminate_reason = reason
        job.move("terminating", self._clock.now())
        if job.timer is not None:
            job.timer.cancel()
        self._account.spawn(self._terminate(job))

    async def _terminate(self, job: Job) -> None:
        await self._stop_all(job, "ended")
        if job.state == "terminating":
            job.end_time = self._clock.now()
            job.move("completed", job.end_time)

    async def _stop_all(self, job: Job, reason: str) -> None:
        at_work = [task for task in job.tasks.values() if task.node is not None] if job.at_work else []
        for task in at_work:
            self._scheduler.end_task(task, reason)
        for prep in job.prepared_on.values():
            prep.stop("ended")
        await self._scheduler.idle(at_work)

    def delete(self, job: Job) -> None:
        job.move("deleting", self._clock.now())
        if job.timer is not None:
            job.timer.cancel()
        self._account.spawn(self._delete(job))

    async def _delete(self, job: Job) -> None:
        await self._stop_all(job, "deleted")
        # All nodes at one moment: pools and nodes may go while the directories do.
        nodes = [node for pool in self._account.pools.values() for node in pool.nodes.values()]
        await asyncio.gather(*(node.agent.forget(job) for node in nodes))
        self._account.jobs.pop(job.id.lower(), None)

    def disable(self, job: Job, option: str) -> None:
        job.disable_option = option
        job.move("disabling", self._clock.now())
        self._account.spawn(self._disable(job, option))

    async def _disable(self, job: Job, option: str) -> None:
        at_work = [task for task in job.tasks.values() if task.node is not None]
        for task in at_work if option != "wait" else ():
            if option == "requeue":
                task.requeues += 1
                task.last_requeue = self._clock.now()
            self._scheduler.end_task(task, "requeue" if option == "requeue" else "ended")
        await self._scheduler.idle(at_work)
        if job.state == "disabling":
            job.move("disabled", self._clock.now())

    def enable(self, job: Job) -> None:
        job.disable_option = None
        job.move("active", self._clock.now())
        self.settle(job)
        self._scheduler.wake()
