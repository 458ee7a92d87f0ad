"""Ten thousand small files over a hundred tasks: what moves to storage and to the node, counted at storage's door."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchexec import BatchExecutor, Command
from batchexec.testing import local_azure

from .counting import CountingDoor

_SLOTS = 4
_GROUPS = ("contents to storage", "contents to the node", "listings", "all else")


class WrongFilesError(Exception):
    """A task did not see the files that it was given: the figures mean nothing."""


@dataclass(frozen=True)
class Load:
    """`distinct` contents among all files; each file has `size` bytes."""

    tasks: int = 100
    files_per_task: int = 100
    distinct: int = 9_000
    size: int = 12_000

    @property
    def files(self) -> int:
        return self.tasks * self.files_per_task


QUICK = Load(tasks=8, files_per_task=10, distinct=70)


def measure(load: Load, tell: Callable[[str], None]) -> dict[str, Any]:
    """One run on its own for the time, and one through the door for the counts. One node, so that what it reads twice
    would show."""
    with tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as name:
        folder = Path(name)
        tell(f"writing {load.files:,} files")
        expected = _write(folder, load)
        runs = {}
        for counted in (False, True):
            tell("counted" if counted else "timed")
            runs[counted] = _run(folder, expected, counted=counted)
    return {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "tasks": load.tasks,
        "files": load.files,
        "distinct": load.distinct,
        "distinct_bytes": load.distinct * load.size,
        "seconds": runs[False]["seconds"],
        "counted": runs[True],
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    machine, counted = report["machine"], report["counted"]
    yield f"Python {machine['python']}, {machine['cpus']} CPUs, load {machine['load']:.2f}; one node of {_SLOTS} slots"
    distinct = f"{report['distinct']:,} distinct contents of {report['distinct_bytes'] / 1e6:,.1f} MB"
    yield f"{report['files']:,} files, {distinct}, over {report['tasks']} tasks: {report['seconds']:.1f} s"
    yield f"  {'':<34}{'requests':>9}{'MB':>9}"
    for what in _GROUPS:
        found = counted[what]
        yield f"  {what:<34}{found['requests']:>9,}{found['bytes'] / 1e6:>9.1f}"


def _write(folder: Path, load: Load) -> list[tuple[str, str]]:
    """A folder for each task; the digest of what is in it, in the order of names."""
    generator = random.Random(1)
    contents = [generator.randbytes(load.size) for _ in range(load.distinct)]
    # Every content is there; which ones are there again is as it falls.
    order = [*range(load.distinct), *(generator.randrange(load.distinct) for _ in range(load.files - load.distinct))]
    generator.shuffle(order)
    expected = []
    for task in range(load.tasks):
        inside = folder / f"task-{task:03d}"
        inside.mkdir()
        hashed = hashlib.sha256()
        for number, content in enumerate(order[task * load.files_per_task :][: load.files_per_task]):
            (inside / f"{number:04d}.dat").write_bytes(contents[content])
            hashed.update(contents[content])
        expected.append((str(inside), hashed.hexdigest()))
    return expected


def _run(folder: Path, expected: list[tuple[str, str]], *, counted: bool) -> dict[str, Any]:
    check = Command("cat {input}/* | sha256sum", shell=True)
    with contextlib.ExitStack() as stack:
        ready = stack.enter_context(local_azure("--nodes", "1", "--slots", str(_SLOTS))).ready
        door = stack.enter_context(CountingDoor(ready["blob_endpoint"]))
        begin = time.perf_counter()
        with BatchExecutor(
            where="azure",
            batch_account=ready["account"],
            batch_endpoint=ready["batch_endpoint"],
            batch_key=ready["batch_key"],
            storage_account=ready["storage_account"],
            storage_key=ready["storage_key"],
            blob_endpoint=door.endpoint if counted else ready["blob_endpoint"],
            pool_id="local",
            slots=_SLOTS,
            requirements=None,
            echo=False,
        ) as executor:
            results = list(executor.map(check, [Path(path) for path, _ in expected], chunksize=1))
            seconds = time.perf_counter() - begin
        for (path, digest), result in zip(expected, results, strict=True):
            if result.stdout.split()[0] != digest:
                raise WrongFilesError(path)
        return {"seconds": seconds, **_summary(door)}


def _summary(door: CountingDoor) -> dict[str, dict[str, int]]:
    groups = {name: {"requests": 0, "bytes": 0} for name in _GROUPS}
    for (method, kind), requests in door.requests.items():
        name = "all else"
        if kind in ("files/bundle", "files/content"):
            name = "contents to storage" if method == "PUT" else "contents to the node"
        elif kind == "files/listing":
            name = "listings"
        groups[name]["requests"] += requests
        groups[name]["bytes"] += door.sent[method, kind]
    return groups
