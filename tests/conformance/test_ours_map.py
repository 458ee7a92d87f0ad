"""What only BatchExecutor promises of map: items fail one by one, output by item, data uploaded once, few requests."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import conformance_calls as calls
import numpy
import pytest

from batchexec import BatchExecutor, errors


def blobs(executor: BatchExecutor, prefix: str) -> list[str]:
    """Names of the executor's blobs below a prefix."""
    engine: Any = executor._engine
    return asyncio.run_coroutine_threadsafe(engine.session.store.names(prefix), engine.board._loop).result(20)  # type: ignore[no-any-return]


class TestItems:
    @pytest.mark.parametrize("chunksize", [1, 2, 5])
    def test_one_failing_loses_no_neighbour(self, batch: BatchExecutor, chunksize: int) -> None:
        results = list(batch.map(calls.invert, [1, 0, 2, 0, 4], chunksize=chunksize, return_exceptions=True))
        assert [type(result) for result in results] == [float, ZeroDivisionError, float, ZeroDivisionError, float]
        assert [result for result in results if isinstance(result, float)] == [1.0, 0.5, 0.25]

    def test_failing_tell_their_index_and_arguments(self, batch: BatchExecutor) -> None:
        results: list[Any] = list(batch.map(calls.invert, [1, 2, 3, 4, 0], chunksize=3, return_exceptions=True))
        error = results[4]
        assert "item 4: invert(0)" in str(error.__cause__)
        assert "in invert" in str(error.__cause__)
        if sys.version_info >= (3, 11):
            assert error.__notes__ == ["in item 4: invert(0)"]

    def test_that_cannot_be_pickled_fail_alone(self, batch: BatchExecutor) -> None:
        unpicklable = (x for x in ())
        results: list[Any] = list(batch.map(calls.capture, [1, unpicklable, 3], chunksize=3, return_exceptions=True))
        assert [results[0], results[2]] == [((1,), {}), ((3,), {})]
        assert isinstance(results[1], errors.PicklingError)

    def test_results_that_cannot_be_pickled_fail_alone(self, batch: BatchExecutor) -> None:
        def odd(x: int) -> object:
            return (y for y in ()) if x == 1 else x

        results = list(batch.map(odd, range(3), chunksize=3, return_exceptions=True))
        assert [results[0], results[2]] == [0, 2]
        assert isinstance(results[1], errors.ResultPicklingError)

    def test_a_dying_process_fails_its_chunk_as_a_typed_error(self, batch: BatchExecutor) -> None:
        import os

        with pytest.raises(errors.WorkerCrashedError, match="exit code 3"):
            list(batch.map(lambda code: os._exit(code), [3]))


class TestChunksize:
    @pytest.mark.parametrize("chunksize", [0, -1])
    def test_must_be_positive(self, batch: BatchExecutor, chunksize: int) -> None:
        with pytest.raises(ValueError, match=r"chunksize must be >= 1"):
            batch.map(calls.square, [1], chunksize=chunksize)

    def test_items_of_a_chunk_share_a_process(self, batch: BatchExecutor) -> None:
        pids = list(batch.map(calls.pid, range(7), chunksize=3))
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]

    def test_default_gives_each_worker_a_few_chunks(self, batch: BatchExecutor) -> None:
        pids = list(batch.map(calls.pid, range(80)))
        assert 2 <= len(set(pids)) <= 16


class TestReturnExceptions:
    def test_works_with_a_buffer(self, batch: BatchExecutor) -> None:
        results = list(batch.map(calls.invert, [1, 0, 2], buffersize=1, return_exceptions=True))
        assert [results[0], results[2]] == [1.0, 0.5]
        assert isinstance(results[1], ZeroDivisionError)


@pytest.mark.here
class TestEcho:
    def test_shows_output_with_the_item_before_each_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        with BatchExecutor(max_workers=1, echo=True) as executor:
            list(executor.map(calls.say, ["a", "b\nc", "d"], chunksize=2))
        captured = capsys.readouterr()
        # The last chunk has one item only, and what it prints needs no prefix.
        assert captured.out == "[0] say a\n[1] say b\n[1] c\nsay d\n"
        assert captured.err == "[0] complain a\n[1] complain b\n[1] c\ncomplain d\n"

    def test_is_the_default_here_and_can_be_switched_off(self, capsys: pytest.CaptureFixture[str]) -> None:
        with BatchExecutor(max_workers=1) as executor:
            executor.submit(calls.say, "a").result()
        assert capsys.readouterr().out == "say a\n"
        with BatchExecutor(max_workers=1, echo=False) as executor:
            executor.submit(calls.say, "a").result()
        assert capsys.readouterr().out == ""


class TestData:
    def test_a_large_array_shared_by_items_is_uploaded_once(self) -> None:
        array = numpy.arange(2_500_000, dtype=float)  # 20 MB
        with BatchExecutor(max_workers=2) as executor:
            results = list(executor.map(calls.mean_and_writable, [array] * 8, range(8), chunksize=1))
            assert results == [(float(item), 2_500_000) for item in range(8)]
            assert len(blobs(executor, "data/")) == 1

    def test_a_large_array_comes_back_equal(self, batch: BatchExecutor) -> None:
        result = batch.submit(numpy.arange, 500_000).result()
        assert (result == numpy.arange(500_000)).all()


class TestRequests:
    def test_submits_made_one_after_another_travel_together(self) -> None:
        with BatchExecutor(max_workers=2) as executor:
            executor.submit(calls.square, 0).result()
            before = len(blobs(executor, "in/"))
            some = [executor.submit(calls.square, x) for x in range(60)]
            assert [future.result() for future in some] == [x * x for x in range(60)]
            assert len(blobs(executor, "in/")) - before <= 12

    def test_chunks_of_a_map_travel_together(self) -> None:
        with BatchExecutor(max_workers=2) as executor:
            list(executor.map(calls.square, range(60), chunksize=1))
            assert len(blobs(executor, "in/")) == 1
            assert executor.stats().chunks == 60
            assert executor.stats().items == 60

    def test_none_are_made_while_nothing_is_pending(self) -> None:
        with BatchExecutor(max_workers=1) as executor:
            executor.submit(calls.square, 0).result()
            blobs(executor, "in/")  # whatever was under way is over
            before = executor.stats().requests
            asyncio.run(asyncio.sleep(0.2))
            assert executor.stats().requests - before <= 1
