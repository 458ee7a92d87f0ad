"""The node's side of the fork-server contract: which tasks are forked from a warm zipapp, and by what."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from .processes import Launch, ProcessServer, Running

SETTING = "BATCHEXEC_FORK_SERVER"
FIRST_RUN = "BATCHEXEC_FORK_FIRST_RUN"
_START_SECONDS = 60.0


class ForkServers:
    """One server per (interpreter, zipapp digest) of a node, started at the first task that asks for it."""

    def __init__(self, env: dict[str, str], log_directory: Path) -> None:
        self._env = env
        self._logs = log_directory
        self._servers: dict[tuple[str, str], asyncio.Task[ProcessServer | None]] = {}
        self._started: list[ProcessServer] = []
        self._ready: dict[tuple[str, str], ProcessServer] = {}
        self._digests: dict[str, tuple[tuple[int, int, int], str]] = {}

    async def run(self, launch: Launch) -> Running | None:
        """Start a task by fork; None where it must be started as any program is."""
        named = launch.env.get(SETTING)
        if not named or sys.platform == "win32":
            return None
        file, module, digest = [*named.rsplit(":", 2), "", ""][:3]
        zipapp = os.path.join(launch.env.get("AZ_BATCH_JOB_PREP_WORKING_DIR", launch.cwd), file)
        if not self._has_digest(zipapp, digest):
            return None
        interpreter = shutil.which(launch.argv[0], path=launch.env.get("PATH"))
        if interpreter is None:
            return None
        server = self._ready.get((interpreter, digest)) or await self._server(interpreter, zipapp, module, digest)
        if server is None or not server.alive:
            return None
        env = {**launch.env, FIRST_RUN: "1"}
        if not launch.first:
            del env[FIRST_RUN]
        return server.run(replace(launch, env=env))

    async def _server(self, interpreter: str, zipapp: str, module: str, digest: str) -> ProcessServer | None:
        key = interpreter, digest
        starting = self._servers.get(key)
        if starting is None:
            starting = asyncio.ensure_future(self._start(interpreter, zipapp, module, digest))
            self._servers[key] = starting
        # Shielded: a task that is ended while it waits must not take the server from the others.
        server = await asyncio.shield(starting)
        if server is not None:
            self._ready[key] = server
        return server

    async def _start(self, interpreter: str, zipapp: str, module: str, digest: str) -> ProcessServer | None:
        log = self._logs / f"fork-server-{digest[:12]}.txt"
        try:
            server = await ProcessServer.start(interpreter, self._env, log, zipapp, module)
        except OSError:
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
        stamp = status.st_ino, status.st_mtime_ns, status.st_size
        known = self._digests.get(file)
        if known is None or known[0] != stamp:
            known = stamp, hashlib.sha256(Path(file).read_bytes()).hexdigest()
            self._digests[file] = known
        return known[1] == digest.lower()

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop() for server in self._started))
