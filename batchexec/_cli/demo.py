"""`batchexec demo`: the loop that people come with, as it is and then with BatchExecutor."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time

import cloudpickle

from batchexec.executor import BatchExecutor


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="batchexec demo",
        description="A cross-validated grid search of an SVM over handwritten digits: as a plain for-loop, then the "
        "same loop with BatchExecutor. Exit code 0 means that all scores are equal.",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="task slots (default: CPUs here)")
    parser.add_argument(
        "--where",
        choices=("local", "auto", "azure"),
        default="local",
        help="where BatchExecutor runs it (default: local, which costs nothing; "
        "auto and azure use the account that is configured)",
    )
    parser.add_argument("--small", action="store_true", help="a grid of 4 instead of 25 points")
    options = parser.parse_args(argv)
    if options.workers < 1:
        parser.error("--workers must be 1 or more")
    if importlib.util.find_spec("sklearn") is None:
        print('The demo needs scikit-learn: pip install "batchexec[demo]"', file=sys.stderr)
        return 1
    return _compare(options.workers, options.where, options.small)


def _compare(workers: int, where: str, small: bool) -> int:
    executor = BatchExecutor(max_workers=workers, where=where)  # starts nothing; a mistake is told now
    from . import digits

    # This module is part of batchexec, which every worker has in its own form: the loop's function travels by value,
    # as one typed into a script or notebook does.
    cloudpickle.register_pickle_by_value(digits)
    turns = digits.fits(small)
    print(
        f"{len(turns)} fits of an SVM to {len(digits.DIGITS):,} handwritten digits: "
        f"{len(turns) // digits.FOLDS} points of C x gamma, {digits.FOLDS} folds. Each fit uses one thread.\n"
    )

    print("    scores = [score(fit) for fit in fits]")
    start = time.perf_counter()
    serial = [digits.score(turn) for turn in turns]
    serial_seconds = time.perf_counter() - start
    print(f"    {serial_seconds:.2f} s\n")

    print(f"    with BatchExecutor(max_workers={workers}) as ex:")
    print("        scores = list(ex.map(score, fits))", flush=True)
    start = time.perf_counter()
    with executor as ex:
        parallel = list(ex.map(digits.score, turns))
    seconds = time.perf_counter() - start
    print(f"    {seconds:.2f} s, from nothing started to everything cleaned up\n")

    ratio = serial_seconds / seconds
    equal = parallel == serial
    c, gamma, mean = digits.best(turns, parallel)
    stats = ex.stats()
    nodes, store = _place(ex)
    print(f"time:     {ratio:.2f} times as fast as the plain loop" + ("" if ratio > 1 else " (slower)"))
    print(f"scores:   {'all equal, bit for bit' if equal else 'NOT EQUAL'}")
    print(f"best:     C={c:g}, gamma={gamma:g}: {mean:.2%} recognised")
    print(
        f"work:     {stats.chunks} chunks, one task each, on {nodes} node{'s' * (nodes != 1)} with {stats.slots} "
        f"slots ({stats.where}), job {stats.job_id}"
    )
    print(f"requests: {stats.requests} to Batch and Blob storage together")
    print(f"logs:     {store}log/ while the job was there; they went with it, as nothing failed")
    return 0 if equal else 1


def _place(ex: BatchExecutor) -> tuple[int, str]:
    """Number of nodes at most, and where the job's blobs were."""
    engine = ex._engine
    assert engine is not None
    assert engine.session is not None
    return engine.place.nodes, engine.session.store.base_url
