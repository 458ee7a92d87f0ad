"""BatchFuture, and the internal future of a map's chunk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
Written = Callable[[str], bytes]  # the end of what a task has written so far to "stdout" or "stderr"
_LOOK_SECONDS = 0.5
_DONE = ("CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED")
_log = logging.getLogger("concurrent.futures")


class Outcome(NamedTuple):
    """What came of one item: its value, or the exception that it raised."""

    value: Any
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Finished:
    """An item that came back, before its future has it."""

    item: int
    """Its number in the executor."""
    index: int
    """Its number in its call."""
    value: Any
    error: BaseException | None
    outputs: list[Any]
    """The files that it left: a Path each, or a BlobPath where they stay in storage."""
    node_id: str
    seconds: float
    """Its own run time."""
    task_id: str


@dataclass(frozen=True)
class Timing:
    """Where a chunk's time went, in seconds. `run` is the user's function alone, all items together."""

    queued: float
    load: float
    run: float
    total: float
    peak_memory: int | None
    """Peak resident memory of the worker process in bytes, where the node tells."""


class Delivery(NamedTuple):
    """All that a worker sent back for a chunk."""

    outcomes: list[Outcome]
    timing: Timing
    streams: tuple[bytes, bytes]
    task_id: str
    node_id: str
    marks: tuple[list[int], ...]
    """Where each item's output begins in the two streams, and where the last one's ends."""
    seconds: tuple[float, ...] = ()
    """Each item's own run time."""
    outputs: tuple[list[Any], ...] = ()
    """The files of each item, where they are now; nothing for a chunk whose items leave none."""


class ChunkFuture(Future[T]):
    """A future that the engine resolves; the result of the bare class is the chunk's list of outcomes."""

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.size = size  # items
        self._pid = os.getpid()
        self._on_cancel: Callable[[], None] | None = None

    def tell_engine(self, on_cancel: Callable[[], None]) -> None:
        """Whom to tell of a cancellation."""
        self._on_cancel = on_cancel

    def sent_as(self, task_id: str, written: Written) -> None:
        """The chunk went out as this task, of which `written` tells what it wrote so far."""

    def result(self, timeout: float | None = None) -> T:
        """As the standard library's, whose wait without end may miss a Ctrl-C (see `_wait`)."""
        if timeout is None:
            self._wait()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As the standard library's, likewise."""
        if timeout is None:
            self._wait()
        return super().exception(timeout)

    def _wait(self) -> None:
        """Wait until it is done, in steps. A signal that arrives just as a lock is about to be waited for is handled by
        Python only when that wait ends; on Windows so is every signal."""
        if os.getpid() != self._pid and self._state not in _DONE:
            raise RuntimeError("this future belongs to the parent process: a forked child never hears of its end")
        with self._condition:
            while not self.done():
                self._condition.wait(_LOOK_SECONDS)

    def cancel(self) -> bool:
        """Cancel if it is still pending: local, immediate, and final whatever the service is doing with it."""
        with self._condition:
            was_cancelled = self.cancelled()
        try:
            return super().cancel()
        finally:  # a callback may have raised
            if not was_cancelled and self.cancelled():
                self._was_cancelled()

    def _was_cancelled(self) -> None:
        try:
            # wait() and as_completed() count a future as done only after this.
            self.set_running_or_notify_cancel()
        except (RuntimeError, InvalidStateError):
            return  # another thread cancelled it at the same moment, and tells the engine
        on_cancel, self._on_cancel = self._on_cancel, None  # a cycle by way of the chunk otherwise
        if on_cancel is not None:
            on_cancel()

    def _invoke_callbacks(self) -> None:
        """As the standard library's, where one that would end its thread keeps the others from being called: those of
        asyncio.wrap_future and joblib among them."""
        leaving: BaseException | None = None
        for callback in self._done_callbacks:  # type: ignore[attr-defined]  # typeshed lacks it
            try:
                callback(self)
            except Exception:  # noqa: BLE001 - as the standard library's
                _log.exception("exception calling callback for %r", self)
            except BaseException as error:  # noqa: BLE001 - raised below
                leaving = error
        if leaving is not None:
            raise leaving

    # for the engine

    def show_running(self) -> None:
        with self._condition:
            if not self.running() and not self.done():
                self.set_running_or_notify_cancel()

    def deliver(self, delivery: Delivery) -> None:
        self._finish(lambda: self.set_result(delivery.outcomes))  # type: ignore[arg-type]

    def fail(self, error: BaseException) -> None:
        self._finish(lambda: self.set_exception(error))

    def _finish(self, finish: Callable[[], None]) -> None:
        self._on_cancel = None
        try:
            finish()
        except InvalidStateError:
            if not self.cancelled():
                raise


class BatchFuture(ChunkFuture[T]):
    """The future of one submitted call: a `concurrent.futures.Future` that also knows its task."""

    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__()
        self._call: Callable[[], T] | None = call
        self._task_id: str | None = None
        self._streams = (b"", b"")
        self._written: Written | None = None  # while it runs
        self._timing: Timing | None = None
        self._outputs: list[Any] = []

    @property
    def task_id(self) -> str | None:
        """The Batch task's id, None before it was sent (and with where="inline")."""
        return self._task_id

    @property
    def timing(self) -> Timing | None:
        """Where the time went, None until the result is there."""
        return self._timing if self.done() else None

    @property
    def outputs(self) -> list[Any]:
        """The files that the call left and `outputs=` names: a Path each, or a BlobPath where they stay in storage.
        Empty until the result is there."""
        return list(self._outputs) if self.done() else []

    def stdout(self) -> str:
        """The last 64 kB of what the worker process printed. While it runs, the service is asked for what there is."""
        return self._text(0)

    def stderr(self) -> str:
        """The last 64 kB of its standard error, likewise."""
        return self._text(1)

    def rerun_locally(self) -> T:
        """Run this very call here, in this thread, with its seed, so that a debugger can follow it.

        Raises what the call raises. The arguments are the objects given to `submit`: what changed them since shows.
        """
        if self._call is None:
            raise RuntimeError("this future's call is not known here")
        return self._call()

    def sent_as(self, task_id: str, written: Written) -> None:
        self._task_id, self._written = task_id, written

    def _text(self, number: int) -> str:
        written = self._written
        data = self._streams[number] if self.done() or written is None else written(("stdout", "stderr")[number])
        return data.decode("utf-8", "replace")

    def _finish(self, finish: Callable[[], None]) -> None:
        self._written = None  # it holds what the engine holds
        super()._finish(finish)

    def deliver(self, delivery: Delivery) -> None:
        self._timing = delivery.timing
        self._streams = delivery.streams
        self._task_id = delivery.task_id
        if delivery.outputs:
            self._outputs = delivery.outputs[0]
        value, error = delivery.outcomes.pop()
        if error is not None:
            self._finish(lambda: self.set_exception(error))
        else:
            self._finish(lambda: self.set_result(value))

    def fail(self, error: BaseException) -> None:
        self._streams = (
            getattr(error, "stdout", "").encode(),
            getattr(error, "stderr", "").encode(),
        )
        super().fail(error)
