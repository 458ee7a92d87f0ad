"""Latency: how long the service takes where this machine takes no time (docs/faults.md tells the sources)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchexec.emulator.scheduling.pools import Pools
    from batchexec.emulator.state import Node

# Seconds, least and most, at scale 1. "Assumed" where no figure is published.
_BATCH_TRIP = (0.03, 0.12)  # assumed: a region of the same continent, and a write to a table
_BLOB_TRIP = (0.01, 0.04)  # assumed: the same way, and the single-digit milliseconds of storage
_TASK_START = (2.0, 5.0)  # "typically 2-5 s": the service's maintainers, Azure/Batch#58
_CONTAINER_START = (4.0, 5.0)  # on top of it, in a report of Azure/Batch#58
_ALLOCATION = (180.0, 480.0)  # reports of 3-8 minutes from no nodes: Azure/Batch#145, batch-dotnet-quickstart#11
_REBOOT = (60.0, 180.0)  # assumed
_IMAGE_PULL = (20.0, 60.0)  # assumed: some hundred MB from a registry nearby
_LAG = (1.0, 5.0)  # counts lag "a few seconds": batch-get-resource-counts; lists are taken to lag as much
_BOOTS_AGAIN = frozenset(("rebooting", "reimaging", "starting"))


class Latency:
    """Draws times, all times `scale`; a seed makes the draws the same again."""

    def __init__(self, scale: float = 1.0, seed: int | None = None) -> None:
        self.scale = scale
        self._random = random.Random(seed)

    @classmethod
    def parse(cls, text: str, seed: int | None = None) -> Latency:
        """`azure` or `azure:SCALE`. Raises ValueError."""
        place, colon, scale = text.partition(":")
        if place != "azure":
            raise ValueError(f"{place!r} is not known; `azure` is, or `azure:0.01` for a hundredth of its times")
        factor = float(scale) if colon else 1.0
        if not 0 < factor < 1000:
            raise ValueError("the scale is a number above 0")
        return cls(factor, seed)

    def slow_down(self, pools: Pools) -> None:
        """Have nodes take their time to come and to boot."""
        pools.allocation_seconds = lambda pool: self._draw(_ALLOCATION)
        pools.nodes.boot_seconds = self._boot

    def round_trip(self, service: str) -> float:
        """Of one request to `batch` or `blob`."""
        return self._draw(_BATCH_TRIP if service == "batch" else _BLOB_TRIP)

    def task_start(self, in_container: bool = False) -> float:
        """From the choice of a node to the task's process."""
        return self._draw(_TASK_START) + (self._draw(_CONTAINER_START) if in_container else 0.0)

    def lag(self) -> float:
        """By how much lists and counts are behind."""
        return self._draw(_LAG)

    def _boot(self, node: Node) -> float:
        if node.state in _BOOTS_AGAIN:
            return self._draw(_REBOOT)
        machine = node.pool.body.get("virtualMachineConfiguration") or {}
        images = (machine.get("containerConfiguration") or {}).get("containerImageNames")
        return self._draw(_IMAGE_PULL) if images else 0.0

    def _draw(self, limits: tuple[float, float]) -> float:
        return self.scale * self._random.uniform(*limits)
