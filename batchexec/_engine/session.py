"""One job: its pool, its blobs, its key; opened at the first submit, closed when every chunk has its verdict."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchexec import _version
from batchexec._wire import names
from batchexec.config import BatchConfig
from batchexec.errors import ConfigError, PoolError, ServiceError

from .pools import images, pool, resources
from .pools.resources import Place
from .pools.scaling import Scaling
from .sending import command, workerzip
from .sending.needs import Needs
from .sending.packages import Packages

if TYPE_CHECKING:
    import aiohttp

    from batchexec._azure.account import Account
    from batchexec._azure.batch import BatchService
    from batchexec._azure.blobs import BlobStore

Json = dict[str, Any]

_log = logging.getLogger("batchexec")

_RETENTION = "PT1H"  # of a completed task's directory on its node; the service's own 7 days would fill disks
_USER = {"autoUser": {"scope": "pool", "elevationLevel": "nonadmin"}}


class Session:
    """An open job. Everything of it in storage lies below one prefix, everything in Batch below one job id."""

    def __init__(
        self,
        config: BatchConfig,
        account: Account,
        place: Place,
        http: aiohttp.ClientSession,
        packages: Packages | None = None,
    ) -> None:
        from batchexec._azure.batch import BatchService
        from batchexec._azure.blobs import BlobStore

        self._config = config
        self._place = place
        self._packages = packages
        self.is_local = place.where == "local"
        self.slots = place.slots
        self._threads = 0  # of libraries in a task, where its call says nothing else
        self.job_id = f"{config.job_prefix}-{time.strftime('%y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
        self.key = secrets.token_bytes(32)
        patience = config.connect_timeout
        self.batch: BatchService = BatchService(account, http, patience)
        container = config.container or self.job_id
        folders = [config.prefix, self.job_id] if config.container else []
        prefix = "".join(f"{folder}/" for folder in folders if folder)
        self.store: BlobStore = BlobStore(account, http, container, prefix, patience)
        self.pool_id = self.job_id if self.is_local else pool.pool_id(config)
        self.worker_sha256, self._worker = workerzip.build(compressed=not self.is_local)
        self._own_container = config.container is None
        self._node = resources.node_of(config, place)
        self._own_pool = False  # made for this job alone, and goes with it
        self._in_containers = False
        self._scaling = Scaling(self.batch, self.pool_id)
        self._store_opened = False
        self.opened = False

    @property
    def requests(self) -> int:
        """Requests sent so far, to Batch and to storage."""
        return self.batch.requests + self.store.requests

    async def open(self) -> None:
        """Pool, container and job. Raises ServiceError or PoolError and leaves nothing behind."""
        try:
            await _all_or_first_error(self._open_pool(), self._open_store())
            await self.batch.create_job(self._job_body())
        except BaseException:
            await self._undo()
            raise
        self.opened = True

    def task(self, task_id: str, spec: str, needs: Needs) -> Json:
        """The body of one task; `spec` is what the worker needs to know (packer.task_spec)."""
        config = self._config
        if needs.node is not None and needs.node != self._node:
            needs = self._on_these_nodes(needs)
        settings = {
            names.ENV_CHUNK: spec,
            names.ENV_FORK_SERVER: command.fork_server_setting(self.worker_sha256),
            **self._own_settings(needs),
        }
        body: Json = {
            "id": task_id,
            "environmentSettings": [{"name": name, "value": value} for name, value in settings.items()],
            "constraints": {"maxTaskRetryCount": config.retries, "retentionTime": _RETENTION},
            "userIdentity": _USER,
        }
        if needs.slots > 1:
            body["requiredSlots"] = needs.slots
            self._scaling.need(needs.slots)
        if needs.timeout:
            body["constraints"]["maxWallClockTime"] = f"PT{needs.timeout:.3f}S"
        if self._in_containers:
            image, login = images.image_of(config), images.task_registry(config)
            body.update(command.container_command(self._python, image, self.worker_sha256, login))
        else:
            body["commandLine"] = command.worker_command(self._python, self.worker_sha256)
        return body

    def _own_settings(self, needs: Needs) -> dict[str, str]:
        """Environment settings of a task that differ from its job's, or are for it alone."""
        own: dict[str, str] = {}
        if needs.threads != self._threads:
            own = resources.thread_settings(needs.threads, self._config.env)
        if self._node.gpus:
            own[names.ENV_GPUS] = f"{self._node.gpus}:{self._node.slots}:{needs.slots}"
        return own

    def _on_these_nodes(self, needs: Needs) -> Needs:
        """The pool was there already, with other nodes than the configuration has: as many of their slots."""
        try:
            return replace(needs, **resources.share(self._node, needs.cores, needs.memory))
        except ConfigError:  # the pool was taken for what the executor asks; one call asks for more than there is
            return replace(needs, slots=self._node.slots)

    async def nudge_pool(self, *, if_due: bool = False) -> None:
        """Have an autoscaled pool look at its work now. `if_due`: only where its formula is not yet right for it."""
        if not self.is_local and (self._scaling.due or not if_due):
            await self._scaling.nudge(self._node.slots)

    async def extend_lease(self) -> None:
        """Move the job's end `wall_clock_hours` away from now, and sign anew for what is still to come."""
        await self.store.renew()
        created = self._created_at
        hours = self._config.wall_clock_hours + (time.monotonic() - created) / 3600
        await self.batch.update_job(self.job_id, {"constraints": {"maxWallClockTime": _duration(hours)}})

    async def written(self, task_id: str, stream: str, most: int = names.TAIL_BYTES) -> bytes:
        """The last `most` bytes of what a task has written to "stdout" or "stderr" so far; nothing where the service
        cannot tell: the task has not begun, or its node is gone."""
        try:
            return await self.batch.task_file_end(self.job_id, task_id, f"{stream}.txt", most)
        except ServiceError:
            return b""

    async def close(self, *, keep: tuple[str, ...] = ()) -> None:
        """End the job and delete everything of it, but the blobs in `keep` (they stay 7 days: see `clean`)."""
        await _all_or_first_error(
            self.batch.delete_job(self.job_id),
            self.store.drop(keep=keep, whole_container=self._own_container),
            *([self.batch.delete_pool(self.pool_id)] if self._own_pool else []),
        )

    async def abandon(self, reason: str) -> None:
        """End the job at once; results that are there stay."""
        if self.is_local:
            await self.close()
        else:
            await self.batch.terminate_job(self.job_id, reason)

    async def _open_pool(self) -> None:
        config, place = self._config, self._place
        if place.where == "local":
            self._own_pool = await self.batch.create_pool(pool.local_pool(config, self.pool_id, place.slots))
            return
        try:
            found = await self.batch.get_pool(self.pool_id)
        except ServiceError as error:
            if config.create_pool or error.status != 403:
                raise
            self._in_containers = config.image is not None  # no right to look at pools: believe the configuration
            return
        if found is None:
            if not config.create_pool:
                raise PoolError(
                    f"pool {self.pool_id!r} does not exist and create_pool=False: create it, or give another pool_id"
                )
            if await self.batch.create_pool(pool.azure_pool(config, place.nodes)):
                self._in_containers = True
                self._scaling.pool_made()
                return
            found = await self.batch.get_pool(self.pool_id)  # someone was faster
            if found is None:
                raise PoolError(f"pool {self.pool_id!r} appeared and went again: try once more")
        for difference in pool.differences(found, config):
            _log.warning(difference)
        self._in_containers = pool.has_containers(found)
        self._node = resources.node_of_pool(found)

    async def _open_store(self) -> None:
        await self.store.open(create=self._own_container)
        self._store_opened = True
        await self.store.put(names.worker_blob(self.worker_sha256), self._worker)

    @property
    def _python(self) -> str:
        return self._config.python or (sys.executable if self.is_local else "python3")

    def _job_body(self) -> Json:
        self._created_at = time.monotonic()
        config = self._config
        worker = names.worker_blob(self.worker_sha256)
        usual = resources.share(self._node, config.cores, config.memory)
        self._threads = usual["threads"]
        self._scaling.widest = usual["slots"]
        settings = {
            **resources.thread_settings(self._threads, config.env),
            **(command.GPU_SETTINGS if self._node.gpus else {}),
            **config.env,
            names.ENV_JOB: self.job_id,
            names.ENV_KEY: base64.b64encode(self.key).decode(),
            names.ENV_STORE: self.store.base_url,
            names.ENV_PYTHON: names.running_python(),
            **(self._packages.settings if self._packages else {}),
        }
        body: Json = {
            "id": self.job_id,
            "poolInfo": {"poolId": self.pool_id},
            "constraints": {"maxWallClockTime": _duration(config.wall_clock_hours)},
            "onAllTasksComplete": "noaction",
            "commonEnvironmentSettings": [{"name": name, "value": value} for name, value in settings.items()],
            "jobPreparationTask": {
                # Staging the worker is all that the preparation does; `sh` is on every node.
                "commandLine": "/bin/sh -c :",
                "resourceFiles": [
                    {
                        "httpUrl": f"{self.store.base_url}{worker}?{self.store.sas(worker, 'r')}",
                        "filePath": command.WORKER_FILE,
                        "fileMode": "0755",  # whatever user an image has its containers run as
                    }
                ],
                "constraints": {"maxTaskRetryCount": 3},
                "userIdentity": _USER,
                "waitForSuccess": True,
            },
            "metadata": [
                {"name": "batchexec", "value": _version.VERSION},
                {"name": "batchexec_store", "value": self.store.base_url},
                {"name": "batchexec_client", "value": f"{os.getpid()}"},
            ],
        }
        if self._place.where == "azure":
            body["maxParallelTasks"] = max(1, self._place.slots // usual["slots"])
        return body

    async def _undo(self) -> None:
        """After a failed opening: what was created goes again. Its own failures are not the error to report."""
        with contextlib.suppress(ServiceError):
            if self._own_pool:
                await self.batch.delete_pool(self.pool_id)
        with contextlib.suppress(ServiceError):
            if self._store_opened:  # else nobody answered there, and asking again would only take time
                await self.store.drop(whole_container=self._own_container)


@contextlib.asynccontextmanager
async def connected(account: Account, timeout: float) -> AsyncIterator[aiohttp.ClientSession]:
    """The connections of one engine."""
    from batchexec._azure.account import open_session

    session = open_session(account, timeout)
    try:
        yield session
    finally:
        await session.close()


async def _all_or_first_error(*steps: Any) -> None:
    """Run the steps side by side to their ends; then raise the first error of any."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _duration(hours: float) -> str:
    return f"PT{round(hours * 3600)}S"
