"""The agent on a node: its directories and environment; start and preparation tasks, and the tasks themselves."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from . import containers
from .attempts import TASK_ENDED, NodeRun, PrepRun, Stopped, TaskRun
from .clock import Clock
from .forkserver import ForkServers
from .processes import Launch, ProcessServer, Running
from .resources import Downloader
from .state import Account, Body, Job, Node, Task, settings

if TYPE_CHECKING:
    from .pools import Pools
    from .scheduler import Scheduler

PREP = "jobpreparation"
_LAUNCHED_AHEAD = 2  # nodes of a pool that start their launcher before they have a task; of a large pool, few will have


class NodeAgent:
    """The agent on one node."""

    def __init__(
        self,
        node: Node,
        root: Path,
        account: Account,
        url: str,
        path: str,
        clock: Clock,
        scheduler: Scheduler,
        pools: Pools,
    ) -> None:
        self.node = node
        self.root = root
        self.clock = clock
        self.has_containers = containers.enabled(node.pool.body)
        self.url = f"{url}/pools/{node.pool.id}/nodes/{node.id}"
        self._account = account
        self._scheduler = scheduler
        self._pools = pools
        for part in ("shared", "startup", "workitems", "tmp"):
            (root / part).mkdir(parents=True)
        self._env = {
            "PATH": path,
            "LANG": "C.UTF-8",
            "USER": "_azbatch",
            "TMPDIR": str(root / "tmp"),
            "AZ_BATCH_ACCOUNT_NAME": account.name,
            "AZ_BATCH_ACCOUNT_URL": url + "/",
            "AZ_BATCH_POOL_ID": node.pool.id,
            "AZ_BATCH_NODE_ID": node.id,
            "AZ_BATCH_NODE_IS_DEDICATED": "true" if node.dedicated else "false",
            "AZ_BATCH_NODE_ROOT_DIR": str(root),
            "AZ_BATCH_NODE_SHARED_DIR": str(root / "shared"),
            "AZ_BATCH_NODE_STARTUP_DIR": str(root / "startup"),
            "AZ_BATCH_NODE_STARTUP_WORKING_DIR": str(root / "startup" / "wd"),
        }
        own = {**self._env, "HOME": str(root / "startup")}
        self.forks = ForkServers(own, root / "startup")
        self.downloader = Downloader()
        self._own = own
        self._programs: asyncio.Task[ProcessServer] | None = None
        self._job_env: dict[Job, dict[str, str]] = {}
        if len(node.pool.nodes) < _LAUNCHED_AHEAD:
            self._launcher()

    def _launcher(self) -> asyncio.Task[ProcessServer]:
        if self._programs is None or (self._programs.done() and not self._programs.result().alive):
            log = self.root / "startup" / "launcher.txt"
            self._programs = asyncio.ensure_future(ProcessServer.for_programs(self._own, log))
        return self._programs

    async def start_program(self, launch: Launch) -> Running:
        return (await self._launcher()).run(launch)

    def start_up(self, body: Body) -> NodeRun:
        """Begin the pool's start task; the scheduler hears of its end."""
        root = self.root / "startup"
        working = str(root / "wd")
        own = {"HOME": working, "AZ_BATCH_TASK_DIR": str(root), "AZ_BATCH_TASK_WORKING_DIR": working}
        run = NodeRun(self, body, root, {**self._env, **own, **settings(body.get("environmentSettings"))})
        self._account.spawn(self._run_start(run, body))
        return run

    async def _run_start(self, run: NodeRun, body: Body) -> None:
        self._pools.starting(self.node)
        await run.complete(body.get("maxTaskRetryCount") or 0)
        self._pools.started(self.node)

    def start(self, task: Task) -> TaskRun:
        """Begin a task that the scheduler placed here; the scheduler hears of its end."""
        job = task.job
        root = self.task_root(job, task.id)
        run = TaskRun(self, task, root, self._environment(job, task.id, root, task.body))
        run.finished = self._account.spawn(self._run_task(task, run))
        return run

    def task_root(self, job: Job, task_id: str) -> Path:
        return self.root / "workitems" / job.id / "job-1" / task_id

    def _environment(self, job: Job, task_id: str, root: Path, body: Body) -> dict[str, str]:
        base = self._job_env.get(job)
        if base is None:
            (self.root / "workitems" / job.id / "job-1").mkdir(parents=True, exist_ok=True)
            base = {**self._env, "AZ_BATCH_JOB_ID": job.id}
            prep = job.body.get("jobPreparationTask")
            if prep is not None:
                prep_root = self.task_root(job, prep.get("id") or PREP)
                base["AZ_BATCH_JOB_PREP_DIR"] = str(prep_root)
                base["AZ_BATCH_JOB_PREP_WORKING_DIR"] = str(prep_root / "wd")
            self._job_env[job] = base
        directory = str(root)
        working = directory + "/wd"
        return {
            **base,
            "HOME": working,
            "AZ_BATCH_TASK_ID": task_id,
            "AZ_BATCH_TASK_DIR": directory,
            "AZ_BATCH_TASK_WORKING_DIR": working,
            **job.environment,
            **settings(body.get("environmentSettings")),
        }

    async def _run_task(self, task: Task, run: TaskRun) -> None:
        prep = self._preparation(task.job, run)
        try:
            if prep is not None and not prep.done.done():
                await run.before_start(asyncio.shield(prep.done))
            if prep is not None and prep.bars_node:
                run.reason = run.reason or "requeue"
            else:
                self._scheduler.running(task, run)
                limit = task.retry_limit - task.retries if task.retry_limit >= 0 else -1
                await run.perform(limit, (task.body.get("constraints") or {}).get("maxWallClockTime"))
        except Stopped:
            run.failure = TASK_ENDED
        self._scheduler.finished(task, run)

    def _preparation(self, job: Job, first: TaskRun) -> PrepRun | None:
        """The run of the job's preparation task here, begun with the job's first task."""
        prep = self.node.prepared.get(job)
        body = job.body.get("jobPreparationTask")
        if prep is None and body is not None:
            id = body.get("id") or PREP
            root = self.task_root(job, id)
            prep = PrepRun(self, job, root, self._environment(job, id, root, body), first)
            self.node.prepared[job] = job.prepared_on[self.node.id] = prep
            self._account.spawn(self._run_prep(prep, body))
        return prep

    async def _run_prep(self, prep: PrepRun, body: Body) -> None:
        constraints = body.get("constraints") or {}
        await prep.complete(constraints.get("maxTaskRetryCount") or 0, constraints.get("maxWallClockTime"))

    async def forget(self, job: Job) -> None:
        """Drop what a deleted job left here."""
        self.node.prepared.pop(job, None)
        if self._job_env.pop(job, None) is not None:
            await asyncio.to_thread(shutil.rmtree, self.root / "workitems" / job.id, ignore_errors=True)

    async def stop(self) -> None:
        """Kill all that runs here."""
        for run in list(self.node.runs.values()):
            run.stop("requeue")
        for prep in self.node.prepared.values():
            prep.stop("ended")
        if self.node.start_run is not None:
            self.node.start_run.stop("ended")
        if self._programs is not None:
            await (await self._programs).stop()
        await self.forks.stop()
        await self.downloader.close()
