"""Whatever user code, threads and streams of this process do: each future has its end, and so has the executor."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import helpers_hostile as hostile
import helpers_work as work
import pytest
from helpers_service import until

from batchexec import BatchExecutor
from batchexec._engine.results.resolver import Resolver
from batchexec._report.progress import Progress
from batchexec.errors import RemoteError, ResultPicklingError


def within(seconds: float, do: Callable[[], Any]) -> Any:
    """What `do` returns on a thread of its own; fails where that hangs."""
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(do()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert done, "it hangs, or raised"
    return done[0]


def test_a_callback_may_shut_the_executor_down_and_another_wait_for_what_is_behind_it() -> None:
    heard: list[Any] = []

    def run() -> bool:
        with BatchExecutor(max_workers=2, echo=False) as ex:
            ex.submit(work.double, 0).result()
            first, second = ex.submit(work.double, 1), ex.submit(work.double, 2)
            first.add_done_callback(lambda _: ex.shutdown())
            first.add_done_callback(lambda _: heard.append(second.result()))
            second.add_done_callback(lambda _: heard.append(first.result()))
        return True

    assert within(60, run)
    until(lambda: len(heard) == 2)
    assert sorted(heard) == [2, 4]


def test_a_thread_is_there_for_what_waits_behind_a_callback_that_blocks_at_the_end() -> None:
    resolver = Resolver("test")
    behind = threading.Event()
    heard: list[bool] = []
    resolver.put(lambda: heard.append(behind.wait(30)))
    resolver.put(behind.set)
    assert within(30, lambda: resolver.close(None) or True)
    assert heard == [True]
    late = threading.Event()
    resolver.put(late.set)  # by a thread that was about to, when it was closed
    assert late.wait(30)


def test_callbacks_that_would_end_their_threads_keep_no_other_from_being_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with BatchExecutor(max_workers=1, echo=False) as ex:
        blocked = [ex.submit(time.sleep, 0.05) for _ in range(8)]
        cancelled = blocked[-1]
        cancelled.add_done_callback(lambda _: sys.exit("of a callback"))
        heard: list[Any] = []
        cancelled.add_done_callback(lambda future: heard.append(future.cancelled()))
        with pytest.raises(SystemExit):
            cancelled.cancel()
        assert heard == [True]
        assert cancelled in wait(blocked, 60).done
        done = ex.submit(work.double, 2)
        done.add_done_callback(lambda _: sys.exit("of a callback"))
        assert asyncio.run(asyncio.wait_for(_awaited(done), 60)) == 4
    assert "exception calling callback" in caplog.text


async def _awaited(future: Any) -> Any:
    return await asyncio.wrap_future(future)


def test_where_no_thread_can_be_had_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = threading.Thread.start, [""]

    def starting(thread: threading.Thread) -> None:
        if thread.name.startswith("batchexec-") and refused[0] in thread.name and refused.pop(0) is not None:
            refused.append("no thread of this name")
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    with BatchExecutor(max_workers=1, echo=False) as ex:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            ex.submit(work.double, 1)
        refused[:] = ["resolver"]
        assert within(60, lambda: ex.submit(work.double, 2).result()) == 4
        assert refused == ["no thread of this name"]


def test_classes_of_results_and_exceptions_harm_their_own_item_only() -> None:
    with BatchExecutor(max_workers=1, echo=False) as ex:
        results: list[Any] = list(ex.map(hostile.item, range(8), chunksize=8, return_exceptions=True))
    assert (results[0], results[-1]) == (0, 7)
    unreadable, fixed, no_text, exits, forked, quiet = results[1:7]
    assert isinstance(unreadable, ResultPicklingError)
    assert "no text: its __str__ raises Wordless" in str(unreadable)
    assert isinstance(fixed, RemoteError)
    assert "AttributeError: fixed was raised in reading it" in str(fixed)
    assert isinstance(no_text, hostile.Wordless)
    assert isinstance(exits, ResultPicklingError)
    assert "SystemExit: 4" in str(exits)
    assert (forked, quiet) == ("of the parent", "without streams")


def test_leaving_a_loop_over_a_map_cancels_the_rest_and_never_looking_at_it_does_not(tmp_path: Path) -> None:
    with BatchExecutor(max_workers=1, echo=False) as ex:
        ex.map(work.mark, [str(tmp_path)] * 3, range(3), chunksize=1)
        for number in ex.map(work.mark, [str(tmp_path)] * 99, range(10, 109), chunksize=1):
            assert number == 10
            break
    left = {int(name) for name in os.listdir(tmp_path)}
    assert {0, 1, 2, 10} <= left
    assert len(left) < 50, "what had not started never did"


class Unusable:
    """In the place of a stream."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise RuntimeError("no writing")

    def flush(self) -> None:
        raise RuntimeError("no flushing")

    def isatty(self) -> bool:
        raise RuntimeError("nobody knows")


class Refusing(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("no logging")


def test_streams_and_handlers_that_raise_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Refusing()
    logging.getLogger().addHandler(handler)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Unusable())
    try:
        with BatchExecutor(max_workers=1, echo=True, progress=True) as ex:
            ex.submit(work.double, 1).add_done_callback(lambda _: sys.exit("and then the log"))
            engine = ex._engine
            assert engine is not None
            engine.board.progress._quiet_seconds = 0
            engine.board.progress.warn("a warning")
            assert list(ex.map(hostile.talk, range(3), chunksize=1)) == [0, 1, 2]
    finally:
        logging.getLogger().removeHandler(handler)


def test_a_stream_that_waits_for_others_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who writes may wait for what the others, who count, are about to do."""
    progress = Progress(show=True, echo=False, remote=False, quiet_seconds=0)
    counted = threading.Event()

    class Waiting(Unusable):
        def write(self, text: str) -> int:
            return int(counted.wait(30))

        def flush(self) -> None: ...

    monkeypatch.setattr(sys, "stderr", Waiting())
    speaking = threading.Thread(target=lambda: progress.announce("a line", always=True), daemon=True)
    speaking.start()
    within(20, lambda: (progress.items_added(2), progress.chunk_done(1), progress.tick(), counted.set(), True))
    speaking.join(30)
    assert not speaking.is_alive()


def test_a_finalizer_may_use_the_executor_in_whatever_its_thread_is_at() -> None:
    class Last:
        def __init__(self, ex: BatchExecutor) -> None:
            self.ex, self.itself = ex, self

        def __del__(self) -> None:
            self.ex.shutdown(wait=False)

    def run() -> bool:
        ex = BatchExecutor(max_workers=1, echo=False)
        future = ex.submit(work.double, 1)
        engine = ex._engine
        assert engine is not None
        Last(ex)
        with ex._caller.lifecycle._lock, engine._lock, engine.board._lock:  # as in the midst of a submit
            gc.collect()
        ex.shutdown()
        return future.result() == 2

    assert within(60, run)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a fork of a process with threads warns")
def test_a_forked_child_is_told_that_the_future_is_its_parents() -> None:
    with BatchExecutor(max_workers=1, echo=False) as ex:
        future = ex.submit(time.sleep, 0.3)
        child = os.fork()
        if child == 0:
            try:
                future.result()
            except RuntimeError as error:
                os._exit(7 if "belongs to the parent" in str(error) else 1)
            finally:
                os._exit(2)
        _, status = until(lambda: os.waitpid(child, os.WNOHANG), lambda ended: ended[0] == child)
        assert os.WEXITSTATUS(status) == 7
