"""A whole program that runs one call on a fresh executor: `python cold_start.py batchexec|processes|forkserver`."""

from __future__ import annotations

import sys
from typing import Any


def negate(number: int) -> int:
    return -number


def first_result(kind: str) -> None:
    if kind == "batchexec":
        from batchexec import BatchExecutor

        with BatchExecutor(max_workers=2, where="local", progress=False) as executor:
            print(executor.submit(negate, 1).result(), flush=True)
    elif kind == "processes":
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        spawn: Any = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, mp_context=spawn) as executor:
            print(executor.submit(negate, 1).result(), flush=True)
    elif kind == "forkserver":
        import multiprocessing

        with multiprocessing.get_context("forkserver").Pool(2, maxtasksperchild=1) as pool:
            print(pool.apply_async(negate, (1,)).get(), flush=True)
    else:
        sys.exit(f"unknown kind {kind!r}")


if __name__ == "__main__":
    first_result(sys.argv[1])
