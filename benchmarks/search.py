"""A grid search by joblib, on an executor or on loky: the search alone is timed, with both brought up before."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

from .contenders import BATCHEXEC, WORKERS
from .errors import WrongResultError

_FOLDS = 5


def search(name: str, points: int) -> float:
    """Milliseconds of the search over points x points parameters on the backend of that name."""
    expected = _expected(points)
    with _backend(name):
        _fit(1)
        begin = time.perf_counter()
        found = _fit(points)
        taken = (time.perf_counter() - begin) * 1000
    if found != expected:
        raise WrongResultError(f"{name}: {found}, not {expected}")
    return taken


@contextlib.contextmanager
def _backend(name: str) -> Iterator[None]:
    import joblib

    import batchexec.joblib
    from batchexec import BatchExecutor

    if name != BATCHEXEC:
        with joblib.parallel_config(name, n_jobs=WORKERS):
            yield
        return
    batchexec.joblib.register()
    with BatchExecutor(max_workers=WORKERS, where="local", progress=False) as executor:
        with joblib.parallel_config("azure_batch", executor=executor):
            yield


@functools.cache
def _expected(points: int) -> dict[str, list[Any]]:
    return _fit(points, n_jobs=1)


def _fit(points: int, n_jobs: int | None = None) -> dict[str, list[Any]]:
    """The search's results, without the times that it took itself."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    grid = {"C": np.logspace(-1, 3, points), "gamma": np.logspace(-4, -1, points)}
    found = GridSearchCV(SVC(), grid, cv=_FOLDS, n_jobs=n_jobs).fit(*load_digits(return_X_y=True)).cv_results_
    return {name: list(values) for name, values in found.items() if not name.endswith("_time")}
