"""What runs on a node: task directories, environment, preparation tasks, and the attempts at a task."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import shutil
from collections.abc import Awaitable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .clock import Clock, seconds_of
from .forkserver import ForkServers
from .processes import Ended, Launch, ProcessServer, Running
from .resources import Downloader, ResourceFailure, failure, make_directory
from .state import Body, Job, Node, Task, settings

if TYPE_CHECKING:
    from .scheduler import Scheduler

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TASK_ENDED = failure("usererror", "TaskEnded", "The task was ended by user request, by its job or by a time limit")
PREP = "jobpreparation"


class Stopped(Exception):
    """The run was stopped before its process was there."""


class Attempts:
    """A command run in its directory until it succeeds, may not be retried, or is stopped.

    `reason` says who stopped it: "ended" (terminate, time limit), "requeue" or "deleted".
    """

    def __init__(self, agent: NodeAgent, body: Body, root: Path, env: dict[str, str]) -> None:
        self.agent = agent
        self._body = body
        self._root = root
        self._env = env
        self._running: Running | None = None
        self._waiting: asyncio.Future[Any] | None = None
        self.reason: str | None = None
        self.retries = 0
        self.last_retry: datetime | None = None
        self.start_time = agent.clock.now()
        self.exit_code: int | None = None
        self.failure: Body | None = None

    def stop(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
            if self._running is not None:
                self._running.kill()
            if self._waiting is not None:
                self._waiting.cancel()

    async def before_start(self, work: Awaitable[object]) -> None:
        """Wait for what must happen before the process starts; Stopped when the run is stopped meanwhile."""
        self._waiting = asyncio.ensure_future(work)
        try:
            await self._waiting
        except asyncio.CancelledError:
            if self.reason is None:
                raise  # not ours: the loop is ending
            raise Stopped from None
        finally:
            self._waiting = None

    def retried(self) -> None:
        """Called as each retry starts."""

    async def perform(self, retry_limit: int, time_limit: str | None) -> None:
        if self.reason is not None:
            self.failure = TASK_ENDED
        while self.reason is None:
            seconds = seconds_of(time_limit) if time_limit else None
            timer = self.agent.clock.call_later(seconds, lambda: self.stop("ended")) if seconds is not None else None
            try:
                again = await self._attempt()
            finally:
                if timer is not None:
                    timer.cancel()
            if not again or self.reason or not (retry_limit < 0 or self.retries < retry_limit):
                return
            self.retries += 1
            self.start_time = self.last_retry = self.agent.clock.now()
            self.retried()

    async def _attempt(self) -> bool:
        """Run the command once; True when its exit code allows a retry."""
        self.exit_code = self.failure = None
        try:
            cwd = await self._prepare_directory()
            argv = shlex.split(self._body["commandLine"])
        except ResourceFailure as error:
            self.failure = error.info
            return False
        except ValueError as error:
            self.failure = failure("usererror", "CommandLaunchFailed", f"The command line cannot be split: {error}")
            return False
        except OSError as error:
            self.failure = failure("servererror", "ResourceDirectoryCreateFailed", str(error))
            return False
        except Stopped:
            self.failure = TASK_ENDED
            return False
        launch = Launch(argv, self._env, cwd, str(self._root / "stdout.txt"), str(self._root / "stderr.txt"))
        ended = await self._run(launch)
        return self._judge(ended)

    async def _prepare_directory(self) -> str:
        make_directory(self._root)
        cwd = self._root / "wd"
        make_directory(cwd)
        files = self._body.get("resourceFiles")
        if files:
            await self.before_start(self.agent.downloader.fetch(files, cwd))
        return str(cwd)

    async def _run(self, launch: Launch) -> Ended:
        for starter in (self.agent.forks.run, self.agent.start_program):
            running = await starter(launch)
            if running is None:
                continue
            self._running = running
            if self.reason is not None:
                running.kill()
            ended = await running.ended
            self._running = None
            started = running.pid is not None
            if started or ended.errno is not None or self.reason is not None:
                return ended
        return Ended()

    def _judge(self, ended: Ended) -> bool:
        if ended.errno is not None:
            if ended.errno in (errno.ENOENT, errno.ENOTDIR):
                self.failure = failure(
                    "usererror", "CommandProgramNotFound", "The specified command program is not found"
                )
            else:
                self.failure = failure("usererror", "CommandLaunchFailed", os.strerror(ended.errno))
            return False
        if ended.status is None:
            self.failure = failure("servererror", "Unknown", "The process that ran the task was lost")
            self.reason = self.reason or "requeue"  # by no fault of the task
            return False
        self.exit_code = ended.status if ended.status >= 0 else 128 - ended.status
        if self.reason is not None:
            self.failure = TASK_ENDED
            return False
        if self.exit_code:
            self.failure = failure(
                "usererror",
                "FailureExitCode",
                "The task exited with an exit code representing a failure",
                Message="The task exited with an exit code representing a failure",
            )
        return self.exit_code != 0


class PrepRun(Attempts):
    """A job's preparation task on one node; `done` tells whether it succeeded."""

    def __init__(self, agent: NodeAgent, job: Job, root: Path, env: dict[str, str]) -> None:
        super().__init__(agent, job.body["jobPreparationTask"], root, env)
        self.node_id = agent.node.id
        self.root_directory = str(root.relative_to(agent.root))
        self.end_time: datetime | None = None
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @property
    def bars_node(self) -> bool:
        return self.done.done() and not self.done.result()


class TaskRun(Attempts):
    """A task on its node."""

    def __init__(self, agent: NodeAgent, task: Task, root: Path, env: dict[str, str]) -> None:
        super().__init__(agent, task.body, root, env)
        self.task = task
        self.finished: asyncio.Task[None]

    def retried(self) -> None:
        self.task.retries += 1
        self.task.last_retry = self.last_retry
        self.task.start_time = self.start_time


class NodeAgent:
    """The agent on one node."""

    def __init__(self, node: Node, root: Path, account: str, url: str, clock: Clock, scheduler: Scheduler) -> None:
        self.node = node
        self.root = root
        self.clock = clock
        self._scheduler = scheduler
        for part in ("shared", "startup", "workitems", "tmp"):
            (root / part).mkdir(parents=True)
        self._env = {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "USER": "_azbatch",
            "TMPDIR": str(root / "tmp"),
            "AZ_BATCH_ACCOUNT_NAME": account,
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

    async def start_program(self, launch: Launch) -> Running:
        if self._programs is None or (self._programs.done() and not self._programs.result().alive):
            log = self.root / "startup" / "launcher.txt"
            self._programs = asyncio.ensure_future(ProcessServer.for_programs(self._own, log))
        return (await self._programs).run(launch)

    def start(self, task: Task) -> TaskRun:
        """Begin a task that the scheduler placed here; the scheduler hears of its end."""
        job = task.job
        root = self.task_root(job, task.id)
        run = TaskRun(self, task, root, self._environment(job, task.id, root, task.body))
        run.finished = self._spawn(self._run_task(task, run))
        return run

    def task_root(self, job: Job, task_id: str) -> Path:
        return self.root / "workitems" / job.id / "job-1" / task_id

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        started = asyncio.ensure_future(work)
        self._scheduler.account.work.add(started)
        started.add_done_callback(self._scheduler.account.work.discard)
        return started

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
        prep = self._preparation(task.job)
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

    def _preparation(self, job: Job) -> PrepRun | None:
        """The run of the job's preparation task here, begun with the job's first task."""
        prep = self.node.prepared.get(job)
        body = job.body.get("jobPreparationTask")
        if prep is None and body is not None:
            id = body.get("id") or PREP
            root = self.task_root(job, id)
            prep = PrepRun(self, job, root, self._environment(job, id, root, body))
            self.node.prepared[job] = job.prepared_on[self.node.id] = prep
            self._spawn(self._run_prep(prep, body))
        return prep

    async def _run_prep(self, prep: PrepRun, body: Body) -> None:
        constraints = body.get("constraints") or {}
        await prep.perform(constraints.get("maxTaskRetryCount") or 0, constraints.get("maxWallClockTime"))
        prep.end_time = self.clock.now()
        prep.done.set_result(prep.failure is None or body.get("waitForSuccess") is False)

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
        if self._programs is not None:
            await (await self._programs).stop()
        await self.forks.stop()
        await self.downloader.close()
