"""Pools that the service makes for a job, and takes away with it."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from batchexec.emulator.errors import BatchError
from batchexec.emulator.state import Account, Body, Job, Pool


class AutoPools:
    """`add` creates a pool from a body as a client would give it, and raises BatchError; `delete` begins its end."""

    def __init__(self, account: Account, add: Callable[[Body], Pool], delete: Callable[[Pool], None]) -> None:
        self._account = account
        self._add = add
        self._delete = delete

    def begin(self, job: Job) -> None:
        """Make the pool of a new job that asks for one; a failure is the job's scheduling error."""
        wanted = job.body["poolInfo"].get("autoPoolSpecification")
        if wanted is None:
            return
        prefix = wanted.get("autoPoolIdPrefix")
        id = (f"{prefix}_" if prefix else "") + str(uuid.uuid4()).upper()
        try:
            self._add({**wanted["pool"], "id": id})
        except BatchError as error:
            job.scheduling_error = {
                "category": "usererror",
                "code": error.code,
                "message": str(error),
                "details": [{"name": name, "value": value} for name, value in error.values.items()],
            }
        else:
            job.auto_pool = id

    def end(self, job: Job) -> None:
        """The job is completed or gone, and its pool goes with it unless it is kept alive."""
        wanted = job.body["poolInfo"].get("autoPoolSpecification")
        pool = self._account.pools.get(job.auto_pool.lower()) if job.auto_pool else None
        if pool is not None and pool.state == "active" and not (wanted or {}).get("keepAlive"):
            self._delete(pool)
