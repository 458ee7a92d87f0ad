"""Attempts at a command on a node: directory, resource files, process, verdict, retries."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchexec.emulator.clock import seconds_of
from batchexec.emulator.state import Body

from . import containers
from .directories import make_directory, refuse_links
from .failures import TASK_ENDED, CannotStart, failure
from .processes import Ended, Launch, Running

if TYPE_CHECKING:
    from .agent import NodeAgent
    from .container_run import RunningContainer

Starter = Callable[[Launch], "Awaitable[Running | RunningContainer | None]"]


class Stopped(Exception):
    """The run was stopped before its process was there."""


class Attempts:
    """A command run in its directory until it succeeds, may not be retried, or is stopped.

    `reason` says who stopped it: "ended" (terminate, time limit), "requeue", "deleted", or "abandoned" where the
    service has given it up and the process goes on.
    """

    host_will_do = True  # whether it may run outside a container though the pool has containers
    forks = False  # whether it may be forked from a warm process

    def __init__(self, agent: NodeAgent, body: Body, root: Path, env: dict[str, str]) -> None:
        self.agent = agent
        self._body = body
        self._root = root
        self._env = env
        self._running: Running | RunningContainer | None = None
        self._waiting: asyncio.Future[Any] | None = None
        self.reason: str | None = None
        self.retries = 0
        self.last_retry: datetime | None = None
        self.start_time = agent.clock.now()
        self.exit_code: int | None = None
        self.failure: Body | None = None
        self.container: Body = {}  # what its containerInfo shows; empty where the command asks for no container

    def stop(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
            self.kill()

    def kill(self) -> None:
        """Kill the process, or what is done before there is one."""
        if self._running is not None:
            self._running.kill()
        if self._waiting is not None:
            self._waiting.cancel()

    async def before_start(self, work: Awaitable[object]) -> None:
        """Wait for what must happen before the process starts, or after; Stopped when the run is stopped meanwhile."""
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

    def files_are_there(self) -> None:
        """Called when its resource files were downloaded."""

    def launching(self) -> bool:
        """Called as each process is to be started; whether it is the very first."""
        return False

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
        contained = self.agent.contain(self._body, self._root, self._env, self.container)
        try:
            containers.check(self._body, self.agent.has_containers, self.host_will_do)
            argv = containers.argv(self._body) if contained is None else [containers.INSIDE]
            if self.agent.faults.active:
                from .faulty_commands import befall

                argv = befall(self, self._body, argv, self._env.get("AZ_BATCH_JOB_ID"))
            cwd = await self._prepare_directory()
            if argv != [containers.INSIDE]:
                contained = None  # a fault has put something else in its place
            if contained is not None:
                await self.before_start(contained.create())
        except CannotStart as error:
            self.failure = error.info
            return False
        except ValueError as error:
            self.failure = failure("usererror", "CommandLaunchFailed", f"The command line cannot be split: {error}")
            return False
        except OSError as error:
            self.failure = self._no_directory(error)
            return False
        except Stopped:
            self.failure = TASK_ENDED
            return False
        root = str(self._root)
        launch = Launch(argv, self._env, cwd, f"{root}/stdout.txt", f"{root}/stderr.txt", self.launching())
        if contained is not None:
            ended = await self._run(launch, contained.start)
            contained.drop()
            return self._judge(ended, contained.failure)
        if self._body.get("containerSettings"):
            self.container.update(containers.started())
        ended = await self._run(launch)
        if self.container:
            self.container["state"] = "exited" if ended.errno is None else "created"
        return self._judge(ended)

    @staticmethod
    def _no_directory(error: OSError) -> Body:
        if error.errno == errno.ENOSPC:
            return failure("usererror", "DiskFull", "There is not enough disk space on the node")
        return failure("servererror", "ResourceDirectoryCreateFailed", str(error))

    async def _prepare_directory(self) -> str:
        root = str(self._root)
        cwd = f"{root}/wd"
        refuse_links(self.agent.root, cwd)
        make_directory(root)
        make_directory(cwd)
        files = self._body.get("resourceFiles")
        if files:
            await self.before_start(self.agent.downloader.fetch(files, Path(cwd)))
            self.files_are_there()
        return cwd

    async def _run(self, launch: Launch, start: Starter | None = None) -> Ended:
        """Run it to its end, by fork where that can be, or as `start` does it."""
        by_exec: tuple[Starter, ...] = (start or self.agent.start_program,)
        for starter in (self.agent.forks.run, *by_exec) if self.forks and start is None else by_exec:
            if self.reason is not None:
                break
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

    def _judge(self, ended: Ended, not_started: Body | None = None) -> bool:
        if not_started is not None and self.reason is None:
            self.failure = not_started
            return False
        if ended.errno is not None:
            if ended.errno in (errno.ENOENT, errno.ENOTDIR):
                self.failure = failure(
                    "usererror", "CommandProgramNotFound", "The specified command program is not found"
                )
            else:
                self.failure = failure("usererror", "CommandLaunchFailed", os.strerror(ended.errno))
            return False
        if ended.status is None and self.reason is None:
            self.failure = failure("servererror", "Unknown", "The process that ran the task was lost")
            self.reason = "requeue"  # by no fault of the task
            return False
        if ended.status is None:
            self.failure = TASK_ENDED
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
