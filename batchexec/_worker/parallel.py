"""One call of a `joblib.Parallel` on the node: objects of its own, parallel calls within it kept to its cores."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import sys
import types
from typing import Any, Callable, ContextManager

import cloudpickle

from batchexec._wire import payload

from . import threads

# As in joblib's own list of what limits the threads of numerical libraries.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class ParallelCall:
    """Runs a call as a process of joblib's own backends would have it.

    cores: what parallel calls within it may use at once, and what `joblib.cpu_count()` says.
    threads: of numerical libraries (`inner_max_num_threads`); None: those that the task has anyway.
    mapped_bytes: arrays from this size on are read-only memory maps where several calls use them; smaller ones are
        the call's own. None: all are.
    """

    calls_its_first = True  # messages name the user's function, not this

    def __init__(self, cores: int, threads: int | None, mapped_bytes: int | None) -> None:
        self._cores = cores
        self._threads = threads
        self._mapped_bytes = mapped_bytes

    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        os.environ["LOKY_MAX_CPU_COUNT"] = str(self._cores)
        if self._threads is not None:
            _limit_threads(self._threads)
        function, args, kwargs = self._own(function, args, kwargs)
        with _nested(self._cores):
            return function(*args, **kwargs)

    def _own(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The call with objects of its own: what it changes, its neighbours in the chunk must not see."""
        plain = isinstance(function, types.FunctionType)
        try:
            data, *buffers = payload.dump((None if plain else function, args, kwargs), self._dumps)
        except Exception:  # noqa: BLE001 - pickling runs user code
            return function, args, kwargs  # it came by a way that leads here only: there is no second one
        own = [raw if raw.readonly else bytearray(raw) for raw in buffers]
        copied, args, kwargs = pickle.loads(data, buffers=own)
        return function if plain else copied, args, kwargs

    def _dumps(self, obj: object, **options: Any) -> bytes:
        with io.BytesIO() as file:
            _Pickler(self._mapped_bytes, file, **options).dump(obj)
            return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles read-only arrays as writable ones; but not those of so many bytes or more."""

    def __init__(self, mapped_bytes: int | None, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._mapped_bytes = mapped_bytes

    def reducer_override(self, obj: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is None or type(obj) is not numpy.ndarray or obj.flags.writeable:
            return super().reducer_override(obj)
        if self._mapped_bytes is not None and obj.nbytes >= self._mapped_bytes:
            return super().reducer_override(obj)
        return obj.copy(order="K").__reduce_ex__(5)


def _nested(cores: int) -> ContextManager[Any]:
    """Parallel calls in the block run one after the other, or in threads where there are several cores."""
    if "joblib" not in sys.modules:
        return contextlib.nullcontext()
    from joblib.parallel import SequentialBackend, ThreadingBackend, parallel_config

    backend = ThreadingBackend if cores > 1 else SequentialBackend
    block: ContextManager[Any] = parallel_config(backend=backend(nesting_level=1), n_jobs=cores)
    return block


def _limit_threads(count: int) -> None:
    """For this process: of libraries that are loaded already, and of those that will be."""
    variables = dict.fromkeys(_THREAD_VARIABLES, str(count))
    os.environ.update(variables)
    threads.follow(variables)
