"""What tests of joblib have workers do. Imports little: what a module imports, a node loads for each function of it."""

from __future__ import annotations

import os
import threading
import time
from typing import Any


def process(number: int) -> tuple[int, int]:
    return number, os.getpid()


def total(X: Any, y: Any, train: Any, number: int) -> float:
    return float(X[train].sum() + y.sum() + number)


def change(array: Any) -> float:
    array[0] += 1
    return float(array[0])


def draw(generator: Any) -> float:
    return float(generator.uniform())


def within() -> tuple[Any, ...]:
    import joblib

    with joblib.Parallel(n_jobs=-1) as parallel:
        names = {name for name in os.environ if name.startswith("BX_")}
        parts = parallel(joblib.delayed(threading.get_ident)() for _ in range(2))
        return type(parallel._backend).__name__, joblib.cpu_count(), "BX_INSIDE" in names, len(parts)


def threads() -> set[Any]:
    import numpy as np
    import threadpoolctl

    np.ones((2, 2)) @ np.ones((2, 2))
    pools = threadpoolctl.threadpool_info()
    return {os.environ["OMP_NUM_THREADS"], *(pool["num_threads"] for pool in pools if pool["user_api"] == "blas")}


def span(seconds: float) -> tuple[float, float]:
    start = time.time()
    time.sleep(seconds)
    return start, time.time()


def sleep_as(mark: str) -> None:
    """As a process that is known by the mark."""
    open(mark, "w").close()
    os.execlp("sleep", mark, "600")


def fail_beside(mark: str) -> None:
    """Once there is such a process."""
    while not os.path.exists(mark):
        time.sleep(0.01)
    raise ZeroDivisionError
