"""What the tests of resources have workers do."""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def settings(*names: str) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def gpus_beside(folder: str, name: str, others: int) -> str:
    """The GPUs that this task sees, while so many others run."""
    open(os.path.join(folder, name), "x").close()
    end = time.monotonic() + 30
    while len(os.listdir(folder)) < others:
        assert time.monotonic() < end, "the others did not start"
        time.sleep(0.01)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def threads_of_blas(count: int) -> tuple[bool, list[int], int]:
    """Whether numpy was there before this task, what the BLAS libraries say they use, and the threads that they have
    after some work."""
    warm = "numpy" in sys.modules
    import numpy as np
    import scipy.linalg
    import threadpoolctl

    a = np.random.default_rng(count).normal(size=(700, 700))
    scipy.linalg.lu(a @ a)
    pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return warm, pools, len(os.listdir("/proc/self/task"))


def needs_numpy(count: int) -> Any:
    import numpy as np

    return np.zeros(count)
