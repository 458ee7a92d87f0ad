"""The joblib backend "azure_batch": `Parallel`, and what is built on it, as tasks of a `BatchExecutor`."""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .executor import BatchExecutor

if TYPE_CHECKING:
    from ._joblib.batches import Batch, Batches

try:
    from joblib import register_parallel_backend
    from joblib.parallel import ParallelBackendBase, SequentialBackend
except ImportError as error:
    raise ImportError('batchexec.joblib needs joblib 1.3 or newer: pip install "batchexec[joblib]"') from error

__all__ = ["AzureBatchBackend", "register"]

_NAME = "azure_batch"
_UNHURRIED = "2*n_jobs"  # joblib's and scikit-learn's default of pre_dispatch, made for workers that are at hand
_ALL = sys.maxsize  # not joblib's "all", by which an error in making the very first call is lost: no calls, no results
_AHEAD = "16 * n_jobs"  # in its place where results are taken one by one, maybe from an endless iterator


def register() -> None:
    """Make the backend known to joblib, as "azure_batch".

    batchexec.joblib.register()
    with BatchExecutor() as ex, joblib.parallel_config("azure_batch", executor=ex):
        search.fit(X, y)
    """
    register_parallel_backend(_NAME, AzureBatchBackend)


class AzureBatchBackend(ParallelBackendBase):  # type: ignore[misc]
    """What joblib's `Parallel` sends its calls to.

    executor: where they run. Without one, the backend has its own, made of `config` (what `BatchExecutor` takes); it
        is shut down when the backend goes, with the end of `with parallel_config(...)`.

    `n_jobs` None or -1 means all slots of the executor, a smaller number at most so many chunks at once, and 1 that
    the calls run in this process, as always in joblib.
    """

    default_n_jobs = -1
    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(
        self,
        executor: BatchExecutor | None = None,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **config: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        if executor is None:
            executor = BatchExecutor(**config)
        elif not isinstance(executor, BatchExecutor):
            raise TypeError(f"executor must be a BatchExecutor, not {type(executor).__name__}")
        elif config:
            raise TypeError(f"executor= is configured already: {', '.join(config)} can be given to BatchExecutor only")
        self._executor = executor
        self._lock = threading.Lock()
        self._mapped_bytes: weakref.WeakKeyDictionary[Any, int | None] = weakref.WeakKeyDictionary()
        self._calls: dict[str, Batches] = {}  # by joblib's id of the call

    # joblib's interface

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if self._executor.where == "inline":
            return 1
        # What has one job, joblib runs in this very process: a single slot is given two, one after the other.
        most = max(2, self._executor._caller.capacity.at_once)
        if n_jobs is None or n_jobs == -1:
            return most
        return min(n_jobs, most) if n_jobs > 0 else max(1, most + 1 + n_jobs)

    def configure(
        self,
        n_jobs: int | None = 1,
        parallel: Any = None,
        max_nbytes: int | None = 2**20,
        mmap_mode: str | None = "r",
        **others: Any,
    ) -> int:
        """Called before a `Parallel` is used. `max_nbytes` and `mmap_mode` mean what they mean to loky: arrays from
        that size on are read-only memory maps on the node, all others are each call's own to change."""
        self._mapped_bytes[parallel] = max_nbytes if mmap_mode == "r" else None
        pre_dispatch = str(parallel.pre_dispatch).replace(" ", "")
        if pre_dispatch == _UNHURRIED:
            parallel.pre_dispatch = _AHEAD if parallel.return_generator else _ALL
        elif pre_dispatch == "all":
            parallel.pre_dispatch = _ALL
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Any, callback: Any = None) -> Batch:
        """Take a batch of joblib's. It goes out together with those that follow at once."""
        from ._joblib.batches import Batch

        batch = Batch(func.items, callback)
        with self._lock:
            batches = self._calls.get(callback.parallel_call_id)
            if batches is None:
                batches = self._calls[callback.parallel_call_id] = self._begun(callback.parallel)
        batches.add(batch)
        return batch

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, out: Batch) -> list[Any]:
        return out.result()

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Entered once a first part, or all, was dispatched."""
        for batches in self._known():
            batches.flush()
        yield

    def stop_call(self) -> None:
        with self._lock:
            self._calls = {call: batches for call, batches in self._calls.items() if batches.busy}

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """A call failed, was interrupted, or its results are not wanted any more: end what is left of it."""
        for batches in self._known():
            if batches.unwanted():
                batches.cancel()
        self.stop_call()

    def get_nested_backend(self) -> tuple[Any, None]:
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None  # workers choose their own

    # inside

    def _known(self) -> list[Batches]:
        with self._lock:
            return list(self._calls.values())

    def _begun(self, parallel: Any) -> Batches:
        from ._joblib.batches import Batches
        from ._worker.parallel import ParallelCall

        caller = self._executor._caller
        jobs = self.effective_n_jobs(parallel.n_jobs)
        cores = caller.capacity.resources()["threads"] or 1
        run = ParallelCall(cores, self.inner_max_num_threads, self._mapped_bytes[parallel])
        known = weakref.ref(parallel)

        def unwanted() -> bool:
            parallel = known()
            return parallel is None or parallel._aborting

        at_once = jobs if jobs < caller.capacity.at_once else None
        return Batches(caller, run, unwanted, jobs, at_once, gather=parallel.batch_size == "auto")
