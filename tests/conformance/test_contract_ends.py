"""How executors begin and end: arguments, initializers, shutdown, context managers, garbage."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import BrokenExecutor, Executor

import conformance_calls as calls
import pytest
from conformance_helpers import KINDS, Gate, eventually

Make = Callable[..., Executor]


class TestArguments:
    @pytest.mark.parametrize("number", [0, -1])
    def test_no_fewer_than_one_worker(self, kind: str, number: int) -> None:
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            KINDS[kind](max_workers=number)
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            KINDS[kind](number)

    def test_the_number_of_workers_may_come_first(self, kind: str) -> None:
        with KINDS[kind](1) as executor:
            assert executor.submit(calls.square, 2).result() == 4

    def test_the_initializer_must_be_callable(self, kind: str) -> None:
        with pytest.raises(TypeError, match="initializer must be a callable"):
            KINDS[kind](initializer="calls.initialise")


class TestInitializer:
    def test_runs_before_the_calls(self, make: Make) -> None:
        executor = make(initializer=calls.initialise, initargs=("ready",))
        assert executor.submit(calls.state).result() == "ready"
        assert list(executor.map(calls.state, range(4))) == ["ready"] * 4

    def test_its_failure_breaks_the_executor(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.CRITICAL, logger="concurrent.futures")
        executor = make(initializer=calls.fail_to_initialise)
        future = executor.submit(calls.square, 1)
        with pytest.raises(BrokenExecutor):
            future.result()

        def refused() -> bool:
            try:
                executor.submit(calls.square, 2)
            except BrokenExecutor:
                return True
            return False

        eventually(refused)
        assert "no licence" in caplog.text


class TestShutdown:
    def test_waits_for_the_work(self, make: Make) -> None:
        executor = make()
        some = [executor.submit(calls.square, x) for x in range(6)]
        executor.shutdown()
        assert all(future.done() for future in some)
        assert [future.result() for future in some] == [x * x for x in range(6)]

    def test_without_waiting_the_work_is_done_all_the_same(self, make: Make, gate: Gate) -> None:
        executor = make()
        some = [executor.submit(calls.until, gate.path, x) for x in range(3)]
        executor.shutdown(wait=False)
        assert not any(future.done() for future in some)
        gate.open()
        assert [future.result(timeout=20) for future in some] == [0, 1, 2]

    def test_can_cancel_what_has_not_started(self, make: Make, gate: Gate) -> None:
        executor = make()
        some = [executor.submit(calls.until, gate.path, x) for x in range(10)]
        eventually(some[0].running)
        executor.shutdown(wait=False, cancel_futures=True)
        gate.open()
        executor.shutdown()
        assert some[0].result() == 0
        assert all(future.done() for future in some)
        assert sum(future.cancelled() for future in some) >= 8

    def test_nothing_can_be_submitted_afterwards(self, make: Make) -> None:
        executor = make()
        executor.shutdown()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(calls.square, 2)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.map(calls.square, [2])

    def test_can_be_called_again(self, make: Make) -> None:
        executor = make()
        executor.submit(calls.square, 2)
        executor.shutdown()
        executor.shutdown(wait=False)
        executor.shutdown(cancel_futures=True)

    def test_works_with_nothing_ever_submitted(self, make: Make) -> None:
        make().shutdown()


class TestContextManager:
    def test_waits_at_its_end(self, make: Make) -> None:
        with make() as executor:
            future = executor.submit(calls.square, 3)
        assert future.done()
        assert future.result() == 9

    def test_an_exception_in_the_block_passes_and_the_work_is_done(self, make: Make) -> None:
        some = []

        def block() -> None:
            with make() as executor:
                some.append(executor.submit(calls.square, 3))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            block()
        assert some[0].result(timeout=0) == 9


class TestGarbage:
    def test_futures_of_a_dropped_executor_resolve(self, kind: str, gate: Gate) -> None:
        executor = KINDS[kind](max_workers=2)
        some = [executor.submit(calls.until, gate.path, x) for x in range(4)]
        results = executor.map(calls.square, range(4))
        del executor
        gc.collect()
        gate.open()
        assert futures.wait(some, timeout=20).not_done == set()
        assert [future.result() for future in some] == [0, 1, 2, 3]
        assert list(results) == [0, 1, 4, 9]
