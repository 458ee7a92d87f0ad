"""The nodes: vCPUs of a VM size, and what the settings of nodes imply of each other."""

from __future__ import annotations

import re

from batchexec.errors import ConfigError

from .given import UNSET, Given, derived
from .wording import quoted


def derive(given: dict[str, Given], default_size: str) -> list[str]:
    """Fill in what other settings imply: the node agent of an OS image. Return what does not go together."""
    problems = []
    image, agent = given.get("os_image"), given.get("node_agent_sku")
    if image and agent is None:
        release = re.search(r"(?i)ubuntu.*?(\d\d)[._-]?(04)", image.value)
        if release:
            sku = f"batch.node.ubuntu {release[1]}.{release[2]}"
            given["node_agent_sku"] = derived(sku, "os_image", image)
        else:
            problems.append(
                f"node_agent_sku: needed for os_image {quoted(image.value)} ({image.origin.source}): "
                "`az batch pool supported-images list` shows it"
            )
    if "prefix" in given and given["prefix"].value and "container" not in given:
        problems.append(f"prefix: needs container, an existing container ({given['prefix'].origin.source})")
    size = given.get("vm_size") or Given(default_size, UNSET)
    slots = given.get("slots")
    try:
        most = 4 * vcpus(size.value)
        if slots and slots.value > most:
            got = f"got {slots.value} ({slots.origin.source})"
            problems.append(f"slots: expected at most {most} on {size.value} (4 per vCPU), {got}")
    except ConfigError as error:
        if slots is None:  # a size newer than this table is fine with slots set
            problems.append(f"{error} ({size.origin.source})")
    return problems


_NUMBERED = {
    "a": {0: 1, 1: 1, 2: 2, 3: 4, 4: 8, 5: 2, 6: 4, 7: 8, 8: 8, 9: 16, 10: 8, 11: 16},
    "d": {1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 11: 2, 12: 4, 13: 8, 14: 16, 15: 20},
    "g": {1: 2, 2: 4, 3: 8, 4: 16, 5: 32},
}


def vcpus(vm_size: str) -> int:
    """vCPUs of an Azure VM size, read from its name; ConfigError for a name that does not tell.

    A constrained size counts what it has left: Standard_E64-16s_v5 has 16. The form of the names:
    https://learn.microsoft.com/azure/virtual-machines/vm-naming-conventions
    """
    match = re.fullmatch(r"(?:standard|basic)_([a-z]+)(\d+)(?:-(\d+))?[a-z]*((?:_\w+)*)", vm_size.lower())
    count: int | None = None
    if match:
        family, number, constrained, rest = match.groups()
        version = re.search(r"_v(\d+)", rest)
        generation = int(version[1]) if version else 1
        last_numbered = {"a": 1, "d": 2, "ds": 2, "g": 1, "gs": 1}.get(family, 0)
        if constrained:
            count = int(constrained)
        elif generation <= last_numbered:
            count = _NUMBERED[family[0]].get(int(number))
        else:
            count = int(number)
    if not count:
        raise ConfigError(f"vm_size: cannot read the vCPUs from {quoted(vm_size)}: set slots (tasks a node)")
    return count
