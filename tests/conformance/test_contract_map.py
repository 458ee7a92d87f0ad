"""map, as any executor of the standard library has it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Executor
from typing import Any

import conformance_calls as calls
import pytest
from conformance_helpers import Gate, lines_of


class TestMap:
    @pytest.mark.parametrize("chunksize", [1, 3, 100])
    def test_gives_results_in_order_for_any_chunk_size(self, shared: Executor, chunksize: int) -> None:
        assert list(shared.map(calls.square, range(10), chunksize=chunksize)) == [x * x for x in range(10)]

    def test_stops_with_the_shortest_of_several_iterables(self, shared: Executor) -> None:
        assert list(shared.map(pow, range(2, 9), [3, 2, 1], itertools.repeat(5))) == [3, 4, 4]

    def test_of_nothing_is_nothing(self, shared: Executor) -> None:
        assert list(shared.map(calls.square, [])) == []
        assert list(shared.map(calls.square, iter([]), chunksize=3)) == []

    def test_takes_a_generator(self, shared: Executor) -> None:
        assert list(shared.map(calls.square, (x for x in (3, 1, 2)))) == [9, 1, 4]

    def test_submits_without_being_iterated(self, shared: Executor, log: str) -> None:
        results = shared.map(calls.note, [log] * 3, range(3))
        last = shared.submit(calls.square, 1)
        list(results)
        last.result()
        assert sorted(lines_of(log)) == ["0", "1", "2"]

    def test_a_stop_iteration_of_the_function_does_not_look_like_the_end(self, shared: Executor) -> None:
        results = shared.map(calls.stop_at_two, range(5))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(results)

    def test_an_error_of_the_iterable_is_the_callers(self, shared: Executor) -> None:
        def broken() -> Iterator[int]:
            yield 1
            raise OSError("the list ends here")

        with pytest.raises(OSError, match="the list ends here"):
            shared.map(calls.square, broken())

    def test_times_out(self, shared: Executor, gate: Gate) -> None:
        results = shared.map(calls.until, [gate.path] * 2, timeout=0.05)
        with pytest.raises(futures.TimeoutError):
            next(results)

    def test_an_exception_ends_it_in_its_place(self, shared: Executor) -> None:
        results = shared.map(calls.invert, [1, 2, 0, 4])
        assert [next(results), next(results)] == [1.0, 0.5]
        with pytest.raises(ZeroDivisionError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)

    def test_an_exception_cancels_what_has_not_started(
        self, make: Callable[..., Executor], log: str, gate: Gate
    ) -> None:
        executor = make()
        results = executor.map(calls.fail_or_wait, range(30), [log] * 30, [gate.path] * 30, chunksize=1)
        assert next(results) == 0
        with pytest.raises(LookupError):
            next(results)
        gate.open()
        executor.shutdown()
        assert 2 <= len(lines_of(log)) < 30

    def test_closing_it_cancels_what_has_not_started(self, make: Callable[..., Executor], log: str, gate: Gate) -> None:
        executor = make()
        items = [0, *range(2, 31)]
        results: Any = executor.map(calls.fail_or_wait, items, [log] * 30, [gate.path] * 30, chunksize=1)
        assert next(results) == 0
        results.close()
        gate.open()
        executor.shutdown()
        assert 1 <= len(lines_of(log)) < 30


class TestBuffersize:
    """New in Python 3.14; ours has it on all versions."""

    @pytest.fixture
    def buffered(self, kind: str, shared: Executor) -> Executor:
        if kind == "threads" and sys.version_info < (3, 14):
            pytest.skip("the standard library has no buffersize before Python 3.14")
        return shared

    def test_takes_no_more_than_that_ahead(self, buffered: Any) -> None:
        taken: list[int] = []

        def endless() -> Iterator[int]:
            for number in itertools.count():
                taken.append(number)
                yield number

        results = buffered.map(calls.square, endless(), buffersize=3)
        assert len(taken) == 3
        assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
        assert len(taken) <= 8
        results.close()

    def test_gives_all_results_of_a_finite_iterable(self, buffered: Any) -> None:
        assert list(buffered.map(calls.square, range(7), buffersize=2)) == [x * x for x in range(7)]
        assert list(buffered.map(calls.square, range(7), buffersize=50)) == [x * x for x in range(7)]

    def test_must_be_positive(self, buffered: Any) -> None:
        with pytest.raises(ValueError, match="buffersize must be None or > 0"):
            buffered.map(calls.square, [1], buffersize=0)
