"""The engine: its thread, its job from opening to closing, and the ways it can end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any

from batchexec._report.progress import Progress
from batchexec.config import BatchConfig
from batchexec.errors import BatchExecError, ServiceError, ServiceUnreachableError

from . import local
from .account import azure_account, local_account
from .board import Board, Ending, typed
from .canceller import Canceller
from .health import Health
from .pools.resources import Place
from .sending.packages import packages_for
from .sending.packer import Packer
from .sending.work import Chunk
from .session import Session, connected
from .submitter import Submitter
from .watcher import Watcher

if TYPE_CHECKING:
    from batchexec._azure.account import Account

_CLOSE_SECONDS = 60.0
_SERVICE_LOOK_SECONDS = 0.5


class Engine:
    """Runs chunks. Made by an executor, which it does not know; its thread is started by the first `submit`."""

    def __init__(self, config: BatchConfig, place: Place, progress: Progress) -> None:
        self.place = place
        self.session: Session | None = None
        name = f"batchexec-{id(self):x}"
        self.board = Board(progress, name)
        self._config = config
        self._lock = threading.RLock()  # a finalizer may submit wherever it is held
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = False
        self._over = threading.Event()
        self._left = False  # by a second Ctrl-C: nobody waits any more
        self._service = local.start() if place.where == "local" else None
        self._packages = packages_for(config, place.where, progress.warn)

    # for any thread

    def submit(self, chunks: list[Chunk]) -> None:
        """Take one call's chunks. Raises what broke the engine, or RuntimeError once it is ending."""
        with self._lock:
            self.board.add(chunks)
            if not self._started:
                self._started = True
                try:
                    self._thread.start()
                except BaseException:  # the system has no more threads
                    self._started = False
                    self.board.forget(chunks)
                    raise

    def end(self, how: Ending) -> None:
        """Take no more work; then drain (finish what is pending) or abandon (end the job now)."""
        self.board.end(how)

    def terminate(self, error: BatchExecError) -> None:
        """Fail everything pending with `error`, and end."""
        if not self.foreign:
            self.board.break_off(error)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all is over; True when it is."""
        others = self.foreign or self._is_within()
        # Not by the thread's own `join`: before Python 3.13, a thread counts as ended when a Ctrl-C interrupts that.
        if not self.done and not others and self._over.wait(timeout):
            self._thread.join()
        return self.done or others

    def leave(self) -> None:
        """Nobody waits for the end any more, not even the interpreter's exit."""
        self._left = True

    @property
    def done(self) -> bool:
        return self._left or not self._started or self._over.is_set()

    @property
    def foreign(self) -> bool:
        """Whether this is a forked child's copy of its parent's engine."""
        return self.board.foreign

    def _is_within(self) -> bool:
        """Whether this is a thread that it waits for itself: its own, or one that calls a future's callbacks."""
        return self._thread is threading.current_thread() or self.board.is_resolving()

    # the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - no future may hang, whatever went wrong here
            self.board.break_off(typed(error))
        finally:
            try:
                self.board.close()
                self.board.progress.close()
            finally:
                self._over.set()

    async def _main(self) -> None:
        self.board.attach(asyncio.get_running_loop())
        self.board.progress.opening()
        try:
            account = self._account()
            async with connected(account, self._config.connect_timeout) as http:
                session = self.session = Session(self._config, account, self.place, http, self._packages)
                try:
                    await self._open(session)
                    if session.opened:
                        await self._serve(session)
                        await self._close(session)
                finally:
                    await session.batch.close()
        except BatchExecError as error:
            self.board.break_off(error)

    async def _open(self, session: Session) -> None:
        """Open the job, unless the end is asked for at once or the local service dies."""
        opening = asyncio.create_task(session.open())
        gone = asyncio.create_task(self._watch_service())
        try:
            while not opening.done() and self.board.ending != "abandon":
                self.board.changed.clear()
                waiting = asyncio.create_task(self.board.changed.wait())
                await asyncio.wait((opening, gone, waiting), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if gone.done():
                    gone.result()
            if opening.done():
                opening.result()
        finally:
            await _stop(opening, gone)

    async def _serve(self, session: Session) -> None:
        """Run chunks until the end is asked for and nothing is pending."""
        board = self.board
        packer = Packer(session.job_id, session.key, session.store, self._config.source_limit_mb, self._packages)
        submitter = Submitter(board, session, packer)
        watcher = Watcher(board, session)
        loops: list[Coroutine[Any, Any, None]] = [
            submitter.run(),
            watcher.watch_results(),
            watcher.watch_tasks(),
            Canceller(board, session).run(),
            Health(board, session).run(),
            board.tend(),
            self._lease(session),
            self._watch_service(),
            self._ended(submitter),
        ]
        running = [asyncio.create_task(loop) for loop in loops]
        try:
            finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()  # a loop that ended before `_ended` has failed: what it raised breaks the executor
        except Exception as error:  # noqa: BLE001 - a defect of ours must neither hang a future nor leak a job
            board.break_off(typed(error))
        else:
            if board.ending == "drain":
                watcher.sum_up()
        finally:
            await _stop(*running)
            await board.stop_spawned()

    async def _close(self, session: Session) -> None:
        if self._service is not None and not self._service.alive():
            return
        try:
            async with _limit(_CLOSE_SECONDS):
                if self.board.ending == "abandon" and self.board.broken is None:
                    await session.abandon("the client was interrupted")
                elif self.board.kept_results:  # `fetch` needs the job too: it holds the key
                    await session.abandon("files of its results could not be written at the client")
                else:
                    await session.close(keep=tuple(self.board.failed_logs) if self.place.where == "azure" else ())
        except (ServiceError, asyncio.TimeoutError) as error:
            self.board.progress.warn(
                f"could not clean up job {session.job_id}: {error or 'no answer in time'}. Its time limit ends it; to "
                f"delete it now: batchexec clean {session.job_id}"
            )

    async def _ended(self, submitter: Submitter) -> None:
        """Returns when it is time to close."""
        board = self.board
        while board.ending != "abandon" and not (board.ending == "drain" and not board.pending and submitter.idle):
            board.changed.clear()
            await board.changed.wait()

    async def _lease(self, session: Session) -> None:
        """While this client lives, its job does not end."""
        half = self._config.wall_clock_hours * 3600 / 2
        pause = half
        while True:
            await asyncio.sleep(pause)
            pause = half
            try:
                await session.extend_lease()
            except ServiceError as error:
                if not error.transient:
                    raise
                pause = half / 10  # losing contact ends nothing; there are several tries left

    async def _watch_service(self) -> None:
        """Raises when the local service is gone: no use in trying a dead one again. Without one, waits for ever."""
        while self._service is None or self._service.alive():
            await asyncio.sleep(_SERVICE_LOOK_SECONDS)
        raise ServiceUnreachableError("the local service ended while work was pending")

    def _account(self) -> Account:
        if self._service is not None:
            return local_account(self._service.endpoints())
        return azure_account(self._config)


async def _stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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
