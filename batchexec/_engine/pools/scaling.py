"""The autoscale formula of a pool: evaluated when work comes, and reckoning with tasks as wide as a job has them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from batchexec.errors import ServiceError

from . import pool

if TYPE_CHECKING:
    from batchexec._azure.batch import BatchService

_PAUSE = 31.0  # the service refuses enableautoscale within 30 s of the last


class Scaling:
    """One job's say in it. `widest`: slots that a task took so far; `due`: the formula reckons with less than that."""

    def __init__(self, batch: BatchService, pool_id: str) -> None:
        self._batch = batch
        self._pool_id = pool_id
        self._posted = -_PAUSE
        self.widest = 1
        self.due = False

    def pool_made(self) -> None:
        """Just now, with a formula for this job."""
        self._posted = time.monotonic()

    def need(self, slots: int) -> None:
        """There is a task of so many slots."""
        if slots > self.widest:
            self.widest = slots
            self.due = True

    async def nudge(self, node_slots: int) -> None:
        """Have the pool evaluate its formula now rather than in up to five minutes: where it has no nodes, or had too
        few for tasks like ours. A formula that is not ours is left as it is."""
        if time.monotonic() - self._posted < _PAUSE:
            return
        self._posted = time.monotonic()
        try:
            found = await self._batch.get_pool(self._pool_id)
            if not found or not found.get("enableAutoScale"):
                self.due = False
                return
            formula = found["autoScaleFormula"]
            theirs, ours = pool.tasks_a_node(formula), max(1, node_slots // self.widest)
            self.due = theirs is not None and theirs > ours
            nodes = int(found.get("currentDedicatedNodes") or 0) + int(found.get("currentLowPriorityNodes") or 0)
            if nodes and not self.due:
                return
            if theirs is not None:
                formula = pool.reckoning_with(formula, ours)
            interval = found.get("autoScaleEvaluationInterval", "PT5M")
            scale = {"autoScaleFormula": formula, "autoScaleEvaluationInterval": interval}
            await self._batch.enable_autoscale(self._pool_id, scale)
            self.due = False
        except ServiceError as error:
            # Without the right to change pools, or just after someone else's call, the next regular evaluation serves.
            # A pool that is being resized is getting its nodes.
            if error.status != 403 and error.code not in ("TooManyEnableAutoScaleRequests", "PoolBeingResized"):
                raise
