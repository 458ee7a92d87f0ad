"""Where a chunk's time goes: wall clock, and CPU of client, local service, fork server and task processes."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterator
from typing import Any

from . import processes
from .cases import warm_up
from .contenders import BATCHEXEC, NOOP, opened

PARTS = ("wall", "client", "service", "fork_server", "tasks")
_MEANINGS = {
    "wall": "wall clock",
    "client": "CPU of this process: pickling, packing, requests, watching, results",
    "service": "CPU of the local service: Batch and Blob requests, scheduling",
    "fork_server": "CPU of the servers that fork a process per chunk: forking and waiting",
    "tasks": "CPU of the processes that run the chunks, two at a time",
}


def profile(repetitions: int, chunks: int) -> dict[str, Any]:
    """Milliseconds per chunk of `chunks` one-item no-op chunks by `submit`, for each of PARTS."""
    if not processes.available():
        raise SystemExit("the profile reads /proc, which this system does not have")
    samples: dict[str, list[float]] = {part: [] for part in PARTS}
    with opened(BATCHEXEC) as contender:
        warm_up(contender)
        for _ in range(repetitions):
            before = _spent()
            contender.submit_each(NOOP, range(chunks))
            after = _spent()
            for part in PARTS:
                samples[part].append((after[part] - before[part]) / chunks)
    return {
        "repetitions": repetitions,
        "chunks": chunks,
        "python": platform.python_version(),
        "ms_per_chunk": {part: statistics.median(taken) for part, taken in samples.items()},
        "samples": samples,
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"ms per chunk, medians of {found['repetitions']} times {found['chunks']} one-item no-op chunks, 2 slots, "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.2f}"
    )
    taken = found["ms_per_chunk"]
    for part in PARTS:
        yield f"  {part:<12}{taken[part]:>8.2f}   {_MEANINGS[part]}"
    total = sum(taken[part] for part in PARTS if part != "wall")
    least = total / (os.cpu_count() or 1)
    yield f"  {'all CPU':<12}{total:>8.2f}   at least {least:.2f} of wall clock on {os.cpu_count()} CPUs"


def _spent() -> dict[str, float]:
    """Milliseconds so far. Whose each process is follows from the tree: we, the service, its servers, their tasks."""
    spent = dict.fromkeys(PARTS, 0.0)
    spent["wall"] = time.perf_counter() * 1000
    spent["client"] = time.process_time() * 1000
    below = processes.descendants(os.getpid())
    services = {process.pid for process in below if process.parent == os.getpid()}
    servers = {process.pid for process in below if process.parent in services}
    for process in below:
        if process.pid in services:
            spent["service"] += process.own_ms
        elif process.pid in servers:
            spent["fork_server"] += process.own_ms
            spent["tasks"] += process.children_ms
        else:
            spent["tasks"] += process.own_ms + process.children_ms
    return spent
