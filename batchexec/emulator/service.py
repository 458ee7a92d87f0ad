"""The local Azure put together: sockets, keys, the Batch and the Blob service, and their end."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .keys import new_key
from .options import Options

if TYPE_CHECKING:
    from aiohttp import web

    from .clock import Clock
    from .jobs import Jobs
    from .pools import Pools
    from .scheduler import Scheduler
    from .state import Account

HOST = "127.0.0.1"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def listen(port: int) -> socket.socket:
    """A listening socket on loopback; port 0 takes a free one."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((HOST, port))
    sock.listen(512)
    sock.setblocking(False)
    return sock


@dataclass(frozen=True)
class Access:
    """What a client needs to use the service."""

    batch_endpoint: str
    blob_endpoint: str
    account: str
    batch_key: str
    storage_account: str
    storage_key: str

    @classmethod
    def create(cls, batch: socket.socket, blobs: socket.socket, account: str = "local") -> Access:
        batch_url, blob_url = (f"http://{HOST}:{sock.getsockname()[1]}" for sock in (batch, blobs))
        return cls(batch_url, f"{blob_url}/{account}", account, new_key(), account, new_key())

    @property
    def connection_string(self) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.storage_account};AccountKey={self.storage_key};"
            f"BlobEndpoint={self.blob_endpoint};"
        )

    def line(self) -> str:
        """All of it as one line of JSON, for the process that started this one."""
        return json.dumps({**self.__dict__, "connection_string": self.connection_string, "pid": os.getpid()})


class Emulator:
    """Serves on two listening sockets, from `start` to `stop`; usable as an asynchronous context."""

    def __init__(
        self,
        batch: socket.socket,
        blobs: socket.socket,
        access: Access,
        options: Options | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._sockets = batch, blobs
        self.access = access
        self._options = options or Options()
        self._clock = clock
        self._runners: list[web.BaseRunner] = []
        self._scheduler: Scheduler
        self.account: Account
        self.jobs: Jobs
        self.pools: Pools

    async def __aenter__(self) -> Emulator:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        from aiohttp import web

        from .autoscaler import AutoScaler
        from .clock import Clock
        from .jobs import Jobs
        from .keys import SharedKey
        from .pools import Pools
        from .routes_files import FileRoutes
        from .routes_jobs import JobRoutes
        from .routes_nodes import NodeRoutes
        from .routes_pools import PoolRoutes
        from .routes_tasks import TaskRoutes
        from .scheduler import Scheduler
        from .server import READ_LIMIT, BatchServer
        from .state import Account

        access, clock = self.access, self._clock or Clock()
        root = self._options.root or Path(tempfile.mkdtemp(prefix="batchexec-emulator-"))
        self._root = root
        self.account = account = Account(access.account, self._options.quotas)
        path = f"{_interpreters(root / 'bin', self._options.python)}{os.pathsep}{_PATH}"
        self._scheduler = scheduler = Scheduler(account, clock)
        self.jobs = jobs = Jobs(account, clock, scheduler)
        self.pools = pools = Pools(account, clock, scheduler, root / "nodes", access.batch_endpoint, path)
        scaler = AutoScaler(account, clock, pools)
        batch = BatchServer(SharedKey(access.account, access.batch_key), clock)
        batch.add(scaler.operations())
        batch.add(PoolRoutes(account, clock, pools, scaler).operations())
        batch.add(NodeRoutes(account).operations())
        batch.add(JobRoutes(account, clock, jobs).operations())
        batch.add(TaskRoutes(account, scheduler).operations())
        batch.add(FileRoutes(account, scheduler).operations())

        loop = asyncio.get_running_loop()

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=READ_LIMIT)

        server = web.Server(batch.handle, request_factory=request, access_log=None)
        await self._serve(web.ServerRunner(server, shutdown_timeout=1), self._sockets[0])
        from .blobs import blob_app

        app = blob_app(access.storage_account, access.storage_key, root / "blobs", clock.now)
        await self._serve(web.AppRunner(app, access_log=None, shutdown_timeout=1), self._sockets[1])

    async def _serve(self, runner: web.BaseRunner, sock: socket.socket) -> None:
        from aiohttp import web

        await runner.setup()
        self._runners.append(runner)
        await web.SockSite(runner, sock, backlog=512).start()

    async def stop(self) -> None:
        """Kill every process of every task, close the sockets, and remove what is ours."""
        self._scheduler.stop()
        await self.pools.stop()
        await self.account.idle()
        for runner in self._runners:
            await runner.cleanup()
        if self._options.root is None:
            await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)


def _interpreters(directory: Path, python: str) -> Path:
    """Make the directory in which `python` and `python3` are this interpreter."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("python", "python3"):
        program = directory / name
        # Not a symbolic link: behind one, the interpreter of a virtual environment forgets its environment.
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(python)} "$@"\n')
        program.chmod(0o755)
    return directory
