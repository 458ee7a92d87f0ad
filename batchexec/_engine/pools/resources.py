"""What a task takes of its node: cores, memory and GPUs, in the task slots that the service counts in."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchexec._engine.sending.needs import Node
from batchexec.config import BatchConfig, sizes
from batchexec.errors import ConfigError

Json = dict[str, Any]

# What the libraries read that bring threads of their own to a task.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True)
class Place:
    """Where an executor's work runs and how much of it at once."""

    where: str  # "local" or "azure"
    slots: int  # task slots on all nodes together
    nodes: int


def node_of(config: BatchConfig, place: Place) -> Node:
    """A node as the configuration has it."""
    if place.where == "local":
        return _this_machine(place.slots)
    return _azure_node(config.vm_size, config.slots_per_node)


def node_of_pool(pool: Json) -> Node:
    """A node of a pool that is there already."""
    return _azure_node(str(pool.get("vmSize")), int(pool.get("taskSlotsPerNode") or 1))


@functools.lru_cache
def _this_machine(slots: int) -> Node:
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):  # not everywhere
        memory = None
    return Node("this machine", slots, os.cpu_count() or 1, memory, is_local=True)


@functools.lru_cache
def _azure_node(vm_size: str, slots: int) -> Node:
    try:
        cores = sizes.vcpus(vm_size)
    except ConfigError:
        cores = None
    return Node(f"a {vm_size} node", slots, cores, sizes.memory(vm_size), sizes.gpus(vm_size) or 0)


def needs_of(
    config: BatchConfig,
    place: Place,
    *,
    cores: int | None = None,
    memory: float | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Fields of `Needs`: what a call's own `cores`, `memory` (GiB) and `timeout` (seconds) come to, else the
    configuration's. Raises ConfigError for more than a node has, and where nobody knows what it has."""
    if cores is None and memory is None:
        cores, memory = config.cores, config.memory
    return {
        **share(node_of(config, place), cores, memory),
        "timeout": config.timeout if timeout is None else timeout,
    }


def share(node: Node, cores: int | None, memory: float | None) -> dict[str, Any]:
    """As `needs_of`, of a node that is known."""
    slots = 1
    if cores is not None:
        slots = _slots("cores", cores, node.cores, node, "")
    if memory is not None:
        slots = max(slots, _slots("memory", memory, node.memory, node, " GiB"))
    threads = cores or (max(1, node.cores * slots // node.slots) if node.cores else 0)
    return {"slots": slots, "threads": threads, "cores": cores, "memory": memory, "node": node}


def _slots(name: str, wanted: float, there: float | None, node: Node, unit: str) -> int:
    if there is None:
        remedy = "leave it out" if node.is_local else "set slots (tasks a node) in its place"
        raise ConfigError(f"{name}: nobody knows how much {node.what} has: {remedy}")
    if wanted > there:
        remedy = "" if node.is_local else "; use a larger vm_size"
        raise ConfigError(f"{name}: {node.what} has {_number(there)}{unit}, got {_number(wanted)}{remedy}")
    return max(1, min(node.slots, math.ceil(wanted * node.slots / there - 1e-9)))


def at_once(place: Place, node: Node, slots: int) -> int:
    """Tasks of so many slots each that run at the same time."""
    return max(1, min(place.slots // slots, place.nodes * (node.slots // slots)))


def thread_settings(threads: int, env: Mapping[str, str]) -> dict[str, str]:
    """Variables that hold libraries to so many threads (0: to as many as they like), but for what the user's `env`
    says; without a variable of their own, all of them follow OMP_NUM_THREADS."""
    if not threads or _THREAD_VARIABLES[0] in env:
        return {}
    return {name: str(threads) for name in _THREAD_VARIABLES if name not in env}


def _number(value: float) -> str:
    return f"{math.floor(value * 10) / 10:g}"
