"""Going on after a restart: nodes boot, tasks that were at work go back to the queue, what had begun is ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING

from batchexec.emulator.node.agent import PREP, RELEASE
from batchexec.emulator.node.directories import passes_link
from batchexec.emulator.state import Account, Job, Task

if TYPE_CHECKING:
    from batchexec.emulator.clock import Clock
    from batchexec.emulator.scheduling.autoscaler import AutoScaler
    from batchexec.emulator.scheduling.jobs import Jobs
    from batchexec.emulator.scheduling.pools import Pools
    from batchexec.emulator.scheduling.scheduler import Scheduler

    from .datadir import DataDirectory

_UP = ("idle", "running", "starting", "waitingforstarttask", "starttaskfailed", "offline", "unknown")


def resume(
    account: Account,
    clock: Clock,
    scheduler: Scheduler,
    jobs: Jobs,
    pools: Pools,
    scaler: AutoScaler,
    data: DataDirectory,
) -> None:
    """Set everything to work that was read. To clients it looks as if all nodes had lost their power and booted."""
    for job in account.jobs.values():
        for task in job.tasks.values():
            if task.state != "completed":
                _requeue(task, scheduler, clock)
        scheduler.restored(job)
    _discard_strangers(account, data)
    for pool in account.pools.values():
        for node in pool.nodes.values():
            if node.state in _UP:
                node.move("rebooting", clock.now())
        pools.resume(pool)
        for node in pool.nodes.values():
            pools.nodes.recreate(node)  # of those that were preempted: the capacity is back
        if pool.state == "active" and pool.body.get("enableAutoScale"):
            scaler.resume(pool)
    for job in list(account.jobs.values()):
        jobs.resume(job)
    account.spawn(asyncio.to_thread(data.empty_trash))
    scheduler.wake()


def _requeue(task: Task, scheduler: Scheduler, clock: Clock) -> None:
    """As after a node's failure: no retry is counted."""
    # It may have been started just before the end, when that was not written down yet.
    task.launched = True
    if task.state == "active":
        return
    job = task.job
    ended = task.ending or job.state == "terminating" or (job.state, job.disable_option) == ("disabling", "terminate")
    task.requeue(clock.now())
    if ended:
        scheduler.end_task(task, "ended")


def _discard_strangers(account: Account, data: DataDirectory) -> None:
    """Take away directories of nodes, jobs and tasks that are no longer there: their deletion had not ended."""
    nodes = {id for pool in account.pools.values() for id in pool.nodes}
    kept = {job.id: _ids(job) for job in account.jobs.values()}
    for node in _discard_others(data, data.path / "nodes", nodes):
        for job in _discard_others(data, data.path / "nodes" / node / "workitems", kept.keys()):
            _discard_others(data, data.path / "nodes" / node / "workitems" / job / "job-1", kept[job])


def _ids(job: Job) -> set[str]:
    """Ids of the tasks whose directories stay, the job's own among them."""
    own = {job.body[name].get("id") for name in ("jobPreparationTask", "jobReleaseTask") if name in job.body}
    return {PREP, RELEASE, *own, *(task.id for task in job.tasks.values() if not task.cleaned)}


def _discard_others(data: DataDirectory, path: Path, kept: AbstractSet[str]) -> AbstractSet[str]:
    """Take away all that is in a directory but these; what of them is there."""
    if passes_link(data.path, path):  # else all would go that is where the link leads
        return set()
    try:
        present = set(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    for name in present - kept:
        data.discard(path / name)
    return present & kept
