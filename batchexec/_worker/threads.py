"""Thread pools of libraries that were loaded before their task was known: set to what the task's settings say.

A fork server loads libraries with one thread each. They read their variables once, when they are loaded, so in a forked
task they have to be told by their own functions. Linux only, as the fork server is.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import Dict, List, Tuple

# Loaded libraries by a part of their file's name: the variables that hold for them, in order, and their functions.
# OpenBLAS is built with prefixes and suffixes for numpy and scipy, each with a copy of its own.
_OPENBLAS = tuple(
    f"{prefix}openblas_set_num_threads{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "_64", "")
)
_SETTERS: Tuple[Tuple[str, Tuple[str, ...], Tuple[str, ...]], ...] = (
    (r"openblas", ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), _OPENBLAS),
    (r"mkl_rt", ("MKL_NUM_THREADS", "OMP_NUM_THREADS"), ("MKL_Set_Num_Threads",)),
    (r"blis", ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"), ("bli_thread_set_num_threads",)),
    (r"gomp|iomp5|libomp", ("OMP_NUM_THREADS",), ("omp_set_num_threads",)),
)


def follow(env: Dict[str, str]) -> None:
    """Set the pools of what this process has loaded already to what `env` says."""
    for path in _loaded():
        for pattern, variables, functions in _SETTERS:
            count = next((env[name] for name in variables if env.get(name, "").isdigit()), "")
            if count and re.search(pattern, os.path.basename(path)):
                _call(path, functions, int(count))


def _loaded() -> List[str]:
    """Files of shared libraries in this process."""
    try:
        with open("/proc/self/maps") as file:
            paths = {line.split(None, 5)[5].rstrip("\n") for line in file if ".so" in line}
    except OSError:
        return []
    return sorted(paths)


def _call(path: str, functions: Tuple[str, ...], count: int) -> None:
    try:
        library = ctypes.CDLL(path, mode=getattr(os, "RTLD_NOLOAD", 0) | os.RTLD_LAZY)
    except OSError:  # replaced on the disk meanwhile
        return
    for name in functions:
        function = getattr(library, name, None)
        if function is not None:
            function(ctypes.c_int(count))
            return
