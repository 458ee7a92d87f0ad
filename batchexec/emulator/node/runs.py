"""What a node runs: tasks, and start, preparation and release tasks, each with what is known of its run."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from batchexec.emulator.clock import iso
from batchexec.emulator.state import Body, Job, Task

from . import containers
from .attempts import Attempts
from .failures import CannotStart

if TYPE_CHECKING:
    from .agent import NodeAgent


class NodeRun(Attempts):
    """What a node runs on its own account: a start or a preparation task. `done` tells whether the node may go on."""

    def __init__(self, agent: NodeAgent, body: Body, root: Path, env: dict[str, str]) -> None:
        super().__init__(agent, body, root, env)
        self.end_time: datetime | None = None
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def complete(self, retry_limit: int, time_limit: str | None = None) -> None:
        await self.perform(retry_limit, time_limit)
        self.end_time = self.agent.clock.now()
        self.done.set_result(self.failure is None or self._body.get("waitForSuccess") is False)

    def execution(self) -> Body:
        """Its execution info, as the service shows it."""
        found: Body = {
            "startTime": iso(self.start_time),
            "state": self.state,
            "retryCount": self.retries,
        }
        if self.last_retry is not None:
            found["lastRetryTime"] = iso(self.last_retry)
        if self.container:
            found["containerInfo"] = self.container
        if self.end_time is not None:
            found["endTime"] = iso(self.end_time)
            found["result"] = self.result
            if self.exit_code is not None:
                found["exitCode"] = self.exit_code
            if self.failure is not None:
                found["failureInfo"] = self.failure
        return found

    @property
    def state(self) -> str:
        return "completed" if self.end_time else "running"

    @property
    def result(self) -> str | None:
        if self.end_time is None:
            return None
        return "success" if self.failure is None else "failure"


class PrepRun(NodeRun):
    """A job's preparation task on one node."""

    def __init__(self, agent: NodeAgent, job: Job, root: Path, env: dict[str, str], first: TaskRun) -> None:
        super().__init__(agent, job.body["jobPreparationTask"], root, env)
        self._first = first  # the task that waits for it
        self.node_id = agent.node.id
        self.root_directory = str(root.relative_to(agent.root))

    def files_are_there(self) -> None:
        self._first.expect_fork()

    @property
    def must_succeed(self) -> bool:
        """Whether the job's tasks wait for it."""
        return self._body.get("waitForSuccess") is not False

    @property
    def bars_node(self) -> bool:
        return self.done.done() and not self.done.result()

    @property
    def outlives_reboot(self) -> bool:
        """Whether it need not, or must not, run again on a rebooted node: one that failed bars it until a reimage."""
        return self.bars_node or (self.done.done() and self._body.get("rerunOnNodeRebootAfterSuccess") is False)


class ReleaseRun(NodeRun):
    """A job's release task on one node; it is never retried."""

    def __init__(self, agent: NodeAgent, body: Body, root: Path, env: dict[str, str]) -> None:
        super().__init__(agent, body, root, env)
        self.root_directory = str(root.relative_to(agent.root))

    def execution(self) -> Body:
        return {name: value for name, value in super().execution().items() if name != "retryCount"}


class TaskRun(Attempts):
    """A task on its node."""

    host_will_do = False
    forks = True

    def __init__(self, agent: NodeAgent, task: Task, root: Path, env: dict[str, str]) -> None:
        super().__init__(agent, task.body, root, env)
        self.task = task
        self.finished: asyncio.Task[None]
        self.unheard = False  # whether its end gets lost, so that the task runs once more

    async def upload(self) -> None:
        """Upload the output files of a process that ended by itself; where that fails, so does the task."""
        if self.exit_code is None or self.reason is not None:
            return
        from .output_files import Uploader

        uploader, success = Uploader(self.agent.http, self.agent.clock), self.exit_code == 0
        uploading = asyncio.ensure_future(uploader.upload(self._body["outputFiles"], self._root, self._env, success))
        await self.before_start(uploading)
        self.failure = uploading.result() or self.failure

    def abandon(self) -> None:
        """Go on without the service, which runs the task elsewhere; what is not a process yet becomes none."""
        if self.reason is None:
            self.reason = "abandoned"
            if self._waiting is not None:
                self._waiting.cancel()

    def run_again(self, seconds: float | None) -> None:
        """Have the task run twice: beside this run, in so many seconds; None for after its end."""
        if seconds is None:
            self.unheard = True
        else:
            self.agent.clock.call_later(seconds, lambda: self.agent.lose(self))

    def expect_fork(self) -> None:
        """Have the server started that will fork it. What is wrong with its command, its own start will tell."""
        if self.agent.contains(self._body):
            return
        with contextlib.suppress(CannotStart, ValueError):
            self.agent.forks.expect(containers.argv(self._body), self._env, str(self._root / "wd"))

    def launching(self) -> bool:
        first, self.task.launched = not self.task.launched, True
        return first

    def retried(self) -> None:
        self.task.retries += 1
        self.task.last_retry = self.last_retry
        self.task.start_time = self.start_time
