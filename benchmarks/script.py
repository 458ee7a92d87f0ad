"""A whole program with its function in the script itself: `python script.py batchexec|processes|forkserver CHUNKS`.

Prints the milliseconds that a one-item chunk took, warm. The standard library's fresh processes import the script anew,
as they do for whoever runs `python loop.py`; those of `python -m benchmarks` need not (a `__main__` of a package is
left out), so that case is kinder to them than most programs are.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable


def negate(number: int) -> int:
    return -number


def timed(run: Callable[[Iterable[int]], list[int]], chunks: int) -> None:
    run(range(8))
    begin = time.perf_counter()
    results = run(range(chunks))
    taken = time.perf_counter() - begin
    if results != [-number for number in range(chunks)]:
        sys.exit(f"wrong results: {results!r}")
    print(taken * 1000 / chunks, flush=True)


def main(kind: str, chunks: int) -> None:
    if kind == "batchexec":
        from batchexec import BatchExecutor

        with BatchExecutor(max_workers=2, where="local", progress=False) as executor:
            timed(lambda numbers: list(executor.map(negate, numbers, chunksize=1)), chunks)
    elif kind == "processes":
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
            timed(lambda numbers: list(processes.map(negate, numbers, chunksize=1)), chunks)
    elif kind == "forkserver":
        import multiprocessing

        with multiprocessing.get_context("forkserver").Pool(2, maxtasksperchild=1) as pool:
            timed(lambda numbers: pool.map(negate, numbers, 1), chunks)
    else:
        sys.exit(f"unknown kind {kind!r}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
