"""What is pending, in one place: chunks come in from any thread, verdicts from the loop, futures are resolved."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Literal

from batchexec._report.progress import Progress
from batchexec._report.words import described
from batchexec._wire import names
from batchexec.errors import BatchExecError, BrokenBatchExecutor, InitializerError, RequirementsError
from batchexec.futures import Delivery

from .results import outcomes
from .results.finishing import finished
from .results.resolver import Resolver
from .sending.work import Chunk

Ending = Literal["drain", "abandon"]
WrittenBy = Callable[[str, str], Coroutine[Any, Any, bytes]]  # of a task's id, and "stdout" or "stderr"
_log = logging.getLogger("concurrent.futures")

_TEND_SECONDS = 0.025
_TOLD_SECONDS = 30.0


class Board:
    """Every chunk from its submission to its verdict. The engine's loops read it and report to it.

    `add`, `cancel`, `end`, `fail_all`, `unsettled` and `raise_if_broken` are for any thread, all else for the loop.
    """

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress = progress
        self.broken: BatchExecError | None = None
        self.ending: Ending | None = None
        self.pending: dict[int, Chunk] = {}  # without a verdict, by number
        self.inbox: deque[list[Chunk]] = deque()
        self.cancelled: deque[Chunk] = deque()  # whose tasks are of no use any more
        self._sent: list[tuple[int, float]] = []  # numbers of chunks, and when they were sent, since it was asked last
        self.failed_logs: list[str] = []
        self.kept_results: list[str] = []  # with files that could not be brought here
        self.chunks_done = 0
        self.items_done = 0
        self.mail = asyncio.Event()  # the inbox has something
        self.doom = asyncio.Event()  # `cancelled` has something
        self.busy = asyncio.Event()  # something is pending: no request is made otherwise
        self.changed = asyncio.Event()  # it may be time to end
        self.base = _working_directory()
        self._unmet: dict[str, RequirementsError] = {}  # why environments cannot be made, by their hash
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a finalizer may call `end` wherever it is held
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._resolver = Resolver(name)

    # for any thread

    @property
    def foreign(self) -> bool:
        """Whether this is a forked child's copy of its parent's."""
        return os.getpid() != self._pid

    def add(self, chunks: list[Chunk]) -> None:
        """Take one call's chunks. Raises what broke the executor, or RuntimeError once it is ending."""
        with self._lock:
            self.raise_if_broken()
            if self.ending is not None:
                raise RuntimeError("cannot schedule new futures after shutdown")
            for chunk in chunks:
                self.pending[chunk.number] = chunk
                chunk.future.tell_engine(lambda chunk=chunk: self.cancel(chunk))  # type: ignore[misc]
            self.inbox.append(chunks)
        self._wake(self.mail, self.busy, self.changed)

    def forget(self, chunks: list[Chunk]) -> None:
        """Chunks just added are not to be done: nobody got their futures."""
        with self._lock, contextlib.suppress(ValueError):
            self.inbox.remove(chunks)
        for chunk in chunks:
            self.pending.pop(chunk.number, None)

    def raise_if_broken(self) -> None:
        """As the standard library: what broke the executor is a BrokenExecutor to those who submit later."""
        if isinstance(self.broken, BrokenBatchExecutor):
            raise self.broken.with_traceback(None)  # it is raised again and again: no frames of earlier calls
        if self.broken is not None:
            raise BrokenBatchExecutor(f"the executor can run nothing more: {self.broken}") from self.broken

    def unsettled(self) -> list[Chunk]:
        """The chunks without a verdict, in the order of their submission."""
        return list(self.pending.values())

    def cancel(self, chunk: Chunk) -> None:
        """The chunk's future was cancelled: forget it here, and have its task ended."""
        if self.foreign or self.pending.pop(chunk.number, None) is None:
            return
        self.cancelled.append(chunk)
        self._wake(self.doom, self.changed)
        self.progress.chunk_done(chunk.size)

    def end(self, how: Ending) -> None:
        """Take no more work; then drain (finish what is pending) or abandon (end the job now)."""
        if self.foreign:
            return
        with self._lock:
            if self.ending != "abandon":
                self.ending = how
        self._wake(self.changed)

    def break_off(self, error: BatchExecError) -> None:
        """Fail everything pending, now and from now on, and end. The first error stands."""
        with self._lock:
            self.broken = self.broken or error
            self.ending = "abandon"
        self.fail_all(error)
        self._wake(self.changed)

    def fail_all(self, error: BatchExecError) -> None:
        """Nothing that is pending will have a result."""
        with self._lock:
            self.inbox.clear()
            # One by one: the loop settles others meanwhile, and each has one verdict.
            doomed = [self.pending.pop(number, None) for number in list(self.pending)]
        for chunk in filter(None, doomed):
            self._conclude(chunk, partial(chunk.future.fail, error))

    # for the loop

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, this loop is woken. What was added before is told at once."""
        self._loop = loop
        for event in (self.mail, self.doom, self.busy, self.changed):
            event.set()

    def take_inbox(self) -> list[list[Chunk]]:
        """All that was submitted since the last call, in order."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self.inbox.popleft())
        return taken

    def sent_as(self, chunk: Chunk, task_id: str, written: WrittenBy) -> None:
        """The chunk goes out as this task, now. `written` tells what a task has written so far."""
        chunk.task_id, chunk.sent_at = task_id, time.time()
        self._sent.append((chunk.number, chunk.sent_at))
        chunk.future.sent_as(task_id, lambda stream: self._told(written(task_id, stream)))

    def take_sent(self) -> list[tuple[int, float]]:
        """Number and time of each chunk that was sent since the last call."""
        taken, self._sent = self._sent, []
        return taken

    def deliver(self, chunk: Chunk, decode: Callable[[], Delivery]) -> None:
        """The chunk's result is here; `decode` runs user code, so the resolver does it."""
        self._settle(chunk, lambda: self._resolve(chunk, decode))

    def fail(self, chunk: Chunk, error: BatchExecError) -> None:
        """The chunk has no result and will have none."""
        self._settle(chunk, lambda: self._fail(chunk, error))

    def show_running(self, chunk: Chunk) -> None:
        if not chunk.running:
            chunk.running = True
            self.progress.working(installing=chunk.environment is not None and not chunk.environment.proven)
            chunk.future.show_running()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the loops; what it raises breaks the executor. The set keeps it alive, asyncio does not."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)

    def raise_if_unmet(self, chunk: Chunk) -> None:
        """Packages that were not found, or did not build, are not tried again. Raises RequirementsError."""
        if chunk.environment is not None and chunk.environment.digest in self._unmet:
            raise self._unmet[chunk.environment.digest]

    async def tend(self) -> None:
        """While something is pending, see to the resolver's threads and the progress line."""
        while True:
            await self.busy.wait()
            self._resolver.tend()
            self.progress.tick()
            if not self.pending and not self._resolver.backlog():
                self.busy.clear()
            await asyncio.sleep(_TEND_SECONDS)

    async def stop_spawned(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def is_resolving(self) -> bool:
        """Whether this thread resolves futures, and calls their callbacks."""
        return self._resolver.is_mine()

    def close(self) -> None:
        """No more verdicts will come, and no more work is taken. Waits for the threads that still resolve futures, a
        moment only where the job was ended."""
        unfinished = BrokenBatchExecutor("the executor was ended before this was done")
        with self._lock:
            if self.ending is None:
                self.broken, self.ending = self.broken or unfinished, "abandon"
        if self.pending:
            self.fail_all(self.broken or unfinished)
        self._resolver.close(1.0 if self.ending == "abandon" else None)

    # inside

    def _settle(self, chunk: Chunk, verdict: Callable[[], None]) -> bool:
        """Whether the chunk was still without a verdict; it has this one now."""
        if self.pending.pop(chunk.number, None) is None:
            return False
        self.chunks_done += 1
        self.items_done += chunk.size
        try:
            self.progress.chunk_done(chunk.size)
        finally:
            self._conclude(chunk, verdict)
            self.changed.set()
        return True

    def _conclude(self, chunk: Chunk, verdict: Callable[[], None]) -> None:
        """Have a resolver thread see to the chunk's future. Whatever goes wrong there, it does not hang."""

        def concluding() -> None:
            try:
                verdict()
            except BaseException as error:  # noqa: BLE001 - of callbacks, only `Exception`s end before they come here
                if chunk.future.done():
                    _log.exception("exception calling callback for %r", chunk.future)
                else:
                    with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled this very moment
                        chunk.future.set_exception(typed(error))

        self._resolver.put(concluding)

    def _resolve(self, chunk: Chunk, decode: Callable[[], Delivery]) -> None:
        """On a resolver thread."""
        try:
            delivery = decode()
        except outcomes.Failure as failure:
            self._fail(chunk, failure.error)
            return
        except BaseException as error:  # noqa: BLE001 - whatever is wrong with it, the future must not hang
            broken = BatchExecError(f"the result of {chunk.task_id} cannot be read: {described(error)}")
            broken.__cause__ = error
            self._fail(chunk, broken)
            return
        if chunk.environment is not None:
            chunk.environment.proven = True
        self.progress.echo(chunk, delivery)
        if chunk.call.finish is not None:
            delivery = delivery._replace(outcomes=finished(chunk, chunk.call.finish, delivery))
        chunk.future.deliver(delivery)

    def _fail(self, chunk: Chunk, error: BatchExecError) -> None:
        """On a resolver thread."""
        if isinstance(error, BrokenBatchExecutor):
            self.break_off(error)
        if isinstance(error, InitializerError):
            _log.critical("Exception in initializer:", exc_info=error.__cause__ or error)
        if isinstance(error, RequirementsError) and chunk.environment is not None:
            error = chunk.environment.explained(error)
            self._call_soon(lambda: self._fail_kin(chunk, error))
        self.progress.echo_failure(chunk, error)
        self.failed_logs.append(names.log_blob(chunk.number, chunk.generation))
        chunk.future.fail(error)

    def _fail_kin(self, chunk: Chunk, error: RequirementsError) -> None:
        """On the loop: what waits for the same packages would wait for the same failure, once per task."""
        assert chunk.environment is not None
        if error.kind in ("resolution", "build"):  # any other may be over at the next call
            self._unmet[chunk.environment.digest] = error
        for other in list(self.pending.values()):
            unpacked = other.call is chunk.call and other.items is not None
            if (other.environment is chunk.environment or unpacked) and self._settle(
                other, partial(other.future.fail, error)
            ):
                other.doomed = True
                self.cancelled.append(other)
        self.doom.set()

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.break_off(typed(error))

    def _wake(self, *events: asyncio.Event) -> None:
        """Set the events on the loop, when there is one."""

        def wake() -> None:
            for event in events:
                event.set()

        self._call_soon(wake)

    def _told(self, asked: Coroutine[Any, Any, bytes]) -> bytes:
        """For any other thread: what the loop finds out; nothing when it ends meanwhile."""
        assert self._loop is not None, "nothing was sent"
        try:
            if self.foreign:
                raise RuntimeError
            telling = asyncio.run_coroutine_threadsafe(asked, self._loop)
        except RuntimeError:  # the loop is another process', or has closed
            asked.close()
            return b""
        try:
            return telling.result(_TOLD_SECONDS)
        except (concurrent.futures.CancelledError, concurrent.futures.TimeoutError):
            telling.cancel()
            return b""

    def _call_soon(self, call: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop closed this very moment: nothing is left to do
                self._loop.call_soon_threadsafe(call)


def _working_directory() -> str:
    """Where the user is when the first work is submitted: files that come back go there, wherever they are then."""
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return ""


def typed(error: BaseException) -> BatchExecError:
    """The error itself when it is one of ours; anything else is a defect of ours."""
    if isinstance(error, BatchExecError):
        return error
    broken = BrokenBatchExecutor(f"internal error: {described(error)}")
    broken.__cause__ = error
    return broken
