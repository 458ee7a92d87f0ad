"""The engine: its thread, what is pending, and the ways it can end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal

from batchexec._report.progress import Progress
from batchexec._wire import names
from batchexec.config import BatchConfig
from batchexec.errors import (
    BatchExecError,
    BrokenBatchExecutor,
    InitializerError,
    ServiceError,
    ServiceUnreachableError,
)

from . import local, outcomes
from .account import azure_account, local_account
from .health import Health
from .packer import Packer
from .resolver import Resolver
from .session import Place, Session, connected
from .submitter import Submitter
from .watcher import Watcher
from .work import Chunk

if TYPE_CHECKING:
    from batchexec._azure.account import Account

Ending = Literal["drain", "abandon"]
_log = logging.getLogger("concurrent.futures")

_CLOSE_SECONDS = 60.0
_TEND_SECONDS = 0.025
_CANCEL_SECONDS, _CANCELS_AT_ONCE = 0.02, 16
_SERVICE_LOOK_SECONDS = 0.5


class Engine:
    """Runs chunks. Made by an executor, which it does not know; started by the first `submit`.

    `submit`, `cancel`, `end`, `join` and `broken` are for any thread, all else for the engine's own.
    """

    def __init__(self, config: BatchConfig, place: Place, progress: Progress) -> None:
        self.config = config
        self.place = place
        self.progress = progress
        self.broken: BatchExecError | None = None
        self.pending: dict[int, Chunk] = {}  # without a verdict, by number
        self.session: Session | None = None
        self.packer: Packer | None = None
        self.chunks_done = 0
        self.items_done = 0
        self._doomed: list[str] = []  # tasks of cancelled futures, to be ended
        self._failed_logs: tuple[str, ...] = ()
        self._left = False  # by a second Ctrl-C: nobody waits any more
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._inbox: deque[list[Chunk]] = deque()
        self._ending: Ending | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.mail = asyncio.Event()  # for the submitter
        self.busy = asyncio.Event()  # set while something is pending: no request is made otherwise
        self._woken = asyncio.Event()  # for whoever waits for the end
        self._tasks: set[asyncio.Task[None]] = set()
        self._name = f"batchexec-{id(self):x}"
        self._resolver = Resolver(self._name)
        self._service = local.start() if place.where == "local" else None

    # for any thread

    def submit(self, chunks: list[Chunk]) -> None:
        """Take one call's chunks. Raises what broke the engine, or RuntimeError once it is ending."""
        with self._lock:
            self.raise_if_broken()
            if self._ending is not None:
                raise RuntimeError("cannot schedule new futures after shutdown")
            for chunk in chunks:
                self.pending[chunk.number] = chunk
                chunk.future.tell_engine(lambda chunk=chunk: self.cancel(chunk))  # type: ignore[misc]
            self._inbox.append(chunks)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        self._wake()

    def raise_if_broken(self) -> None:
        """As the standard library: what broke the executor is a BrokenExecutor to those who submit later."""
        if isinstance(self.broken, BrokenBatchExecutor):
            raise self.broken
        if self.broken is not None:
            raise BrokenBatchExecutor(f"the executor can run nothing more: {self.broken}") from self.broken

    def cancel(self, chunk: Chunk) -> None:
        """The chunk's future was cancelled: forget it here, end its task there."""
        if os.getpid() == self._pid:
            self._call(lambda: self._cancelled(chunk))

    def end(self, how: Ending) -> None:
        """Take no more work; then drain (finish what is pending) or abandon (end the job now)."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._ending != "abandon":
                self._ending = how
            started = self._thread is not None
        if started:
            self._wake()

    def unsettled(self) -> list[Chunk]:
        """The chunks without a verdict, in the order of their submission."""
        return list(self.pending.values())

    def terminate(self, error: BatchExecError) -> None:
        """Fail everything pending with `error`, and end."""
        if os.getpid() == self._pid:
            with self._lock:
                if self.broken is None:
                    self.broken = error
            self.end("abandon")

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all is over; True when it is."""
        thread = self._thread
        if thread is None or os.getpid() != self._pid or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def leave(self) -> None:
        """Nobody waits for the end any more, not even the interpreter's exit."""
        self._left = True

    @property
    def done(self) -> bool:
        return self._left or self._thread is None or not self._thread.is_alive()

    @property
    def foreign(self) -> bool:
        """Whether this is a forked child's copy of its parent's engine."""
        return os.getpid() != self._pid

    # the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - no future may hang, whatever went wrong here
            self._fail_all(_internal(error))
        finally:
            if self.pending:
                self._fail_all(self.broken or BrokenBatchExecutor("the executor was ended before this was done"))
            for thread in self._resolver.close():
                if thread is not threading.current_thread():
                    thread.join(1.0 if self._ending == "abandon" else None)
            self.progress.close()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.progress.opening()
        try:
            account = self._account()
            async with connected(account, self.config.connect_timeout) as http:
                session = self.session = Session(self.config, account, self.place, http)
                try:
                    await self._or_abandoned(session.open())
                    if session.opened:
                        await self._serve(session)
                finally:
                    await session.batch.close()
        except BatchExecError as error:
            self._break(error)

    async def _serve(self, session: Session) -> None:
        """Run chunks until the end is asked for and nothing is pending."""
        self.busy.set()  # what was submitted before there was a loop to wake
        limit = int(self.config.source_limit_mb * 1e6)
        self.packer = Packer(session.job_id, session.key, limit)
        submitter = Submitter(self, session, self.packer)
        watcher = Watcher(self, session)
        loops = [
            submitter.run(),
            watcher.watch_results(),
            watcher.watch_tasks(),
            Health(self, session).run(),
            self._tend(),
            self._lease(session),
            self._watch_service(),
        ]
        running = [asyncio.create_task(loop) for loop in loops]
        ended = asyncio.create_task(self._ended(submitter))
        try:
            finished, _ = await asyncio.wait([*running, ended], return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()  # a loop that ended has failed: what it raised breaks the executor
        except BatchExecError as error:
            self._break(error)
        except Exception as error:  # noqa: BLE001 - a defect of ours must neither hang a future nor leak a job
            self._break(_internal(error))
        finally:
            for task in (*running, ended, *self._tasks):
                task.cancel()
            await asyncio.gather(*running, ended, *self._tasks, return_exceptions=True)
        await self._close(session)

    async def _close(self, session: Session) -> None:
        if self._service is not None and not self._service.alive():
            return
        try:
            async with _limit(_CLOSE_SECONDS):
                if self._ending == "abandon" and self.broken is None:
                    await session.abandon("the client was interrupted")
                else:
                    await session.close(keep=self._failed_logs if self.place.where == "azure" else ())
        except (ServiceError, asyncio.TimeoutError) as error:
            self.progress.warn(
                f"could not clean up job {session.job_id}: {error or 'no answer in time'}. Its time limit ends it; to "
                f"delete it now: az batch job delete --job-id {session.job_id}"
            )

    async def _ended(self, submitter: Submitter) -> None:
        """Returns when it is time to close."""
        while True:
            if self._ending == "abandon" or (self._ending == "drain" and not self.pending and submitter.idle):
                return
            self._woken.clear()
            await self._woken.wait()

    async def _or_abandoned(self, opening: Coroutine[Any, Any, None]) -> None:
        """Await the opening, unless the end is asked for at once."""
        task = asyncio.create_task(opening)
        gone = asyncio.create_task(self._watch_service())
        try:
            while not task.done() and self._ending != "abandon":
                self._woken.clear()
                waiting = asyncio.create_task(self._woken.wait())
                await asyncio.wait((task, gone, waiting), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if gone.done():
                    gone.result()
            if task.done():
                task.result()
        finally:
            task.cancel()
            gone.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    async def _lease(self, session: Session) -> None:
        """While this client lives, its job does not end."""
        while True:
            await asyncio.sleep(self.config.wall_clock_hours * 3600 / 2)
            await session.extend_lease()

    async def _watch_service(self) -> None:
        """Raises when the local service is gone: no use in trying a dead one again. Without one, waits for ever."""
        while self._service is None or self._service.alive():
            await asyncio.sleep(_SERVICE_LOOK_SECONDS)
        raise ServiceUnreachableError("the local service ended while work was pending")

    def _account(self) -> Account:
        if self._service is not None:
            return local_account(self._service.endpoints())
        return azure_account(self.config)

    # for the engine's other rooms, on its thread

    @property
    def ending(self) -> Ending | None:
        return self._ending

    def take_inbox(self) -> list[list[Chunk]]:
        """All that was submitted since the last call, in order."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._inbox.popleft())
        return taken

    def mail_count(self) -> int:
        return len(self._inbox)

    def look_for_end(self) -> None:
        self._woken.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the loops; what it raises breaks the executor. The set keeps it alive, asyncio does not."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)

    def deliver(self, chunk: Chunk, data: bytes) -> None:
        """The chunk's result blob is here: leave the rest to the resolver."""
        if self._settle(chunk):
            assert self.session is not None
            key, job = self.session.key, self.session.job_id
            self._resolver.put(lambda: self._resolve(chunk, data, key, job))

    def fail(self, chunk: Chunk, error: BatchExecError) -> None:
        """The chunk has no result and will have none."""
        if self._settle(chunk):
            self._resolver.put(lambda: self._failed(chunk, error))

    def show_running(self, chunk: Chunk) -> None:
        if not chunk.running:
            chunk.running = True
            self.progress.working()
            chunk.future.show_running()

    def end_task(self, chunk: Chunk) -> None:
        """The chunk's future was cancelled: its task is of no use any more."""
        self._doomed.append(chunk.task_id)
        if len(self._doomed) == 1:
            self.spawn(self._end_doomed())

    async def _tend(self) -> None:
        """While something is pending, see to the resolver's threads and the progress line."""
        while True:
            await self.busy.wait()
            self._resolver.tend()
            self.progress.tick()
            if not self.pending and not self._resolver.backlog():
                self.busy.clear()
            await asyncio.sleep(_TEND_SECONDS)

    def lost_contact(self, error: ServiceError) -> None:
        """The account does not answer, or the login expired: the work goes on there, so nothing is ended here."""
        self.progress.warn(f"lost contact, the work goes on in the service and this keeps trying: {error}")

    def warn(self, text: str) -> None:
        self.progress.warn(text)

    # inside

    def _settle(self, chunk: Chunk) -> bool:
        """Whether the chunk was still without a verdict; it has one now."""
        if self.pending.pop(chunk.number, None) is None:
            return False
        self.chunks_done += 1
        self.items_done += chunk.size
        self.progress.chunk_done(chunk.size)
        if not self.pending:
            self._woken.set()
        return True

    def _resolve(self, chunk: Chunk, data: bytes, key: bytes, job: str) -> None:
        """On a resolver thread."""
        try:
            delivery = outcomes.decode(data, key, job, chunk)
        except outcomes.Failure as failure:
            self._failed(chunk, failure.error)
            return
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the future must not hang
            broken = BatchExecError(f"the result of {chunk.task_id} cannot be read: {type(error).__name__}: {error}")
            broken.__cause__ = error
            self._failed(chunk, broken)
            return
        self.progress.echo(chunk, delivery)
        chunk.future.deliver(delivery)

    def _failed(self, chunk: Chunk, error: BatchExecError) -> None:
        """On a resolver thread."""
        if isinstance(error, InitializerError):
            _log.critical("Exception in initializer:", exc_info=error.__cause__ or error)
        if outcomes.breaks_executor(error):
            with self._lock:
                if self.broken is None:
                    self.broken = error
            self._call(lambda: self._break(error))
        self.progress.echo_failure(chunk, error)
        self._failed_logs = (*self._failed_logs, names.log_blob(chunk.number, chunk.generation))
        chunk.future.fail(error)

    def _break(self, error: BatchExecError) -> None:
        """Fail everything pending, now and from now on."""
        with self._lock:
            if self.broken is None:
                self.broken = error
            self._ending = "abandon"
        self._fail_all(error)
        self._woken.set()

    def _fail_all(self, error: BatchExecError) -> None:
        with self._lock:
            if self.broken is None:
                self.broken = error
            self._inbox.clear()
            doomed = list(self.pending.values())
            self.pending.clear()
        for chunk in doomed:
            self._resolver.put(lambda chunk=chunk: chunk.future.fail(error))  # type: ignore[misc]

    def _cancelled(self, chunk: Chunk) -> None:
        if self.pending.pop(chunk.number, None) is None:
            return
        self.progress.chunk_done(chunk.size)
        if chunk.task_id:
            self.end_task(chunk)
        if not self.pending:
            self._woken.set()

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        self._break(error if isinstance(error, BatchExecError) else _internal(error))

    async def _end_doomed(self) -> None:
        """Cancellations come in bursts; where they leave nothing to do, closing the job ends its tasks at once."""
        await asyncio.sleep(_CANCEL_SECONDS)
        doomed, self._doomed = self._doomed, []
        if self.session is None or (self._ending and not self.pending):
            return
        for start in range(0, len(doomed), _CANCELS_AT_ONCE):
            names_now = doomed[start : start + _CANCELS_AT_ONCE]
            await asyncio.gather(*(self.session.batch.terminate_task(self.session.job_id, name) for name in names_now))

    def _wake(self) -> None:
        def wake() -> None:
            self.mail.set()
            self.busy.set()
            self._woken.set()

        self._call(wake)

    def _call(self, action: Callable[[], None]) -> None:
        """Run `action` on the loop, when there is one."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop closed this very moment: nothing is left to do
                loop.call_soon_threadsafe(action)


def _internal(error: BaseException | None) -> BatchExecError:
    broken = BrokenBatchExecutor(f"internal error: {type(error).__name__}: {error}")
    broken.__cause__ = error
    return broken


@contextlib.asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[None]:
    """Raise TimeoutError in the block once `seconds` are over (asyncio.timeout, which Python 3.10 lacks)."""
    task = asyncio.current_task()
    assert task is not None
    over = asyncio.get_running_loop().call_later(seconds, task.cancel)
    try:
        yield
    except asyncio.CancelledError:
        if asyncio.get_running_loop().time() >= over.when():
            raise asyncio.TimeoutError from None
        raise
    finally:
        over.cancel()
