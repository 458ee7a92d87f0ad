"""Faults of what a node runs: tasks, start and preparation tasks that cannot start, end otherwise or run twice."""

from __future__ import annotations

import os
import shlex
import shutil
from typing import TYPE_CHECKING, Any

from batchexec.emulator.faults import nodes as faulty_nodes
from batchexec.emulator.faults.faults import COMMAND, NODE, Fault
from batchexec.emulator.state import Body

from . import containers
from .failures import CannotStart
from .runs import NodeRun, PrepRun, TaskRun

if TYPE_CHECKING:
    from .attempts import Attempts

_SMALL_DISK = """
disk=$(mktemp -d) && mount -t tmpfs -o size="$1" none "$disk" && shift
cp -a . "$disk" 2>/dev/null
mount --bind "$disk" "$PWD" && umount "$disk" && rmdir "$disk" && cd "$PWD" && exec "$@"
"""
_DISK_FULL = "There is not enough space on the disk"
_NOWHERE = "http://127.0.0.1:9"  # the port where everything is discarded
_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


def befall(run: Attempts, body: Body, argv: list[str], job: str | None) -> list[str]:
    """What is run in place of `argv`. Raises CannotStart where nothing is; some faults come later, by the clock."""
    agent = run.agent
    facts: dict[str, Any] = {"role": _role(run), "pool": agent.node.pool.id, "node": agent.node.id, "job": job}
    if isinstance(run, TaskRun):
        facts["task"] = run.task.id
        for fault in agent.faults.take_all(NODE, facts, faulty_nodes.immune(agent.node)):
            faulty_nodes.strike_later(agent.nodes, agent.clock, agent.node, fault)
    for fault in agent.faults.take_all(COMMAND, facts, () if isinstance(run, TaskRun) else ("twice",)):
        argv = _troubled(run, body, argv, fault)
    return argv


def _role(run: Attempts) -> str:
    if isinstance(run, TaskRun):
        return "task"
    if isinstance(run, PrepRun):
        return "preparation"
    return "start" if type(run) is NodeRun else "release"


def _troubled(run: Attempts, body: Body, argv: list[str], fault: Fault) -> list[str]:
    kind = fault.kind
    if kind == "fail":
        error = CannotStart(fault["code"], fault["message"] or "The service was told to fail this")
        error.info["category"] = fault["category"]
        raise error
    if kind == "image-pull":
        raise CannotStart("ContainerInvalidImage", fault["message"] or containers.NO_IMAGE)
    if kind == "end":
        run.agent.clock.call_later(fault["seconds"], lambda: run.stop("ended"))
        return argv
    if kind == "twice" and isinstance(run, TaskRun):
        run.run_again(fault["seconds"] if fault["overlap"] else None)
        return argv
    run.forks = False  # a warm process knows nothing of what the command is wrapped in
    if kind == "exit":
        words = f"printf '%s\\n' {shlex.quote(fault['stderr'])} >&2; " if fault["stderr"] else ""
        return ["/bin/sh", "-c", f"{words}exit {fault['exit_code']}"]
    if argv == [containers.INSIDE]:  # of a container, this process makes neither the network nor the disks
        if kind == "disk-full":
            raise CannotStart("DiskFull", _DISK_FULL)
        raise CannotStart("ContainerInvalidImage", containers.NO_IMAGE)
    if kind == "no-network":
        return _without_network(body, argv)
    return _on_full_disk(argv, fault["bytes"])


def _without_network(body: Body, argv: list[str]) -> list[str]:
    """In a network namespace with nothing in it, where this process may make one; else with proxies that refuse."""
    if body.get("resourceFiles"):
        raise CannotStart("BlobDownloadMiscError", "A resource file could not be downloaded: no network")
    if _may_unshare():
        return ["unshare", "--net", "--", *argv]
    return ["/usr/bin/env", *(f"{name}={_NOWHERE}" for name in _PROXIES), *argv]


def _on_full_disk(argv: list[str], size: int) -> list[str]:
    """With a small disk of its own as working directory, which goes with the process; else it does not start."""
    if not _may_unshare():
        raise CannotStart("DiskFull", _DISK_FULL)
    return ["unshare", "--mount", "--", "/bin/sh", "-c", _SMALL_DISK, "sh", str(size), *argv]


def _may_unshare() -> bool:
    return os.geteuid() == 0 and shutil.which("unshare") is not None
