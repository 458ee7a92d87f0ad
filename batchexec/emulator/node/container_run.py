"""One attempt at a command in a container of its own: created, started, ended, removed."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from batchexec.emulator.state import Body

from . import containers
from .container_runtime import ContainerRuntime, without_warnings
from .failures import CannotStart
from .processes import Ended, Launch, Running

if TYPE_CHECKING:
    from .agent import NodeAgent

_NOT_FOUND = ("executable file not found", "no such file or directory")


class ContainerRun:
    """A container for one attempt. `info` is its containerInfo, kept up to date, `failure` why it could not start."""

    def __init__(
        self, runtime: ContainerRuntime, agent: NodeAgent, body: Body, root: Path, env: dict[str, str], info: Body
    ) -> None:
        self._runtime = runtime
        self._agent = agent
        self._body = body
        self._root = root
        self._env = env
        self._id = ""
        self._dropped = False
        self.info = info
        info.clear()
        self.failure: Body | None = None

    async def create(self) -> None:
        """Raises CannotStart, and ValueError where the command line or the run options cannot be split."""
        creation = asyncio.ensure_future(
            self._runtime.create(
                _name(self._env),
                self._body["containerSettings"]["imageName"],
                containers.registries(self._agent.node.pool.body, self._body),
                containers.create_options(
                    self._body, self._agent.root, self._root, self._env.get("AZ_BATCH_JOB_PREP_DIR")
                ),
                containers.arguments(self._body),
                self._env,
            )
        )
        try:
            self._id = await asyncio.shield(creation)
        except asyncio.CancelledError:
            creation.add_done_callback(self._remove_created)
            raise
        self.info.update(containerId=self._id, state="created")

    def _remove_created(self, creation: asyncio.Future[str]) -> None:
        if not creation.cancelled() and creation.exception() is None:
            self._runtime.remove(creation.result())

    async def start(self, launch: Launch) -> RunningContainer:
        """Start it by the node's launcher: should the service die, it dies with it."""
        command = self._runtime.start_command(self._id)
        client = Launch(command, self._runtime.env, launch.cwd, launch.stdout, launch.stderr)
        self.info["state"] = "running"
        return RunningContainer(self, await self._agent.start_program(client), launch.stderr)

    def drop(self) -> None:
        """Kill what runs in it, and remove it; once is enough."""
        if not self._dropped:
            self._dropped = True
            self._runtime.remove(self._id)

    async def outcome(self, client: Ended, stderr: str) -> Ended:
        """How the container ended, of which its client may know too little."""
        if client.status is None:
            return client
        self.info["state"] = "exited"
        if self._dropped:
            return Ended(-signal.SIGKILL)
        if client.status < 0:
            return Ended()  # somebody has killed the client, which says nothing of the task
        found = await self._runtime.look_at(self._id) if client.status else None
        if found is None:  # it went well, or somebody else has removed the container
            return client
        if found.is_running:
            return Ended()  # the client has lost it
        if not found.was_started:
            self.info["state"] = "created"
            self._explain(Path(stderr))
            return client
        return Ended(found.exit_code)

    def _explain(self, stderr: Path) -> None:
        """Nothing ran in it: what its standard error holds was said by the runtime, and belongs elsewhere."""
        said = without_warnings(stderr.read_text(errors="replace").strip())
        os.truncate(stderr, 0)
        self.info["error"] = said
        if any(words in said for words in _NOT_FOUND):
            found = CannotStart("CommandProgramNotFound", "The specified command program is not found", Message=said)
        else:
            found = containers.invalid(said)
        self.failure = found.info


class RunningContainer:
    """Its client, which the node's launcher has started; killing it is killing the container. See `Running`."""

    def __init__(self, run: ContainerRun, client: Running, stderr: str) -> None:
        self._run = run
        self._client = client
        self.ended: asyncio.Future[Ended] = asyncio.ensure_future(self._end(stderr))

    @property
    def pid(self) -> int | None:
        return self._client.pid

    def kill(self) -> None:
        self._run.drop()

    async def _end(self, stderr: str) -> Ended:
        try:
            return await self._run.outcome(await self._client.ended, stderr)
        finally:
            self._run.drop()


def _name(env: dict[str, str]) -> str:
    """A name to recognise it by; runtimes take letters, digits, `_`, `.` and `-`."""
    parts = (env.get("AZ_BATCH_JOB_ID"), env.get("AZ_BATCH_TASK_ID") or "starttask", secrets.token_hex(4))
    return "batch-" + re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(part for part in parts if part))
