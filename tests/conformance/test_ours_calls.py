"""What only BatchExecutor promises of single calls: their errors, output, times, random numbers, processes."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from concurrent import futures
from concurrent.futures import BrokenExecutor

import conformance_calls as calls
import pytest
from conformance_helpers import Gate, eventually, lines_of

from batchexec import BatchExecutor, BatchFuture, errors


class TestErrors:
    def test_carry_the_remote_traceback_as_their_cause(self, batch: BatchExecutor) -> None:
        error = batch.submit(calls.fail, "gone").exception()
        assert isinstance(error, LookupError)
        assert isinstance(error.__cause__, errors.RemoteTraceback)
        text = str(error.__cause__)
        assert "in fail" in text
        assert "raise LookupError(text, 42)" in text
        assert "batchexec/_worker" not in text, "the worker's own frames are nobody's business"

    def test_name_the_call(self, batch: BatchExecutor) -> None:
        error = batch.submit(calls.fail, "gone").exception()
        assert error is not None
        assert "fail('gone')" in str(error.__cause__)
        if hasattr(error, "__notes__"):
            assert error.__notes__ == ["in fail('gone')"]

    def test_that_cannot_be_pickled_arrive_as_text(self, batch: BatchExecutor) -> None:
        class Odd(Exception):
            def __init__(self) -> None:
                super().__init__("an odd one")
                self.lock = threading.Lock()

        def fail_oddly() -> None:
            raise Odd

        error = batch.submit(fail_oddly).exception()
        assert isinstance(error, errors.RemoteError)
        assert "Odd" in error.type_name
        assert error.text == "an odd one"
        assert "in fail_oddly" in error.traceback_text

    def test_leaving_by_sys_exit_is_an_error_of_the_call_only(self, batch: BatchExecutor) -> None:
        def leave() -> None:
            raise SystemExit(3)

        assert isinstance(batch.submit(leave).exception(), errors.RemoteExit)
        assert batch.submit(calls.square, 2).result() == 4

    def test_what_cannot_be_pickled_is_told_through_the_future(self, batch: BatchExecutor) -> None:
        lock = threading.Lock()
        assert isinstance(batch.submit(lambda: lock).exception(), errors.PicklingError)
        assert isinstance(batch.submit(calls.capture, lock).exception(), errors.PicklingError)
        assert isinstance(batch.submit(threading.Lock).exception(), errors.ResultPicklingError)

    def test_of_a_cached_function_of_the_script_say_where_to_have_it(
        self, batch: BatchExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def kept() -> int:
            return 1

        kept.__module__, kept.__qualname__ = "__main__", "kept"
        monkeypatch.setattr(sys.modules["__main__"], "kept", functools.cache(kept), raising=False)
        error = batch.submit(sys.modules["__main__"].kept).exception(20)
        assert isinstance(error, errors.PayloadError)
        assert "'kept' on <module '__main__'" in str(error)
        assert "have it in a module and import it" in str(error)


class TestFuture:
    def test_knows_its_task(self, batch: BatchExecutor) -> None:
        future = batch.submit(calls.square, 2)
        assert isinstance(future, BatchFuture)
        future.result()
        assert future.task_id is not None
        assert future.task_id.startswith("c")

    def test_keeps_what_the_call_printed(self, batch: BatchExecutor) -> None:
        future = batch.submit(calls.say, "cheese")
        assert (future.stdout(), future.stderr()) == ("", "")
        future.result()
        assert (future.stdout(), future.stderr()) == ("say cheese\n", "complain cheese\n")

    def test_keeps_the_last_64_kb_of_it(self, batch: BatchExecutor) -> None:
        future = batch.submit(lambda: print("x" * 200_000, "end"))
        future.result()
        assert len(future.stdout()) == 64 * 1024
        assert future.stdout().endswith("x end\n")

    def test_tells_where_the_time_went(self, batch: BatchExecutor) -> None:
        future = batch.submit(time.sleep, 0.05)
        assert future.timing is None
        future.result()
        timing = future.timing
        assert timing is not None
        assert 0.05 <= timing.run <= timing.total < 5
        assert timing.queued >= 0
        assert timing.load >= 0
        assert timing.peak_memory is None or 5e6 < timing.peak_memory < 5e9

    def test_can_run_its_call_here(self, batch: BatchExecutor) -> None:
        future = batch.submit(calls.who)
        assert future.result()[0] != os.getpid()
        assert future.rerun_locally() == (os.getpid(), threading.get_ident())
        bad = batch.submit(calls.fail, "again")
        with pytest.raises(LookupError, match="again"):
            bad.rerun_locally()


class TestCallables:
    def test_lambdas_closures_and_objects(self, batch: BatchExecutor) -> None:
        factor = 3

        def times(x: int) -> int:
            return factor * x

        counter = calls.Counter(10)
        some = [batch.submit(call, 2) for call in (lambda x: x + 1, times, counter.plus, counter, str)]
        assert [future.result() for future in some] == [3, 6, 12, 20, "2"]

    def test_each_call_has_a_process_of_its_own(self, batch: BatchExecutor) -> None:
        pids = list(batch.map(calls.pid, range(4), chunksize=1))
        assert len({os.getpid(), *pids}) == 5
        assert len(set(batch.map(calls.pid, range(4), chunksize=4))) == 1

    def test_results_of_some_megabytes_come_back(self, batch: BatchExecutor) -> None:
        results = [batch.submit(os.urandom, size) for size in (0, 1, 6_000_000)]
        assert [len(future.result()) for future in results] == [0, 1, 6_000_000]


class TestRandomNumbers:
    def test_differ_between_tasks(self, batch: BatchExecutor) -> None:
        draws = list(batch.map(calls.draw, range(3), chunksize=1))
        assert len({first for first, _ in draws}) == 3
        assert len({second for _, second in draws}) == 3

    def test_with_a_seed_are_the_same_for_each_item_however_it_runs(self) -> None:
        with BatchExecutor(max_workers=2, seed=7) as one_by_one:
            expected = list(one_by_one.map(calls.draw, range(5), chunksize=1))
        assert len(set(expected)) == 5
        with BatchExecutor(max_workers=2, seed=7) as in_threes:
            assert list(in_threes.map(calls.draw, range(5), chunksize=3)) == expected
        with BatchExecutor(max_workers=2, seed=7) as submitting:
            some = [submitting.submit(calls.draw) for _ in range(5)]
            assert [future.result() for future in some] == expected
            assert [future.rerun_locally() for future in reversed(some)] == expected[::-1]
        with BatchExecutor(where="inline", seed=7) as inline:
            assert list(inline.map(calls.draw, range(5))) == expected
        with BatchExecutor(max_workers=2, seed=8) as other:
            assert other.submit(calls.draw).result() not in expected

    def test_running_a_seeded_call_here_leaves_our_own_state_alone(self) -> None:
        import random

        with BatchExecutor(where="inline", seed=7) as inline:
            random.seed(1)
            first = random.random()
            random.seed(1)
            inline.submit(calls.draw).rerun_locally()
            assert random.random() == first


class TestCallbacks:
    def test_one_that_blocks_hinders_nothing_else(self, batch: BatchExecutor) -> None:
        release, entered = threading.Event(), threading.Event()

        def block(_: object) -> None:
            entered.set()
            release.wait(30)

        try:
            batch.submit(calls.square, 1).add_done_callback(block)
            some = [batch.submit(calls.square, x) for x in range(6)]
            assert [future.result(timeout=10) for future in some] == [x * x for x in range(6)]
            assert entered.wait(10)
            assert list(batch.map(calls.square, range(6), timeout=10)) == [x * x for x in range(6)]
        finally:
            release.set()


class TestSlots:
    def test_calls_start_in_the_order_of_their_submission(self, log: str) -> None:
        with BatchExecutor(max_workers=1) as executor:
            for number in range(8):
                executor.submit(calls.note, log, number)
        assert lines_of(log) == [str(number) for number in range(8)]

    def test_no_more_run_at_once_than_there_are_workers(self, log: str, gate: Gate) -> None:
        with BatchExecutor(max_workers=2) as executor, gate.opened_at_the_end():
            some = [executor.submit(calls.note_and_wait, log, number, gate.path) for number in range(6)]
            eventually(lambda: len(lines_of(log)) >= 2)
            eventually(lambda: sum(future.running() for future in some) >= 2)
            assert [future.running() for future in some] == [True, True, False, False, False, False]
            assert len(lines_of(log)) == 2
            gate.open()
            assert [future.result() for future in some] == list(range(6))


class TestTerminateWorkers:
    def test_ends_running_calls_and_fails_their_futures(self, log: str, gate: Gate) -> None:
        executor = BatchExecutor(max_workers=2)
        some = [executor.submit(calls.note_pid_and_wait, log, gate.path) for _ in range(4)]
        eventually(lambda: len(lines_of(log)) == 2)
        executor.terminate_workers()
        assert futures.wait(some, timeout=10).not_done == set()
        for future in some:
            assert isinstance(future.exception(), errors.BrokenBatchExecutor)
        with pytest.raises((RuntimeError, BrokenExecutor)):
            executor.submit(calls.square, 2)
        executor.shutdown()
        eventually(lambda: not any(_alive(int(pid)) for pid in lines_of(log)))
        assert len(lines_of(log)) == 2, "the others never started"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
