"""The servers that start a node's processes, seen from the node: one for programs, one per warm zipapp."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .directories import open_to_append

_SERVER = str(Path(__file__).with_name("_forkserver_main.py"))
_END_SECONDS = 20.0  # that a server has for ending what it started; a busy machine takes seconds
_SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Launch:
    """A process to start. `env` is the whole environment, the streams are files.

    `first`: it is the first ever started for its task.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    stdout: str
    stderr: str
    first: bool = False


@dataclass(frozen=True)
class Ended:
    """How a process ended: its status (the exit code, or minus the signal), or the errno of a failed start.

    Both are None when the server that ran it is gone: nobody knows.
    """

    status: int | None = None
    errno: int | None = None


class Running:
    """A process that was asked for; `ended` is set when it is over."""

    __slots__ = ("_id", "_server", "ended", "pid")

    def __init__(self, server: ProcessServer, id: int, ended: asyncio.Future[Ended]) -> None:
        self._server = server
        self._id = id
        self.ended = ended
        self.pid: int | None = None

    def kill(self) -> None:
        """Kill the process with its group; `ended` follows."""
        self._server.send({"op": "kill", "id": self._id})


class ProcessServer(asyncio.Protocol):
    """One `_forkserver_main.py`, and the channel to it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._transport: asyncio.WriteTransport
        self._buffer = b""
        self._runs: dict[int, Running] = {}
        self._count = 0
        self.alive = True
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[bool] = loop.create_future()
        self._reaped: asyncio.Future[int]
        self._gone: asyncio.Future[None] = loop.create_future()

    @classmethod
    async def start(
        cls, interpreter: str, env: dict[str, str], log: Path, zipapp: str = "", module: str = "", inline: bool = False
    ) -> ProcessServer:
        """Start one; OSError when the interpreter cannot be run. It takes work before it is ready.

        `inline`: its processes stay, and each runs task after task.
        """
        ours, theirs = socket.socketpair()
        with theirs, open(open_to_append(log), "ab") as output:
            command = [interpreter, "-I", *(() if zipapp else ("-S",)), _SERVER, str(theirs.fileno())]
            if zipapp:
                command += [zipapp, module, *(["inline"] if inline else [])]
            try:
                process = subprocess.Popen(
                    command,
                    env={**env, **_SINGLE_THREADED} if zipapp else env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        _, server = await asyncio.get_running_loop().create_connection(lambda: cls(process), sock=ours)
        return server

    @classmethod
    async def for_programs(cls, env: dict[str, str], log: Path) -> ProcessServer:
        return await cls.start(sys.executable, env, log)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def run(self, launch: Launch) -> Running:
        self._count += 1
        running = Running(self, self._count, asyncio.get_running_loop().create_future())
        if self.alive:
            self._runs[self._count] = running
            self.send({"op": "run", "id": self._count, **launch.__dict__})
        else:
            running.ended.set_result(Ended())
        return running

    def send(self, command: dict[str, Any]) -> None:
        if self.alive:
            self._transport.write(json.dumps(command).encode() + b"\n")

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "ready" in message:
                self.ready.set_result(True)
            elif "pid" in message:
                self._runs[message["id"]].pid = message["pid"]
            else:
                running = self._runs.pop(message["id"])
                running.ended.set_result(Ended(message.get("status"), message.get("errno")))

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if not self.ready.done():
            self.ready.set_result(False)
        for running in self._runs.values():
            if running.pid is not None:  # orphans now: their server can no longer end them
                try:
                    os.killpg(running.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            running.ended.set_result(Ended())
        self._runs.clear()
        # It has hung up, so it is ending; no zombie is left of it.
        self._reaped = asyncio.get_running_loop().run_in_executor(None, self._process.wait)
        self._gone.set_result(None)

    def kill(self) -> None:
        """End a server that does not answer."""
        self._process.kill()

    async def stop(self) -> None:
        """End the server, and with it every process it started."""
        if self.alive:
            self.alive = False  # it takes nothing more
            # Half-closing is its end-of-file; it hangs up when all it started is gone.
            self._transport.write_eof()
            self._process.terminate()  # it may be in the middle of a long import, and not listen
        # Killed it would leave what it started: only it knows all of that, and can wait for its end.
        await asyncio.wait({self._gone}, timeout=_END_SECONDS)
        if not self._gone.done():
            self.kill()
            await self._gone
        await self._reaped
