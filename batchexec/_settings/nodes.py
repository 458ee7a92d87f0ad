"""The nodes: what their settings imply of each other."""

from __future__ import annotations

import re
from pathlib import Path

from batchexec.errors import ConfigError

from . import sizes
from .given import UNSET, Given, derived
from .wording import quoted


def derive(given: dict[str, Given], default_size: str, here: bool) -> list[str]:
    """Fill in what other settings imply: the node agent of an OS image. Return what does not go together. `here`: the
    work runs on this machine, where no registry is logged in to."""
    problems = []
    image, agent = given.get("os_image"), given.get("node_agent_sku")
    windows = next((one for one in (image, agent) if one is not None and "windows" in one.value.lower()), None)
    if windows is not None:
        problems.append(
            "os_image: neither functions nor Commands run on Windows, the worker needs Linux; "
            f"got {quoted(windows.value)} ({_of(windows)})"
        )
    elif image and agent is None:
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
    problems += _registry(given, here)
    size = given.get("vm_size") or Given(default_size, UNSET)
    slots = given.get("slots")
    try:
        most = 4 * sizes.vcpus(size.value)
        if slots is None:
            sizes.slots(size.value)
        if slots and slots.value > most:
            got = f"got {slots.value} ({slots.origin.source})"
            problems.append(f"slots: expected at most {most} on {size.value} (4 per vCPU), {got}")
    except ConfigError as error:
        if slots is None:  # a size newer than this table is fine with slots set
            problems.append(f"{error} ({size.origin.source})")
    return problems


def host_of(image: str) -> str:
    """The server that an image's name begins with; empty where it begins with none, as Docker reads names."""
    first, slash, _ = image.partition("/")
    return first if slash and (re.search(r"[.:]", first) or first == "localhost") else ""


def _registry(given: dict[str, Given], here: bool) -> list[str]:
    """What is wrong with the registry's settings."""
    problems = []
    user, file, identity = (given.get(f"registry_{name}") for name in ("user", "password_file", "identity"))
    if user and identity:
        problems.append(f"registry_identity: nodes log in by identity or by registry_user, not both ({_of(identity)})")
    elif user and not file:
        problems.append(f"registry_user: needs registry_password_file, a file with the password ({_of(user)})")
    elif file and not user:
        problems.append(f"registry_password_file: needs registry_user ({_of(file)})")
    elif file and not here:
        problems += _unreadable(file)
    image, registry = given.get("image"), given.get("registry")
    host = host_of(image.value) if image else ""
    if image and registry and host and host != registry.value:
        problems.append(
            f"registry: image {quoted(image.value)} comes from {host}, got {quoted(registry.value)} ({_of(registry)})"
        )
    return problems


def _unreadable(file: Given) -> list[str]:
    """Looked at only: it is read when a pool is made."""
    path = Path(file.value).expanduser()
    if not path.is_file():
        return [f"registry_password_file: there is no file {path} ({_of(file)})"]
    if not path.stat().st_size:
        return [f"registry_password_file: {path} is empty ({_of(file)})"]
    return []


def _of(one: Given) -> str:
    return one.origin.source
