"""How many tasks the emulator's control plane takes and completes, what they weigh in memory, how long it restarts.

The emulator is a process of its own, and the load comes from this one. The tasks follow the fork-server contract and
do nothing, so that what is measured is all but work.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import processes
from .emulator_process import EmulatorProcess
from .raw_batch import RawBatch

_APP = """
import os

def preload(names): pass

def run(argv, env, cwd):
    os.close(int(env["BATCHEXEC_FORK_PRELOAD_FD"]))
    return 0
"""
_PER_REQUEST = 100  # the most that the service takes
_POLL_SECONDS = 0.1
_IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"}


class FailedTasksError(Exception):
    """Not all tasks succeeded: the times mean nothing."""


@dataclass(frozen=True)
class Load:
    """What is run. The nodes come once all tasks were accepted."""

    tasks: int = 100_000
    nodes: int = 2
    slots: int = 2
    runner: str = "inline"
    data_dir: bool = False

    @property
    def name(self) -> str:
        return f"{self.runner} with --data-dir" if self.data_dir else self.runner

    def options(self, directory: Path) -> list[str]:
        runner = [] if self.runner == "process" else ["--runner", self.runner]
        place = ["--data-dir", str(directory / "data")] if self.data_dir else ["--root", str(directory / "root")]
        return [*runner, *place]


def measure(tasks: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """With tasks in processes that stay, that many with and without `--data-dir`; fewer with a process for each."""
    return run([Load(tasks), Load(tasks, data_dir=True), Load(max(1, tasks // 20), runner="process")], tell)


def run(loads: list[Load], tell: Callable[[str], None]) -> dict[str, Any]:
    if not processes.available():
        raise SystemExit("the benchmark of the control plane reads /proc, which this system does not have")
    return {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "loads": {load.name: _measure(load, tell) for load in loads},
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    yield f"Python {machine['python']}, {machine['cpus']} CPUs, load {machine['load']:.2f} before"
    for name, found in report["loads"].items():
        yield f"{name}: {found['tasks']:,} tasks, {found['nodes']} nodes of {found['slots']} slots"
        for phase in ("accepted", "completed"):
            taken = found[phase]
            yield (
                f"  {phase:<10}{taken['per_second']:>8,.0f} tasks/s, emulator {taken['rss_mb']:,.0f} MB; CPU per task:"
                f" emulator {taken['service_ms']:.3f} ms, nodes {taken['nodes_ms']:.3f} ms,"
                f" client {taken['client_ms']:.3f} ms"
            )
        if "restart_seconds" in found:
            yield (
                f"  restart   {found['restart_seconds']:>8.2f} s from the start of the process to its first answer,"
                f" {found['restart_cpu_seconds']:.2f} s of CPU"
            )


def _measure(load: Load, tell: Callable[[str], None]) -> dict[str, Any]:
    tell(f"{load.name}: {load.tasks:,} tasks")
    with tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as name:
        directory = Path(name)
        found: dict[str, Any] = {"tasks": load.tasks, "nodes": load.nodes, "slots": load.slots}
        with EmulatorProcess(directory, load.options(directory)) as emulator:
            found["empty_mb"] = emulator.rss_mb()
            _prepare(emulator.client, load, directory / "app.pyz")
            for phase, work in (("accepted", _add_tasks), ("completed", _complete_tasks)):
                before = emulator.spent()
                work(emulator.client, load)
                after = emulator.spent()
                taken = {part: (after[part] - before[part]) / load.tasks for part in before}
                found[phase] = {
                    "per_second": 1000 / taken.pop("wall"),
                    **{f"{part}_ms": spent for part, spent in taken.items()},
                    "rss_mb": emulator.rss_mb(),
                }
            if load.data_dir:
                emulator.kill()
        if load.data_dir:
            begin = time.perf_counter()
            with EmulatorProcess(directory, load.options(directory)) as emulator:
                _check(_counts(emulator.client), load)
                found["restart_seconds"] = time.perf_counter() - begin
                found["restart_cpu_seconds"] = emulator.spent()["service"] / 1000
                found["restarted_mb"] = emulator.rss_mb()
        tell(f"{load.name}: measured; now its files are removed")
        return found


def _prepare(client: RawBatch, load: Load, app: Path) -> None:
    """A pool without nodes, and a job whose tasks ask for the zipapp."""
    with zipfile.ZipFile(app, "w") as archive:
        archive.writestr("nothing.py", _APP)
    machine = {"imageReference": _IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
    pool = {"id": "pool", "vmSize": "Standard_D4s_v5", "virtualMachineConfiguration": machine}
    client.call("POST", "/pools", {**pool, "targetDedicatedNodes": 0, "taskSlotsPerNode": load.slots})
    setting = f"{app}:nothing:{hashlib.sha256(app.read_bytes()).hexdigest()}"
    settings = [{"name": "BATCHEXEC_FORK_SERVER", "value": setting}]
    job = {"id": "job", "poolInfo": {"poolId": "pool"}, "commonEnvironmentSettings": settings}
    client.call("POST", "/jobs", job)


def _add_tasks(client: RawBatch, load: Load) -> None:
    for answer in client.calls(_collections(client, load.tasks)):
        if answer.count(b'"status":"success"') != answer.count(b'"taskId"'):
            raise FailedTasksError(answer.decode())


def _collections(client: RawBatch, tasks: int) -> Iterator[bytes]:
    for start in range(0, tasks, _PER_REQUEST):
        ids = range(start, min(start + _PER_REQUEST, tasks))
        settings = [{"name": "CHUNK", "value": "0123456789abcdef" * 4}]
        body = {
            "value": [
                {"id": f"task-{id:06}", "commandLine": "python3 app.pyz", "environmentSettings": settings} for id in ids
            ]
        }
        yield client.request("POST", "/jobs/job/addtaskcollection", json.dumps(body).encode())


def _complete_tasks(client: RawBatch, load: Load) -> None:
    client.call("POST", "/pools/pool/resize", {"targetDedicatedNodes": load.nodes})
    while _counts(client)["completed"] < load.tasks:
        time.sleep(_POLL_SECONDS)
    _check(_counts(client), load)


def _counts(client: RawBatch) -> dict[str, int]:
    found: dict[str, int] = client.call("GET", "/jobs/job/taskcounts")["taskCounts"]
    return found


def _check(counts: dict[str, int], load: Load) -> None:
    if counts["succeeded"] != load.tasks:
        raise FailedTasksError(f"{counts} of {load.tasks} tasks")
