"""The pool that an executor uses: its id, the body to create it with, whether an existing one will do."""

from __future__ import annotations

import getpass
import hashlib
import math
import re
import sys
from collections.abc import Mapping
from typing import Any

from batchexec.config import BatchConfig
from batchexec.errors import ConfigError, PoolMismatchError

from . import resources
from .images import container_registries, image_of
from .startup import start_command, start_task

Json = dict[str, Any]


def pool_id(config: BatchConfig) -> str:
    """The pool's id: the one given, else `batchexec-<user>-<hash of image, size, slots, OS>`, and of what its nodes
    run at their start and log in with."""
    if config.pool_id:
        return config.pool_id
    kind = [image_of(config), config.vm_size, config.slots_per_node, config.os_image, config.spot]
    kind += [value for value in (config.registry_user, config.registry_identity, config.start_command) if value]
    digest = hashlib.sha256("|".join(map(str, kind)).encode()).hexdigest()[:10]
    return f"batchexec-{_user()}-{digest}"


def nodes_for(config: BatchConfig, max_workers: int | None) -> int:
    """Nodes that `max_workers` slots take, at most `max_nodes`."""
    if max_workers is None:
        return config.max_nodes
    return min(config.max_nodes, math.ceil(max_workers / config.slots_per_node))


def formula(nodes: int, slots: int, idle_minutes: int, spot: bool) -> str:
    """Nodes for what waits or runs, up to `nodes`, kept for `idle_minutes`, then none; all while samples are few.

    `slots`: tasks that a node runs at once; the service counts tasks, whatever slots they take. It shows a sample
    about a minute after it was taken: of the last two minutes, there are half at best.
    """
    target = "$TargetLowPriorityNodes" if spot else "$TargetDedicatedNodes"
    span = f"TimeInterval_Minute * {idle_minutes + 1}"
    percent = 70 * idle_minutes // (idle_minutes + 1)
    return (
        f"enough = $PendingTasks.GetSamplePercent({span}) >= {percent};\n"
        f"busy = enough ? max($PendingTasks.GetSample({span}, 1)) : {nodes * slots};\n"
        f"{target} = min({nodes}, (busy + {slots - 1}) / {slots});\n"
        "$NodeDeallocationOption = taskcompletion;"
    )


_TASKS = re.compile(r"\(busy \+ \d+\) / (\d+)")


def tasks_a_node(formula: str) -> int | None:
    """How many tasks a formula of ours reckons with; None for somebody else's."""
    found = _TASKS.search(formula)
    return int(found[1]) if found else None


def reckoning_with(formula: str, tasks: int) -> str:
    """A formula of ours for nodes that run so many tasks at once."""
    return _TASKS.sub(f"(busy + {tasks - 1}) / {tasks}", formula)


def autoscale(config: BatchConfig, nodes: int) -> Json:
    node = resources.node_of(config, resources.Place("azure", 1, nodes))
    tasks = node.slots // resources.share(node, config.cores, config.memory)["slots"]
    return {
        "autoScaleFormula": formula(nodes, tasks, config.idle_minutes, config.spot),
        "autoScaleEvaluationInterval": "PT5M",
    }


def azure_pool(config: BatchConfig, nodes: int) -> Json:
    """The body of the pool's creation on Azure. Raises ConfigError where the registry's password cannot be read."""
    publisher, offer, sku, version = config.os_image.split(":")
    containers: Json = {"type": "dockerCompatible", "containerImageNames": [image_of(config)]}
    if registries := container_registries(config):
        containers["containerRegistries"] = registries
    body: Json = {
        "id": pool_id(config),
        "vmSize": config.vm_size,
        "taskSlotsPerNode": config.slots_per_node,
        "taskSchedulingPolicy": {"nodeFillType": "pack"},
        "enableAutoScale": True,
        **autoscale(config, nodes),
        "virtualMachineConfiguration": {
            "imageReference": {"publisher": publisher, "offer": offer, "sku": sku, "version": version},
            "nodeAgentSKUId": config.node_agent_sku,
            "containerConfiguration": containers,
        },
        "metadata": [{"name": "batchexec_python", "value": f"{sys.version_info[0]}.{sys.version_info[1]}"}],
    }
    if config.start_command:
        body["startTask"] = start_task(config.start_command)
    network: Json = {}
    if config.subnet_id:
        network["subnetId"] = config.subnet_id
    if not config.public_ip:
        network["publicIPAddressConfiguration"] = {"provision": "nopublicipaddresses"}
    if network:
        body["networkConfiguration"] = network
    return merged(body, config.pool_options)


def local_pool(config: BatchConfig, name: str, slots: int) -> Json:
    """One node of this machine, for one executor."""
    cores = next(size for size in (4, 8, 16, 32, 64) if 4 * size >= slots or size == 64)
    body: Json = {
        "id": name,
        "vmSize": f"Standard_D{cores}s_v5",
        "taskSlotsPerNode": slots,
        "targetDedicatedNodes": 1,
        "virtualMachineConfiguration": {
            "imageReference": {
                "publisher": "canonical",
                "offer": "ubuntu-24_04-lts",
                "sku": "server",
                "version": "latest",
            },
            "nodeAgentSKUId": "batch.node.ubuntu 24.04",
        },
    }
    if config.start_command:
        body["startTask"] = start_task(config.start_command)
    return body


def merged(body: Json, options: Mapping[str, Any]) -> Json:
    """`body` with `options` laid over it, table by table."""
    result = dict(body)
    for name, value in options.items():
        present = result.get(name)
        both = isinstance(present, dict) and isinstance(value, Mapping)
        result[name] = merged(present, value) if both else value  # type: ignore[arg-type]
    return result


def has_containers(pool: Json) -> bool:
    return bool((pool.get("virtualMachineConfiguration") or {}).get("containerConfiguration"))


def differences(pool: Json, config: BatchConfig) -> list[str]:
    """What an existing pool does otherwise than the configuration asks, for a warning each. Raises PoolMismatchError
    where none of this executor's work could run."""
    name = pool["id"]
    remedy = f"Use another pool_id, or delete pool {name!r} so that it is made anew."
    agent = str((pool.get("virtualMachineConfiguration") or {}).get("nodeAgentSKUId"))
    if str(pool.get("state")).lower() == "deleting":
        raise PoolMismatchError(f"pool {name!r} is being deleted: wait until it is gone, or use another pool_id")
    if "windows" in agent.lower():
        raise PoolMismatchError(
            f"pool {name!r} runs Windows: neither functions nor Commands run there, the worker needs Linux. {remedy}"
        )
    if config.image and not has_containers(pool):
        raise PoolMismatchError(
            f"image={config.image!r} is set, but pool {name!r} was made without container support. {remedy}"
        )
    if not pool.get("enableAutoScale") and not _target_nodes(pool):
        raise PoolMismatchError(
            f"pool {name!r} is fixed at zero nodes, so nothing would ever run: resize it or turn its autoscale on. "
            + remedy
        )
    _check_python(pool, remedy)
    try:
        resources.share(resources.node_of_pool(pool), config.cores, config.memory)
    except ConfigError as error:
        raise PoolMismatchError(f"pool {name!r} is too small: {error}. {remedy}") from error
    found = []
    if pool.get("vmSize", "").lower() != config.vm_size.lower():
        found.append(
            f"pool {name!r} has VM size {pool.get('vmSize')}, not {config.vm_size}: its own is used and billed"
        )
    slots = pool.get("taskSlotsPerNode", 1)
    if slots != config.slots_per_node:
        found.append(f"pool {name!r} has {slots} task slots a node, not {config.slots_per_node}: its own are used")
    if config.start_command and start_command(pool) != config.start_command:
        found.append(f"pool {name!r} was made without this start_command: its nodes do not run it. {remedy}")
    if not pool.get("enableAutoScale"):
        found.append(f"pool {name!r} has a fixed size of {_target_nodes(pool)} nodes, billed until it is resized")
    return found


def _check_python(pool: Json, remedy: str) -> None:
    metadata = {item["name"]: item["value"] for item in pool.get("metadata") or ()}
    theirs, ours = metadata.get("batchexec_python"), f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not has_containers(pool) and theirs and theirs != ours:
        raise PoolMismatchError(
            f"pool {pool['id']!r} has Python {theirs} and no containers, this is Python {ours}: pickled functions do "
            f"not travel between them. {remedy}"
        )


def _target_nodes(pool: Json) -> int:
    return int(pool.get("targetDedicatedNodes") or 0) + int(pool.get("targetLowPriorityNodes") or 0)


def _user() -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no user database entry, as in some containers
        name = "user"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:20] or "user"
