"""The account: all its pools and jobs, and what its parts share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from batchexec.emulator.errors import BatchError

from .job import Job, Task
from .pool import Node, Pool

if TYPE_CHECKING:
    from pathlib import Path

    from batchexec.emulator.faults.faults import Faults
    from batchexec.emulator.node.container_runtime import ContainerRuntime
    from batchexec.emulator.node.own_storage import OwnStorage
    from batchexec.emulator.scheduling.quotas import Quotas


class Account:
    """All pools and jobs, by lower-cased id, and the work on them that goes on beside requests."""

    def __init__(self, name: str, quotas: Quotas, faults: Faults) -> None:
        self.name = name
        self.quotas = quotas
        self.faults = faults
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
