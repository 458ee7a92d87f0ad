"""The agent on a node: its directories and environment; start and preparation tasks, and the tasks themselves."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from batchexec.emulator.clock import Clock, iso
from batchexec.emulator.state import Account, Body, Job, Node, Task, settings

from . import containers
from .attempts import Stopped
from .directories import open_to_append, passes_link, refuse_links, remove_tree
from .failures import TASK_ENDED
from .forkserver import ForkServers
from .processes import Launch, ProcessServer, Running
from .resources import Downloader
from .runs import NodeRun, PrepRun, ReleaseRun, TaskRun
from .transfers import Transfers

if TYPE_CHECKING:
    from batchexec.emulator.scheduling.nodes import Nodes
    from batchexec.emulator.scheduling.scheduler import Scheduler

    from .container_run import ContainerRun

PREP, RELEASE = "jobpreparation", "jobrelease"  # the ids that these tasks have where none is given
_RELEASE_LIMIT = "PT15M"
DIRECTORIES = ("applications", "fsmounts", "shared", "startup", "workitems")  # what a client sees of a node's disk
LOGS = "sys"  # where the node's own logs are
_RESERVED_BYTES = 1_000_000_000  # of the disk, below which the service takes it for full; the real figure is unknown
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
        nodes: Nodes,
        inline: bool,
    ) -> None:
        self.node = node
        self.root = root
        self.clock = clock
        self.has_containers = containers.enabled(node.pool.body)
        self.runtime = account.container_runtime if self.has_containers else None
        self.info = {"poolId": node.pool.id, "nodeId": node.id}  # one for all tasks that ran here
        self.faults = account.faults
        self.nodes = nodes
        self._account = account
        self._scheduler = scheduler
        self._has_directories = False
        self._log: list[str] = []
        self.contact: asyncio.Future[None] | None = None  # while there is none: what comes when there is again
        self.abandoned: list[TaskRun] = []  # given up by the service, which runs their tasks elsewhere
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
            "AZ_BATCH_NODE_MOUNTS_DIR": str(root / "fsmounts"),
            "AZ_BATCH_NODE_SHARED_DIR": str(root / "shared"),
            "AZ_BATCH_NODE_STARTUP_DIR": str(root / "startup"),
            "AZ_BATCH_NODE_STARTUP_WORKING_DIR": str(root / "startup" / "wd"),
            "AZ_BATCH_TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES": str(_RESERVED_BYTES),
        }
        if account.trusted is not None:
            from batchexec.emulator.identity.tls import trusting

            self._env |= trusting(account.trusted, root)
        own = {**self._env, "HOME": str(root / "startup")}
        self.forks = ForkServers(own, root / LOGS, inline)
        self.http = Transfers(account.trusted, account.storage)
        self.downloader = Downloader(self.http)
        self._own = own
        self._programs: asyncio.Task[ProcessServer] | None = None
        self._job_env: dict[Job, dict[str, str]] = {}
        if len(node.pool.nodes) <= _LAUNCHED_AHEAD:
            self.make_directories()
            self._launcher()

    def make_directories(self) -> None:
        """Make them when the node is first used: most nodes of a large pool never are."""
        if not self._has_directories:
            self._has_directories = True
            for part in (*DIRECTORIES, LOGS, "tmp"):
                (self.root / part).mkdir(parents=True, exist_ok=True)
            if self._account.trusted is not None:
                from batchexec.emulator.identity.tls import give

                give(self._account.trusted, self.root)
            self._write_log()

    async def remove_directories(self) -> None:
        if self._has_directories or self.root.is_dir():
            self._has_directories = False
            await asyncio.to_thread(shutil.rmtree, self.root, ignore_errors=True)

    def note(self, text: str) -> None:
        """Add a line to the node's own log, which goes to disk as soon as the node has one."""
        self._log.append(f"{iso(self.clock.now())} {text}\n")
        if self._has_directories:
            self._write_log()

    def _write_log(self) -> None:
        try:
            refuse_links(self.root, self.root / LOGS)
            with open(open_to_append(self.root / LOGS / "agent.log"), "a") as log:
                log.writelines(self._log)
            self._log.clear()
        except OSError:  # a full disk must not stop the node: what is not written now goes with the next line
            pass

    def _launcher(self) -> asyncio.Task[ProcessServer]:
        if self._programs is None or (self._programs.done() and not self._programs.result().alive):
            log = self.root / LOGS / "launcher.log"
            self._programs = asyncio.ensure_future(ProcessServer.for_programs(self._own, log))
        return self._programs

    async def start_program(self, launch: Launch) -> Running:
        return (await self._launcher()).run(launch)

    def contains(self, body: Body) -> bool:
        """Whether a command runs in a container of its own here."""
        return self.runtime is not None and bool(body.get("containerSettings"))

    def contain(self, body: Body, root: Path, env: dict[str, str], info: Body) -> ContainerRun | None:
        """A container for one attempt at a command, which keeps `info` up to date; None where it needs none."""
        if self.runtime is None or not body.get("containerSettings"):
            return None
        from .container_run import ContainerRun

        return ContainerRun(self.runtime, self, body, root, env, info)

    async def fetch_images(self) -> None:
        """Have the pool's images here. Raises CannotStart."""
        pool = self.node.pool.body
        if self.runtime is not None:
            for image in containers.images(pool):
                await self.runtime.image(image, containers.registries(pool))

    def start_up(self, body: Body) -> NodeRun:
        """Begin the pool's start task; the scheduler hears of its end."""
        self.make_directories()
        root = self.root / "startup"
        working = str(root / "wd")
        own = {"HOME": working, "AZ_BATCH_TASK_DIR": str(root), "AZ_BATCH_TASK_WORKING_DIR": working}
        env = self._for(body, {**self._env, **own})
        run = NodeRun(self, body, root, {**env, **settings(body.get("environmentSettings"))})
        self._account.spawn(self._run_start(run, body))
        return run

    async def _run_start(self, run: NodeRun, body: Body) -> None:
        self.nodes.starting(self.node, self)
        await run.complete(body.get("maxTaskRetryCount") or 0)
        self.nodes.started(self.node, self)

    def start(self, task: Task) -> TaskRun:
        """Begin a task that the scheduler placed here; the scheduler hears of its end."""
        job = task.job
        root = self.task_root(job, task.id)
        run = TaskRun(self, task, root, self._environment(job, task.id, root, task.body))
        run.finished = self._account.spawn(self._run_task(task, run))
        return run

    def task_root(self, job: Job, task_id: str) -> Path:
        return self.root / "workitems" / job.id / "job-1" / task_id

    def files_of(self, job: Job, task_id: str) -> Path | None:
        """A task's directory, if it is there and not a link to elsewhere."""
        path = self.task_root(job, task_id)
        return path if path.is_dir() and not passes_link(self.root, path) else None

    def remove_files(self, job: Job, task_id: str) -> None:
        """Remove a task's directory."""
        remove_tree(self.root, self.task_root(job, task_id))

    def _environment(self, job: Job, task_id: str, root: Path, body: Body) -> dict[str, str]:
        base = self._job_env.get(job)
        if base is None:
            self.make_directories()
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
        own = {
            **base,
            "HOME": working,
            "AZ_BATCH_TASK_ID": task_id,
            "AZ_BATCH_TASK_DIR": directory,
            "AZ_BATCH_TASK_WORKING_DIR": working,
        }
        return {**self._for(body, own), **job.environment, **settings(body.get("environmentSettings"))}

    def _for(self, body: Body, env: dict[str, str]) -> dict[str, str]:
        """What of the node's environment a command is given."""
        return containers.environment(env) if self.contains(body) else env

    def lose(self, run: TaskRun) -> None:
        """The service takes a task at work for lost, and runs it once more, here or elsewhere."""
        if self.node.runs.get(run.task) is run and run.reason is None:
            self._scheduler.abandon(run.task)

    async def _run_task(self, task: Task, run: TaskRun) -> None:
        prep = self._preparation(task.job, run)
        try:
            if self._scheduler.cleaning:
                await run.before_start(self._scheduler.cleaned(self.task_root(task.job, task.id)))
            if prep is not None and not prep.done.done() and prep.must_succeed:
                await run.before_start(asyncio.shield(prep.done))
            if run.reason == "abandoned":
                raise Stopped
            if prep is not None and prep.bars_node:
                run.reason = run.reason or "requeue"
            else:
                latency = self.faults.latency
                if latency is not None:
                    await run.before_start(self.clock.sleep(latency.task_start("containerSettings" in task.body)))
                self._scheduler.running(task, run)
                limit = task.retry_limit - task.retries if task.retry_limit >= 0 else -1
                await run.perform(limit, (task.body.get("constraints") or {}).get("maxWallClockTime"))
                if "outputFiles" in task.body:
                    await run.upload()
        except Stopped:
            run.failure = TASK_ENDED
        if self.contact is not None:
            await asyncio.shield(self.contact)
        if run in self.abandoned:
            self.abandoned.remove(run)
        if run.unheard and run.reason is None:
            run.reason = "requeue"
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
            self._account.spawn(self._run_prep(job, prep, body))
        return prep

    async def _run_prep(self, job: Job, prep: PrepRun, body: Body) -> None:
        constraints = body.get("constraints") or {}
        await prep.complete(constraints.get("maxTaskRetryCount") or 0, constraints.get("maxWallClockTime"))
        job.changed()

    def release(self, job: Job) -> None:
        """Begin the job's release task, which takes no slot."""
        body = job.body["jobReleaseTask"]
        id = body.get("id") or RELEASE
        root = self.task_root(job, id)
        run = job.released_on[self.node.id] = ReleaseRun(self, body, root, self._environment(job, id, root, body))
        self._account.spawn(self._run_release(job, run, body))

    async def _run_release(self, job: Job, run: ReleaseRun, body: Body) -> None:
        await run.complete(0, body.get("maxWallClockTime") or _RELEASE_LIMIT)
        job.changed()

    async def forget(self, job: Job) -> None:
        """Drop what a deleted job left here."""
        self.node.prepared.pop(job, None)
        self._job_env.pop(job, None)
        for task in [task for task in self.node.recent if task.job is job]:
            self.node.recent.remove(task)  # it would keep all of the job in memory
        directory = self.root / "workitems" / job.id
        if directory.is_dir():
            await asyncio.to_thread(remove_tree, self.root, directory)

    def hear(self) -> None:
        """There is contact with the service again: what was given up meanwhile is killed, what ended is reported."""
        contact, self.contact = self.contact, None
        if contact is not None:
            for run in self.abandoned:
                run.kill()
            contact.set_result(None)

    async def stop(self) -> None:
        """Kill all that runs here."""
        self.hear()
        for run in self.abandoned:
            run.kill()
        for run in list(self.node.runs.values()):
            run.stop("requeue")
        for job, prep in self.node.prepared.items():
            prep.stop("ended")
            if self.node.id in job.released_on:
                job.released_on[self.node.id].stop("ended")
        if self.node.start_run is not None:
            self.node.start_run.stop("ended")
        if self._programs is not None:
            await (await self._programs).stop()
        await self.forks.stop()
        await self.http.close()
