"""How much of an executor's work runs at once, and what each of its tasks takes of a node."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from batchexec.config import BatchConfig

if TYPE_CHECKING:
    from batchexec._engine.pools.resources import Place

_MOST_HERE = 256  # the service's limit for the slots of a node, which this machine is


class Capacity:
    """`where` is "local", "azure" or "inline"."""

    def __init__(self, config: BatchConfig, where: str, max_workers: int | None) -> None:
        self._config = config
        self._where = where
        self._max_workers = max_workers

    @property
    def slots(self) -> int:
        """Task slots that may be used at once."""
        if self._where == "azure":
            most = self._config.max_nodes * self._config.slots_per_node
            return min(self._max_workers or most, most)
        return min(self._max_workers or os.cpu_count() or 1, _MOST_HERE)

    @property
    def at_once(self) -> int:
        """Tasks that run at the same time: all slots, where each takes one."""
        if not (self._config.cores or self._config.memory) or self._where == "inline":
            return self.slots
        from batchexec._engine.pools import resources

        needs = self.resources()
        return resources.at_once(self.place(), needs["node"], needs["slots"])

    def place(self) -> Place:
        from batchexec._engine.pools import pool
        from batchexec._engine.pools.resources import Place

        if self._where == "local":
            return Place("local", self.slots, 1)
        return Place("azure", self.slots, pool.nodes_for(self._config, self._max_workers))

    def resources(self, cores: int | None = None, memory: float | None = None) -> dict[str, Any]:
        """What each task takes of its node, as fields of Needs; default: what the configuration says. Raises
        ConfigError for more than a node has."""
        from batchexec._engine.pools.resources import needs_of

        return needs_of(self._config, self.place(), cores=cores, memory=memory)
