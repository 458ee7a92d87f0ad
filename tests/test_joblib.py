"""The joblib backend: `Parallel` and what is built on it, on an executor; as with loky, and each array moved once."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import weakref
from collections.abc import Iterator
from operator import neg
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from helpers_parallel import change, draw, fail_beside, process, sleep_as, span, threads, total, within
from helpers_scripts import Script
from helpers_service import Account, processes_of, service, until
from joblib import Parallel, delayed, parallel_config
from scipy import sparse

import batchexec.joblib
from batchexec import BatchExecutor, errors
from batchexec._joblib import batches
from batchexec._joblib.shares import size

SLOTS = 2


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with service() as account:
        account.fixed_pool(slots=SLOTS)
        yield account


@pytest.fixture(scope="module")
def executor(account: Account) -> Iterator[BatchExecutor]:
    batchexec.joblib.register()
    with BatchExecutor(**account.settings, pool_id="fixed", max_workers=SLOTS) as executor:
        yield executor


@pytest.fixture
def ex(executor: BatchExecutor) -> Iterator[BatchExecutor]:
    """An executor that joblib uses."""
    with parallel_config("azure_batch", executor=executor):
        yield executor


class Puts:
    """Counts uploads to the account by what the blobs' names begin with. Calls go out when joblib has given all of
    them, as they do where that takes a moment."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Puts:
        self._patch.setattr(batches, "_GATHER_SECONDS", 60)
        match = {"service": "blob", "method": "PUT"}
        kinds = ("code", "data")  # what is shared, large buffers
        self._account.arm(*({"kind": "delay", "seconds": 0, "match": {**match, "blob": f"{k}/*"}} for k in kinds))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
        self._account.disarm()

    @property
    def count(self) -> int:
        return sum(fault["fired"] for fault in self._account.faults())


def test_results_come_in_order_from_other_processes(ex: BatchExecutor) -> None:
    for n_jobs in (None, 2):
        found = Parallel(n_jobs=n_jobs, pre_dispatch="all")(delayed(process)(number) for number in range(5))
        assert [number for number, _ in found] == list(range(5))
        assert os.getpid() not in {pid for _, pid in found}
    assert joblib.effective_n_jobs() == joblib.effective_n_jobs(-1) == SLOTS
    assert Parallel(n_jobs=1)(delayed(process)(number) for number in range(2)) == [(0, os.getpid()), (1, os.getpid())]


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X, y


def scores(results: dict[str, Any]) -> dict[str, Any]:
    """What a search found, without the times that it took."""
    return {name: list(values) for name, values in results.items() if not name.endswith("_time")}


@pytest.mark.slow
def test_a_grid_search_is_that_of_this_process(ex: BatchExecutor, digits: tuple[Any, Any]) -> None:
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.svm import SVC

    X, y = (part[:500] for part in digits)
    grid = {"C": [0.1, 1.0], "gamma": [0.001, 0.1]}
    ours = GridSearchCV(SVC(), grid, cv=3).fit(X, y)
    here = GridSearchCV(SVC(), grid, cv=3, n_jobs=1).fit(X, y)
    assert scores(ours.cv_results_) == scores(here.cv_results_)
    assert list(cross_val_score(SVC(), X, y)) == list(cross_val_score(SVC(), X, y, n_jobs=1))


@pytest.mark.slow
def test_a_grid_search_over_the_digits_is_that_of_loky(
    account: Account, ex: BatchExecutor, digits: tuple[Any, Any]
) -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    svc = {"C": [0.1, 10.0], "gamma": [1e-3, 1e-2]}
    forest = {"n_estimators": [5, 10]}
    for model, grid in ((SVC(), svc), (RandomForestClassifier(random_state=np.random.RandomState(1)), forest)):
        with Puts(account) as puts:
            ours = GridSearchCV(model, grid, cv=3).fit(*digits)
            # X and y; the best forest is fitted by parallel calls too, to an X and y of its own.
            assert puts.count == 2
        with parallel_config("loky", n_jobs=2):
            lokys = GridSearchCV(model, grid, cv=3).fit(*digits)
        assert scores(ours.cv_results_) == scores(lokys.cv_results_)


def test_results_as_generators(ex: BatchExecutor) -> None:
    ordered = Parallel(return_as="generator")(delayed(neg)(n) for n in range(5))
    chained = Parallel(return_as="generator")(delayed(abs)(n) for n in ordered)
    assert next(chained) == 0
    assert list(chained) == list(range(1, 5))
    assert sorted(Parallel(return_as="generator_unordered")(delayed(neg)(n) for n in range(5))) == list(range(-4, 1))


def endless() -> Iterator[Any]:
    while True:
        yield delayed(neg)(1)


def test_a_generator_of_results_takes_an_endless_iterator(ex: BatchExecutor) -> None:
    results = Parallel(return_as="generator")(endless())
    assert [next(results) for _ in range(3)] == [-1, -1, -1]
    with pytest.warns(UserWarning, match="not used|cancelled"):
        results.close()


def test_arrays_that_many_calls_use_are_uploaded_once(account: Account, ex: BatchExecutor) -> None:
    X, y = np.random.default_rng(0).random((2000, 20)), np.arange(2000.0)
    large = np.ones(300_000)  # more than a buffer of its own
    splits = [np.arange(1500) + start for start in (0, 100)]
    before = ex.stats().chunks

    def search() -> list[float]:
        return Parallel()(delayed(total)(X, y=y, train=train, number=n) for n in range(3) for train in splits)

    with Puts(account) as puts:
        expected = [total(X, y, train, n) for n in range(3) for train in splits]
        assert search() == expected
        assert ex.stats().chunks - before > 4
        assert puts.count == 4
        assert search() == expected
        assert puts.count == 4
        Parallel()(delayed(np.sum)(large, keepdims=n > 0) for n in range(4))
        assert puts.count == 5


def test_sizes_are_those_of_the_data() -> None:
    array = np.zeros((100, 100))
    assert size(array) == size(memoryview(array)) == 80_000
    assert size(sparse.csr_matrix(np.ones((100, 100)))) >= 80_000
    assert size(["text"] * 2000) >= 16_000
    assert size(b"x" * 20_000) >= 20_000
    assert size(sparse.dok_matrix((3, 3))) == 0  # does not tell


def test_objects_are_not_mixed_up_or_kept_when_they_go(ex: BatchExecutor) -> None:
    refs: list[weakref.ref[Any]] = []

    def arrays() -> Iterator[Any]:
        for number in range(6):
            array = np.full(5000, number)
            refs.append(weakref.ref(array))
            yield delayed(np.mean)(array)
            yield delayed(np.mean)(array)

    assert Parallel(pre_dispatch=4)(arrays()) == [n for n in range(6) for _ in range(2)]

    def alive() -> list[Any]:
        gc.collect()
        return [ref for ref in refs if ref() is not None]

    assert len(refs) == 6
    until(alive, lambda found: not found)  # threads let go of what they had at hand


def test_a_call_that_changes_its_arguments_changes_its_own(ex: BatchExecutor) -> None:
    small, large = np.zeros(10_000), np.zeros(200_000)
    assert Parallel(batch_size=4)(delayed(change)(small) for _ in range(8)) == [1.0] * 8
    generator = np.random.RandomState(1)
    assert len(set(Parallel(batch_size=5)(delayed(draw)(generator) for _ in range(10)))) == 1
    with pytest.raises(ValueError, match="read-only"):  # as loky's: a memory map that all share
        Parallel()(delayed(change)(large) for _ in range(2))
    assert Parallel(mmap_mode="c")(delayed(change)(large) for _ in range(2)) == [1.0] * 2
    assert Parallel(max_nbytes=None)(delayed(change)(large) for _ in range(2)) == [1.0] * 2


def test_an_array_mapped_from_a_file_is_moved_once_as_an_array(
    account: Account, ex: BatchExecutor, tmp_path: Path
) -> None:
    np.save(tmp_path / "X.npy", np.ones(200_000))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    with Puts(account) as puts:
        assert Parallel()(delayed(np.sum)(mapped) for _ in range(6)) == [200_000.0] * 6
        assert puts.count == 1
    with pytest.raises(ValueError, match="read-only"):
        Parallel()(delayed(change)(mapped) for _ in range(2))


def test_an_exception_arrives_as_itself_and_the_executor_goes_on(ex: BatchExecutor) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        Parallel()(delayed(divmod)(1, number) for number in (1, 0, 2))
    assert isinstance(raised.value.__cause__, errors.RemoteTraceback)
    assert "in item 1: divmod(1, 0), on node" in str(raised.value.__cause__)
    assert Parallel()([delayed(neg)(1)]) == [-1]


def failing(good: int) -> Iterator[Any]:
    for number in range(good):
        yield delayed(neg)(number)
    raise LookupError("there is no next call")


@pytest.mark.parametrize("good", [0, 1, 5])
@pytest.mark.parametrize("pre_dispatch", ["2*n_jobs", "all"])
def test_an_error_in_making_the_calls_is_raised(ex: BatchExecutor, good: int, pre_dispatch: str) -> None:
    with pytest.raises(LookupError, match="no next call"):
        Parallel(pre_dispatch=pre_dispatch)(failing(good))


class NotPickled:
    def __reduce__(self) -> Any:
        raise TypeError("this stays here")


def test_what_cannot_be_sent_is_an_error_of_the_call(ex: BatchExecutor) -> None:
    with pytest.raises(errors.PicklingError, match="this stays here"):
        Parallel()(delayed(id)(NotPickled()) for _ in range(3))


def test_parallel_calls_within_a_task_keep_to_its_cores(account: Account, ex: BatchExecutor) -> None:
    cores = ex._caller.capacity.resources()["threads"]
    kind = "ThreadingBackend" if cores > 1 else "SequentialBackend"
    assert Parallel()(delayed(within)() for _ in range(2)) == [(kind, cores, True, 2)] * 2


def test_inner_threads_are_those_asked_for(executor: BatchExecutor) -> None:
    with parallel_config("azure_batch", executor=executor, inner_max_num_threads=3):
        assert Parallel()(delayed(threads)() for _ in range(2)) == [{"3", 3}] * 2


def test_n_jobs_and_batch_size_are_kept(account: Account, ex: BatchExecutor) -> None:
    before = ex.stats().chunks
    assert len(Parallel(batch_size=5)(delayed(neg)(n) for n in range(10))) == 10
    assert ex.stats().chunks - before == 2
    account.pool("wide", slots=4)
    with BatchExecutor(**account.settings, pool_id="wide", max_workers=4) as wide:
        with parallel_config("azure_batch", executor=wide):
            spans = Parallel(n_jobs=2)(delayed(span)(0.05) for _ in range(8))
    assert max(sum(start <= at < end for start, end in spans) for at, _ in spans) <= 2


def test_what_is_not_wanted_any_more_is_ended(ex: BatchExecutor, tmp_path: Path) -> None:
    mark = str(tmp_path / "sleeping")
    calls = [delayed(sleep_as)(mark) for _ in range(6)]
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=1)(calls)
    with pytest.raises(ZeroDivisionError):
        Parallel()([delayed(fail_beside)(mark), *calls])
    until(lambda: processes_of(mark), lambda found: not found)
    assert Parallel()([delayed(neg)(1)]) == [-1]


def test_an_executor_of_its_own_goes_with_the_block(account: Account, executor: BatchExecutor) -> None:
    before = account.jobs()
    gc.disable()
    try:
        with parallel_config("azure_batch", **account.settings, pool_id="fixed", max_workers=1):
            assert joblib.effective_n_jobs() == 2  # a single slot, but not this process
            for _ in range(2):
                found = Parallel()(delayed(process)(number) for number in range(4))
                assert os.getpid() not in {pid for _, pid in found}
            assert len(account.jobs()) == len(before) + 1
        until(account.jobs, lambda jobs: jobs == before)
    finally:
        gc.enable()


def test_an_executor_that_takes_no_more_is_an_error(account: Account, executor: BatchExecutor) -> None:
    over = BatchExecutor(**account.settings, pool_id="fixed")
    over.shutdown()
    with parallel_config("azure_batch", executor=over), pytest.raises(RuntimeError, match="after shutdown"):
        Parallel()(delayed(neg)(n) for n in range(3))


def test_an_inline_executor_runs_the_calls_here(executor: BatchExecutor) -> None:
    with parallel_config("azure_batch", executor=BatchExecutor(where="inline")):
        assert Parallel()([delayed(process)(0)]) == [(0, os.getpid())]


def test_what_is_no_executor_is_refused(executor: BatchExecutor) -> None:
    with pytest.raises(TypeError, match="executor must be a BatchExecutor, not int"):
        parallel_config("azure_batch", executor=2)
    with pytest.raises(TypeError, match="max_nodes can be given to BatchExecutor only"):
        parallel_config("azure_batch", executor=executor, max_nodes=3)
    with pytest.raises(errors.ConfigError, match="max_nods"):
        parallel_config("azure_batch", max_nods=3)


INTERRUPTED = """
import batchexec.joblib
from joblib import Parallel, delayed, parallel_config
from scipy import sparse

batchexec.joblib.register()
with parallel_config("azure_batch", max_workers=2):
    Parallel()(delayed(work.sleep_with_family)(started, n) for n in range(4))
"""


@pytest.mark.slow
def test_ctrl_c_ends_all_within_seconds(tmp_path: Path) -> None:
    script = Script(tmp_path, INTERRUPTED)
    script.wait_for("task0", "task1")
    script.send(signal.SIGINT)
    code, _, err = script.end()
    assert code == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    script.leaves_nothing()
