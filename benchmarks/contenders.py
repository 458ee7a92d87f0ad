"""The executors that are compared, all with two workers and under one face; and the floor beneath them."""

from __future__ import annotations

import contextlib
import multiprocessing
import operator
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing.pool import Pool
from typing import Any

from batchexec import BatchExecutor

from . import work

WORKERS = 2
BATCHEXEC, PROCESSES, FORKSERVER, FLOOR = "batchexec", "processes", "forkserver", "floor"
LOKY = "loky"
NAMES = {
    BATCHEXEC: "BatchExecutor, local: a fresh process per chunk",
    PROCESSES: "ProcessPoolExecutor, spawn: two processes that stay",
    FORKSERVER: "multiprocessing.Pool(maxtasksperchild=1), forkserver: a fresh process per chunk",
    FLOOR: "fork, connect, GET, PUT, exit; nothing else",
    LOKY: "joblib's own backend: two processes that stay",
}
Function = Callable[[int], int]
NOOP: Function = operator.neg  # known to every Python: nobody has to ship or import it
OWN: Function = work.negate


class Contender:
    """One executor with its ways to run `function` over numbers, a fresh call each time."""

    def submit_each(self, function: Function, numbers: Sequence[int]) -> list[int]:
        raise NotImplementedError

    def map(self, function: Function, numbers: Sequence[int], chunksize: int) -> list[int]:
        raise NotImplementedError


class OfExecutor(Contender):
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit_each(self, function: Function, numbers: Sequence[int]) -> list[int]:
        futures = [self._executor.submit(function, number) for number in numbers]
        return [future.result() for future in futures]

    def map(self, function: Function, numbers: Sequence[int], chunksize: int) -> list[int]:
        return list(self._executor.map(function, numbers, chunksize=chunksize))


class OfPool(Contender):
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def submit_each(self, function: Function, numbers: Sequence[int]) -> list[int]:
        futures = [self._pool.apply_async(function, (number,)) for number in numbers]
        return [future.get() for future in futures]

    def map(self, function: Function, numbers: Sequence[int], chunksize: int) -> list[int]:
        return self._pool.map(function, numbers, chunksize)


class Floor(Contender):
    """Runs as many empty chunks as the others run real ones; the results are made up here."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def submit_each(self, function: Function, numbers: Sequence[int]) -> list[int]:
        return self.map(function, numbers, 1)

    def map(self, function: Function, numbers: Sequence[int], chunksize: int) -> list[int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{-(-len(numbers) // chunksize)}\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError("the floor ended: its own words are above")
        return [function(number) for number in numbers]


@contextlib.contextmanager
def opened(name: str) -> Iterator[Contender]:
    """The contender of that name, made here and closed at the end of the block."""
    if name == BATCHEXEC:
        with BatchExecutor(max_workers=WORKERS, where="local", progress=False) as executor:
            yield OfExecutor(executor)
    elif name == PROCESSES:
        spawn: Any = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(WORKERS, mp_context=spawn) as processes:
            yield OfExecutor(processes)
    elif name == FORKSERVER:
        with multiprocessing.get_context("forkserver").Pool(WORKERS, maxtasksperchild=1) as pool:
            yield OfPool(pool)
            pool.close()
            pool.join()
    elif name == FLOOR:
        command = [sys.executable, "-m", "benchmarks.floor"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            yield Floor(process)
    else:
        raise ValueError(f"unknown contender {name!r}")
