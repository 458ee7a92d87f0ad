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
    end = time.monotonic() + 60
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


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def whoami(number: int) -> tuple[int, bool, str]:
    """User, whether HOME is the working directory, and a file left in it."""
    home = os.path.expanduser("~")
    with open(os.path.join(home, f"file{number}"), "w") as file:
        file.write("kept at home")
    return os.getuid(), os.path.samefile(home, os.getcwd()), read(os.path.join(home, f"file{number}"))


def fitted() -> list[float]:
    import numpy as np
    from sklearn.linear_model import LinearRegression

    x = np.random.default_rng(0).normal(size=(50, 3))
    return list(map(float, LinearRegression().fit(x, x @ [1.0, 2.0, 3.0]).coef_))
