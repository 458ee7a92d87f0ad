"""submit, wait, as_completed, asyncio, callbacks and cancellation, as any executor of the standard library has them."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent import futures
from concurrent.futures import CancelledError, Executor, Future
from typing import Any

import conformance_calls as calls
import pytest
from conformance_helpers import Gate, eventually


class TestSubmit:
    def test_gives_a_future_of_the_result(self, shared: Executor) -> None:
        future = shared.submit(calls.square, 7)
        assert isinstance(future, Future)
        assert future.result() == 49
        assert future.done()
        assert future.exception() is None

    def test_passes_keywords_on_even_those_it_could_take_for_its_own(self, shared: Executor) -> None:
        future = shared.submit(calls.capture, 1, fn=2, self=3, args=4, timeout=5)
        assert future.result() == ((1,), {"fn": 2, "self": 3, "args": 4, "timeout": 5})

    def test_needs_a_callable(self, shared: Executor) -> None:
        with pytest.raises(TypeError):
            shared.submit(fn=calls.square)  # type: ignore[call-arg]

    def test_an_exception_arrives_with_type_and_arguments(self, shared: Executor) -> None:
        future = shared.submit(calls.fail, "nothing here")
        with pytest.raises(LookupError) as caught:
            future.result()
        assert type(caught.value) is LookupError
        assert caught.value.args == ("nothing here", 42)
        assert future.exception() is caught.value

    def test_result_can_time_out_and_come_later(self, shared: Executor, gate: Gate) -> None:
        future = shared.submit(calls.until, gate.path, "late")
        with pytest.raises(futures.TimeoutError):
            future.result(timeout=0.01)
        gate.open()
        assert future.result() == "late"

    def test_many_threads_may_submit_at_once(self, shared: Executor) -> None:
        results: dict[int, list[int]] = {}

        def submit_some(thread: int) -> None:
            mine = [shared.submit(calls.square, 10 * thread + i) for i in range(5)]
            results[thread] = [future.result() for future in mine]

        threads = [threading.Thread(target=submit_some, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {n: [(10 * n + i) ** 2 for i in range(5)] for n in range(8)}


class TestWait:
    def test_for_all(self, shared: Executor) -> None:
        some = [shared.submit(calls.square, 3), shared.submit(calls.fail, "x")]
        done, not_done = futures.wait(some)
        assert (done, not_done) == (set(some), set())

    def test_for_the_first(self, shared: Executor, gate: Gate) -> None:
        fast, slow = shared.submit(calls.square, 3), shared.submit(calls.until, gate.path)
        done, not_done = futures.wait([fast, slow], return_when=futures.FIRST_COMPLETED)
        assert (done, not_done) == ({fast}, {slow})

    def test_for_the_first_exception(self, shared: Executor, gate: Gate) -> None:
        bad, slow = shared.submit(calls.fail, "x"), shared.submit(calls.until, gate.path)
        done, not_done = futures.wait([bad, slow], return_when=futures.FIRST_EXCEPTION)
        assert (done, not_done) == ({bad}, {slow})

    def test_no_longer_than_the_timeout(self, shared: Executor, gate: Gate) -> None:
        slow = shared.submit(calls.until, gate.path)
        assert futures.wait([slow], timeout=0.05) == (set(), {slow})

    def test_as_completed_gives_them_as_they_end(self, shared: Executor, gate: Gate) -> None:
        slow, fast = shared.submit(calls.until, gate.path, "slow"), shared.submit(calls.square, 3)
        order = []
        for future in futures.as_completed([slow, fast]):
            order.append(future.result())
            gate.open()
        assert order == [9, "slow"]

    def test_as_completed_can_time_out(self, shared: Executor, gate: Gate) -> None:
        slow = shared.submit(calls.until, gate.path)
        with pytest.raises(futures.TimeoutError, match=r"1 \(of 1\) futures unfinished"):
            list(futures.as_completed([slow], timeout=0.05))


class TestAsyncio:
    def test_a_future_can_be_awaited(self, shared: Executor) -> None:
        async def main() -> list[int]:
            wrapped = [asyncio.wrap_future(shared.submit(calls.square, x)) for x in range(4)]
            return await asyncio.gather(*wrapped)

        assert asyncio.run(main()) == [0, 1, 4, 9]

    def test_a_loop_can_run_its_calls_there(self, shared: Executor) -> None:
        async def main() -> tuple[int, BaseException]:
            loop = asyncio.get_running_loop()
            good = loop.run_in_executor(shared, calls.square, 5)
            bad = loop.run_in_executor(shared, calls.fail, "x")
            value, error = await asyncio.gather(good, bad, return_exceptions=True)
            return value, error  # type: ignore[return-value]

        value, error = asyncio.run(main())
        assert value == 25
        assert isinstance(error, LookupError)

    def test_cancelling_the_task_cancels_the_future(self, shared: Executor, gate: Gate) -> None:
        blocking = [shared.submit(calls.until, gate.path) for _ in range(2)]
        waiting = shared.submit(calls.square, 2)

        async def main() -> None:
            wrapped = asyncio.wrap_future(waiting)
            wrapped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wrapped

        asyncio.run(main())
        assert waiting.cancelled()
        gate.open()
        futures.wait(blocking)


class TestCallbacks:
    def test_are_called_with_the_future(self, shared: Executor, gate: Gate) -> None:
        called = threading.Event()
        seen: list[Future[Any]] = []
        future = shared.submit(calls.until, gate.path)
        future.add_done_callback(seen.append)
        future.add_done_callback(lambda _: called.set())
        gate.open()
        assert called.wait(20)
        assert seen == [future]

    def test_are_called_at_once_when_it_is_done(self, shared: Executor) -> None:
        future = shared.submit(calls.square, 2)
        future.result()
        seen: list[Future[int]] = []
        future.add_done_callback(seen.append)
        assert seen == [future]

    def test_exceptions_in_them_are_logged_and_stop_nothing(
        self, shared: Executor, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        later = threading.Event()
        future = shared.submit(calls.until, gate.path)
        future.add_done_callback(lambda _: [][0])
        future.add_done_callback(lambda _: later.set())
        with caplog.at_level(logging.ERROR, logger="concurrent.futures"):
            gate.open()
            assert later.wait(20)
        assert "exception calling callback" in caplog.text
        assert shared.submit(calls.square, 3).result() == 9

    def test_may_submit(self, shared: Executor) -> None:
        chained: Future[int] = Future()

        def submit_next(done: Future[int]) -> None:
            following = shared.submit(calls.square, done.result())
            following.add_done_callback(lambda last: chained.set_result(last.result()))

        shared.submit(calls.square, 3).add_done_callback(submit_next)
        assert chained.result(timeout=20) == 81


class TestCancel:
    def test_a_running_call_is_seen_and_cannot_be_cancelled(self, shared: Executor, gate: Gate) -> None:
        future = shared.submit(calls.until, gate.path, "done")
        eventually(future.running)
        assert not future.cancel()
        assert not future.cancelled()
        gate.open()
        assert future.result() == "done"
        assert not future.cancel()

    def test_a_pending_call_can_be_and_counts_as_done(self, shared: Executor, gate: Gate) -> None:
        blocking = [shared.submit(calls.until, gate.path) for _ in range(2)]
        waiting = shared.submit(calls.square, 2)
        called = threading.Event()
        waiting.add_done_callback(lambda _: called.set())
        assert waiting.cancel()
        assert waiting.cancel(), "a second time too"
        assert waiting.cancelled()
        assert called.is_set()
        gate.open()
        assert futures.wait([waiting], timeout=20).done == {waiting}
        assert list(futures.as_completed([waiting], timeout=0)) == [waiting]
        with pytest.raises(CancelledError):
            waiting.result()
        futures.wait(blocking)
