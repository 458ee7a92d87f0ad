"""The node's side of the fork-server contract: which tasks are forked from a warm zipapp, and by what."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import stat
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from .processes import Launch, ProcessServer, Running

SETTING = "BATCHEXEC_FORK_SERVER"
FIRST_RUN = "BATCHEXEC_FORK_FIRST_RUN"
_START_SECONDS = 60.0
# No fork there, or system libraries that may crash in a forked child once they were loaded (numpy loads such).
_NO_SAFE_FORK = ("win32", "darwin")


@dataclass(frozen=True)
class Wanted:
    """What makes two tasks share a server: the interpreter and the zipapp's digest, wherever the zipapp lies."""

    interpreter: str
    digest: str
    zipapp: str = field(compare=False)
    module: str = field(compare=False)


class ForkServers:
    """One server per (interpreter, zipapp digest) of a node, started for the first task that asks for it.

    `inline`: tasks run in processes that stay, instead of a forked one each; on Linux only.
    """

    def __init__(self, env: dict[str, str], log_directory: Path, inline: bool = False) -> None:
        self._env = env
        self._logs = log_directory
        self._inline = inline and sys.platform == "linux"
        self._servers: dict[Wanted, asyncio.Task[ProcessServer | None]] = {}
        self._started: list[ProcessServer] = []
        self._stopped = False
        self._ready: dict[Wanted, ProcessServer] = {}
        self._digests: dict[str, tuple[tuple[int, int, int], str]] = {}

    async def run(self, launch: Launch) -> Running | None:
        """Start a task by fork; None where it must be started as any program is."""
        wanted = self._wanted(launch.argv, launch.env, launch.cwd)
        if wanted is None:
            return None
        server = self._ready.get(wanted) or await self._server(wanted)
        if server is None or not server.alive:
            return None
        if launch.first:
            launch = replace(launch, env={**launch.env, FIRST_RUN: "1"})
        return server.run(launch)

    def expect(self, argv: list[str], env: dict[str, str], cwd: str) -> None:
        """Start the server of a task that will be run soon, if its zipapp is there already."""
        wanted = self._wanted(argv, env, cwd)
        if wanted is not None:
            self._starting(wanted)

    def _wanted(self, argv: list[str], env: dict[str, str], cwd: str) -> Wanted | None:
        named = env.get(SETTING)
        if not named or sys.platform in _NO_SAFE_FORK:
            return None
        file, module, digest = [*named.rsplit(":", 2), "", ""][:3]
        zipapp = os.path.join(env.get("AZ_BATCH_JOB_PREP_WORKING_DIR", cwd), file)
        if not self._has_digest(zipapp, digest):
            return None
        interpreter = shutil.which(argv[0], path=env.get("PATH"))
        return Wanted(interpreter, digest, zipapp, module) if interpreter else None

    def _starting(self, wanted: Wanted) -> asyncio.Task[ProcessServer | None]:
        starting = self._servers.get(wanted)
        if starting is None:
            starting = self._servers[wanted] = asyncio.ensure_future(self._start(wanted))
        return starting

    async def _server(self, wanted: Wanted) -> ProcessServer | None:
        # Shielded: a task that is ended while it waits must not take the server from the others.
        server = await asyncio.shield(self._starting(wanted))
        if server is not None:
            self._ready[wanted] = server
        return server

    async def _start(self, wanted: Wanted) -> ProcessServer | None:
        log = self._logs / f"fork-server-{wanted.digest[:12]}.log"
        try:
            server = await ProcessServer.start(
                wanted.interpreter, self._env, log, wanted.zipapp, wanted.module, self._inline
            )
        except OSError:
            return None
        if self._stopped:
            await server.stop()
            return None
        self._started.append(server)
        try:
            return server if await asyncio.wait_for(asyncio.shield(server.ready), _START_SECONDS) else None
        except asyncio.TimeoutError:
            server.kill()
            return None

    def _has_digest(self, file: str, digest: str) -> bool:
        try:
            status = os.stat(file)
        except OSError:
            return False
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device has no end
            return False
        stamp = status.st_ino, status.st_mtime_ns, status.st_size
        known = self._digests.get(file)
        if known is None or known[0] != stamp:
            known = stamp, hashlib.sha256(Path(file).read_bytes()).hexdigest()
            self._digests[file] = known
        return known[1] == digest.lower()

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*(server.stop() for server in self._started))
