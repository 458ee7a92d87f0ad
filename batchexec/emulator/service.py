"""The local Azure put together: sockets, keys, the Batch and the Blob service, and their end."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .access import Access, listen
from .options import Options
from .temporary import TemporaryRoot, remove_abandoned

__all__ = ["Access", "Emulator", "listen"]

if TYPE_CHECKING:
    from aiohttp import web

    from batchexec.emulator.persistence.journal import Journal
    from batchexec.emulator.scheduling.jobs import Jobs
    from batchexec.emulator.scheduling.pools import Pools
    from batchexec.emulator.scheduling.scheduler import Scheduler

    from .clock import Clock
    from .state import Account

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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
        self._journal: Journal | None = None
        self._temporary: TemporaryRoot | None = None
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

        from batchexec.emulator.batch.routes_account import AccountRoutes
        from batchexec.emulator.batch.routes_files import FileRoutes
        from batchexec.emulator.batch.routes_jobs import JobRoutes
        from batchexec.emulator.batch.routes_nodes import NodeRoutes
        from batchexec.emulator.batch.routes_pools import LOCAL, PoolRoutes, local_pool
        from batchexec.emulator.batch.routes_tasks import TaskRoutes
        from batchexec.emulator.batch.server import BODY_LIMIT, BatchServer
        from batchexec.emulator.faults.control import ControlRoutes
        from batchexec.emulator.faults.faults import Faults, around
        from batchexec.emulator.faults.nodes import arm
        from batchexec.emulator.identity.hosts import Hosts, is_wildcard
        from batchexec.emulator.identity.keys import SharedKey
        from batchexec.emulator.node.own_storage import OwnStorage
        from batchexec.emulator.scheduling.auto_pools import AutoPools
        from batchexec.emulator.scheduling.autoscaler import AutoScaler
        from batchexec.emulator.scheduling.jobs import Jobs
        from batchexec.emulator.scheduling.pools import Pools
        from batchexec.emulator.scheduling.scheduler import Scheduler

        from .clock import Clock
        from .http_log import log
        from .state import Account

        access, clock = self.access, self._clock or Clock()
        root = self._options.root
        if root is None:
            self._temporary = TemporaryRoot()
            root = self._temporary.path
        faults = Faults(self._options.latency)
        self.account = account = Account(access.account, self._options.quotas, faults)
        account.storage = OwnStorage(access.blob_endpoint, access.storage_account, access.storage_key, clock.now)
        data, journal = self._options.data, None
        if data is not None:
            from batchexec.emulator.persistence.journal import Journal
            from batchexec.emulator.persistence.restore import restore

            restore(data.database, account)
            self._journal = journal = Journal(data.database, account, data.path / "blobs")
        if self._options.containers is not None:
            from batchexec.emulator.node.container_runtime import ContainerRuntime

            account.container_runtime = ContainerRuntime(self._options.containers, root)
        path = f"{_interpreters(root / 'bin', self._options.python)}{os.pathsep}{_PATH}"
        self._scheduler = scheduler = Scheduler(account, clock)
        self.jobs = jobs = Jobs(account, clock, scheduler)
        inline = self._options.inline
        self.pools = pools = Pools(account, clock, scheduler, root / "nodes", access.batch_endpoint, path, inline)
        scaler = AutoScaler(account, clock, pools)
        hosts = Hosts(access.names, is_wildcard(self._options.host))
        bearer = entra = blob_tokens = None
        if access.identity is not None:
            from batchexec.emulator.identity.bearer import BearerTokens, BlobTokens
            from batchexec.emulator.identity.entra import Entra

            issuer = access.identity.issuer
            bearer = BearerTokens(issuer, access.batch_endpoint, clock.now)
            blob_tokens = BlobTokens(issuer, access.batch_endpoint, access.storage_account).principal
            entra = Entra(access.identity, access.storage_account, clock.now)
            account.trusted = access.identity.certificates.bundle
        batch = BatchServer(SharedKey(access.account, access.batch_key), clock, hosts, bearer, entra, journal)
        batch.add(scaler.operations())
        pool_routes = PoolRoutes(account, clock, pools, scaler)
        batch.add(pool_routes.operations())
        jobs.auto_pools = AutoPools(account, pool_routes.add, pools.delete)
        batch.add(NodeRoutes(account, pools.nodes).operations())
        batch.add(AccountRoutes(account).operations())
        batch.add(JobRoutes(account, clock, jobs).operations())
        batch.add(TaskRoutes(account, scheduler).operations())
        batch.add(FileRoutes(account, scheduler).operations())
        batch.add(ControlRoutes(account, clock, faults, pools.nodes).operations())
        for specs in self._options.faults:
            arm(faults, specs, account, pools.nodes, clock)
        if self._options.latency is not None:
            self._options.latency.slow_down(pools)

        if data is not None and journal is not None:
            from batchexec.emulator.persistence.resume import resume

            journal.open()
            resume(account, clock, scheduler, jobs, pools, scaler, data)
        if self._options.nodes and LOCAL not in account.pools:
            pool_routes.add(local_pool(self._options.nodes, self._options.slots))
        loop = asyncio.get_running_loop()

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_LIMIT)

        handle = around(faults, "batch", batch.handle)
        server = web.Server(
            handle, request_factory=request, access_log=None, logger=log, auto_decompress=False
        )
        await self._serve(web.ServerRunner(server, shutdown_timeout=1), self._sockets[0])
        from batchexec.emulator.blob.service import blob_app

        app = blob_app(
            access.storage_account, access.storage_key, root / "blobs", clock.now, hosts, blob_tokens, journal, faults
        )
        # Content sent with a Content-Encoding is stored as it is.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, auto_decompress=False, logger=log)
        await self._serve(runner, self._sockets[1])
        if self._temporary is not None:
            remove_abandoned()

    async def _serve(self, runner: web.BaseRunner, sock: socket.socket) -> None:
        from aiohttp import web

        await runner.setup()
        self._runners.append(runner)
        identity = self.access.identity
        tls = identity.certificates.server_context() if identity is not None else None
        await web.SockSite(runner, sock, ssl_context=tls, backlog=512).start()

    async def stop(self) -> None:
        """Kill every process of every task, close the sockets, and remove what is ours."""
        if self._journal is not None:
            self._journal.close()  # before the tasks end: it is we who end them
        self._scheduler.stop()
        await self.pools.stop()
        if self.account.container_runtime is not None:
            await self.account.container_runtime.stop()
        await self.account.idle()
        for runner in self._runners:
            await runner.cleanup()
        if self._temporary is not None:
            await asyncio.to_thread(self._temporary.remove)


def _interpreters(directory: Path, python: str) -> Path:
    """Make the directory in which `python` and `python3` are this interpreter."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("python", "python3"):
        program = directory / name
        # Not a symbolic link: behind one, the interpreter of a virtual environment forgets its environment.
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(python)} "$@"\n')
        program.chmod(0o755)
    return directory
