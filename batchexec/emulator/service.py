"""The local Azure put together: sockets, keys, the Batch and the Blob service, and their end."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .access import Access, listen
from .options import Options
from .temporary import TemporaryRoot, remove_abandoned

__all__ = ["Access", "Emulator", "listen"]

if TYPE_CHECKING:
    from aiohttp import web

    from batchexec.emulator.batch.routes_pools import PoolRoutes
    from batchexec.emulator.batch.server import BatchServer
    from batchexec.emulator.identity.hosts import Hosts
    from batchexec.emulator.persistence.journal import Journal
    from batchexec.emulator.scheduling.autoscaler import AutoScaler
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
        from batchexec.emulator.batch.routes_pools import LOCAL, local_pool
        from batchexec.emulator.faults.faults import around
        from batchexec.emulator.identity.hosts import Hosts, is_wildcard
        from batchexec.emulator.scheduling.autoscaler import AutoScaler
        from batchexec.emulator.scheduling.jobs import Jobs
        from batchexec.emulator.scheduling.nodes import Nodes
        from batchexec.emulator.scheduling.pools import Pools
        from batchexec.emulator.scheduling.scheduler import Scheduler

        from .clock import Clock

        access, options, clock = self.access, self._options, self._clock or Clock()
        root = options.root
        if root is None:
            self._temporary = TemporaryRoot()
            root = self._temporary.path
        self.account = account = self._open_account(root, clock)
        path = f"{_interpreters(root / 'bin', options.python)}{os.pathsep}{_PATH}"
        self._scheduler = scheduler = Scheduler(account, clock)
        self.jobs = jobs = Jobs(account, clock, scheduler)
        nodes = Nodes(account, clock, scheduler, root / "nodes", access.batch_endpoint, path, options.inline)
        self.pools = pools = Pools(account, clock, scheduler, nodes)
        scaler = AutoScaler(account, clock, pools)
        hosts = Hosts(access.names, is_wildcard(options.host))
        batch, pool_routes = self._batch_server(clock, hosts, scaler)
        self._set_off_faults(clock)
        if options.data is not None and self._journal is not None:
            from batchexec.emulator.persistence.resume import resume

            self._journal.open()
            resume(account, clock, scheduler, jobs, pools, scaler, options.data)
        if options.nodes and LOCAL not in account.pools:
            pool_routes.add(local_pool(options.nodes, options.slots))
        await self._serve_batch(around(account.faults, "batch", batch.handle))
        await self._serve_blobs(root / "blobs", clock, hosts)
        if self._temporary is not None:
            remove_abandoned()

    def _open_account(self, root: Path, clock: Clock) -> Account:
        """The account, with all that an earlier run has left in the data directory."""
        from batchexec.emulator.faults.faults import Faults
        from batchexec.emulator.node.own_storage import OwnStorage

        from .state import Account

        access, options = self.access, self._options
        account = Account(access.account, options.quotas, Faults(options.latency))
        account.storage = OwnStorage(access.blob_endpoint, access.storage_account, access.storage_key, clock.now)
        if options.data is not None:
            from batchexec.emulator.persistence.journal import Journal
            from batchexec.emulator.persistence.restore import restore

            restore(options.data.database, account)
            self._journal = Journal(options.data.database, account, options.data.path / "blobs")
        if options.containers is not None:
            from batchexec.emulator.node.container_runtime import ContainerRuntime

            account.container_runtime = ContainerRuntime(options.containers, root)
        if access.identity is not None:
            account.trusted = access.identity.certificates.bundle
        return account

    def _batch_server(self, clock: Clock, hosts: Hosts, scaler: AutoScaler) -> tuple[BatchServer, PoolRoutes]:
        from batchexec.emulator.batch.routes_account import AccountRoutes
        from batchexec.emulator.batch.routes_autoscale import AutoScaleRoutes
        from batchexec.emulator.batch.routes_faults import FaultRoutes
        from batchexec.emulator.batch.routes_files import FileRoutes
        from batchexec.emulator.batch.routes_jobs import JobRoutes
        from batchexec.emulator.batch.routes_nodes import NodeRoutes
        from batchexec.emulator.batch.routes_pools import PoolRoutes
        from batchexec.emulator.batch.routes_tasks import TaskRoutes
        from batchexec.emulator.batch.server import BatchServer
        from batchexec.emulator.identity.keys import SharedKey
        from batchexec.emulator.scheduling.auto_pools import AutoPools

        access, account, pools = self.access, self.account, self.pools
        bearer = entra = None
        if access.identity is not None:
            from batchexec.emulator.identity.bearer import BearerTokens
            from batchexec.emulator.identity.entra import Entra

            bearer = BearerTokens(access.identity.issuer, access.batch_endpoint, clock.now)
            entra = Entra(access.identity, access.storage_account, clock.now)
        batch = BatchServer(SharedKey(access.account, access.batch_key), clock, hosts, bearer, entra, self._journal)
        pool_routes = PoolRoutes(account, clock, pools, scaler)
        self.jobs.auto_pools = AutoPools(account, pool_routes.add, pools.delete)
        for routes in (
            pool_routes,
            AutoScaleRoutes(account, scaler),
            NodeRoutes(account, pools.nodes),
            AccountRoutes(account),
            JobRoutes(account, clock, self.jobs),
            TaskRoutes(account, self._scheduler),
            FileRoutes(account, self._scheduler),
            FaultRoutes(account, clock, account.faults, pools.nodes),
        ):
            batch.add(routes.operations())
        return batch, pool_routes

    def _set_off_faults(self, clock: Clock) -> None:
        """What goes wrong, and how slowly all goes, from the start."""
        from batchexec.emulator.faults.nodes import arm

        for specs in self._options.faults:
            arm(self.account.faults, specs, self.account, self.pools.nodes, clock)
        if self._options.latency is not None:
            self._options.latency.slow_down(self.pools)

    async def _serve_batch(self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        from aiohttp import web

        from batchexec.emulator.batch.server import BODY_LIMIT

        from .http_log import log

        loop = asyncio.get_running_loop()

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_LIMIT)

        server = web.Server(handle, request_factory=request, access_log=None, logger=log, auto_decompress=False)
        await self._serve(web.ServerRunner(server, shutdown_timeout=1), self._sockets[0])

    async def _serve_blobs(self, root: Path, clock: Clock, hosts: Hosts) -> None:
        from aiohttp import web

        from batchexec.emulator.blob.service import blob_app

        from .http_log import log

        access, tokens = self.access, None
        if access.identity is not None:
            from batchexec.emulator.blob.tokens import BlobTokens

            tokens = BlobTokens(access.identity.issuer, access.batch_endpoint, access.storage_account).principal
        key, journal, faults = access.storage_key, self._journal, self.account.faults
        app = blob_app(access.storage_account, key, root, clock.now, hosts, tokens, journal, faults)
        # Content sent with a Content-Encoding is stored as it is.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, auto_decompress=False, logger=log)
        await self._serve(runner, self._sockets[1])

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
