"""BatchExecutor: the `concurrent.futures.Executor` contract, nothing else."""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from ._calls.caller import Caller
from ._calls.mapping import MapIterator
from ._exits import interrupt, wait_for
from ._wire import names
from .config import BatchConfig
from .errors import BrokenBatchExecutor, NestedExecutorError
from .futures import BatchFuture

if TYPE_CHECKING:
    from ._command.sending import CommandSender
    from ._engine.engine import Engine
    from .command import Command

T = TypeVar("T")


@dataclass(frozen=True)
class Stats:
    """What an executor has done: items and chunks with a verdict, requests to Batch and storage together."""

    where: str
    job_id: str | None
    pool_id: str | None
    slots: int  # tasks that run at once
    items: int
    chunks: int
    requests: int


class BatchExecutor(Executor):
    """Runs calls as Azure Batch tasks: a drop-in for `ProcessPoolExecutor`.

        with BatchExecutor() as ex:
            scores = list(ex.map(fit, folds))

    With no account configured it runs on this machine, against an embedded local service that speaks the real
    protocols; with one, the same code runs on Azure Batch. Nothing is started before the first `submit` or `map`.

    config: a BatchConfig, a mapping, or the path of a TOML file; any field of BatchConfig is also a keyword. A number
        is `max_workers`, as in `ProcessPoolExecutor(4)`.
    max_workers: task slots used at once. Default: locally the number of CPUs, on Azure all slots of `max_nodes` nodes.
    initializer, initargs: called once in each worker process, before its first item.
    progress: whether to show a progress line; default: on a terminal or in a notebook.
    echo: whether to show what workers print; default: locally.

    Raises ConfigError for a configuration that cannot work, ValueError for `max_workers` below 1, and
    NestedExecutorError inside a worker.
    """

    def __init__(
        self,
        config: BatchConfig | Mapping[str, Any] | str | os.PathLike[str] | int | None = None,
        *,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        progress: bool | None = None,
        echo: bool | None = None,
        where: str | None = None,
        **fields: Any,
    ) -> None:
        if os.environ.get(names.ENV_INSIDE):
            raise NestedExecutorError(
                "this is a batchexec worker: BatchExecutor() here would be work that starts work. Create the executor "
                "in the client (under `if __name__ == '__main__':` when its module is imported by workers too)."
            )
        if isinstance(config, int):
            if max_workers is not None:
                raise TypeError("max_workers was given twice: by position and by keyword")
            config, max_workers = None, config
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        inline = where == "inline"
        config = BatchConfig.load(config, where="local" if inline else where, progress=progress, echo=echo, **fields)
        self.where: str = "inline" if inline else config.resolved_where
        """Where the work runs: "local", "azure" or "inline"."""
        self._caller = Caller(config, self.where, max_workers, initializer, initargs)
        self._command_sender: CommandSender | None = None
        self._lock = threading.Lock()

    # the contract

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> BatchFuture[T]:
        """Send one call; its future.

        Raises RuntimeError after shutdown and what broke the executor (a BrokenBatchExecutor), as the standard
        library does; whatever is wrong with the call itself arrives through the future.
        """
        if _is_command(fn):
            return self._commands().submit(fn, args, kwargs)  # type: ignore[return-value]
        return self._caller.submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        resume: str | os.PathLike[str] | None = None,
    ) -> Iterator[T]:
        """The results of `fn` over the items, in their order; as the built-in `map`, side by side.

        timeout: seconds from now within which every result must be taken (TimeoutError).
        chunksize: items per task. Default: so that each task slot gets about four tasks; one of a Command.
        buffersize: at most this many items are taken from the iterables ahead of the results (default: all at once).
        return_exceptions: give exceptions as results in their places, instead of raising the first.
        resume: of a Command: the directory for its table and outputs; runs that are done there are not run again.
        """
        if resume is not None and not _is_command(fn):
            raise TypeError("resume= is for a Command, whose runs leave files and a table that tell what is done")
        if resume is not None and buffersize is not None:
            raise TypeError("resume= compares all runs with the table: leave buffersize= out")
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        end_time = None if timeout is None else time.monotonic() + timeout
        if _is_command(fn):
            iterables = self._commands().rows(iterables)
        items = zip(*iterables, strict=False) if iterables else iter(())
        if buffersize is None:
            ahead = None
            if _is_command(fn):
                source = self._commands().send_all(fn, list(items), chunksize or 1, resume)
            else:
                source = self._caller.send_all(fn, list(items), chunksize)
        else:
            size = min(chunksize or 1, buffersize)
            ahead = buffersize // size
            if _is_command(fn):
                source = self._commands().send_by_and_by(fn, items, size)
            else:
                source = self._caller.send_by_and_by(fn, items, size)
        return MapIterator(source, end_time=end_time, return_exceptions=return_exceptions).start(ahead)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work. Work that was submitted is done; then job and blobs go. `wait`: until all that is over.

        cancel_futures: cancel what has not started.
        """
        engine = self._caller.lifecycle.shut()
        if engine is None:
            return
        engine.end("drain")
        if cancel_futures:
            for chunk in engine.board.unsettled():
                chunk.future.cancel()
        if wait:
            wait_for(engine)

    def share(self, obj: Any) -> Any:
        """A handle to pass to many calls in place of a large object: it is sent once, and read once per node.

        The function gets the object itself; arrays of 1 kB or more in it are read-only memory maps on the worker.
        Raises PicklingError when the object cannot be pickled.
        """
        return self._caller.share(obj)

    def stats(self) -> Stats:
        """What was done so far, and in how many requests."""
        engine = self._engine
        session = engine.session if engine is not None else None
        return Stats(
            where=self.where,
            job_id=session.job_id if session else None,
            pool_id=session.pool_id if session else None,
            slots=self._caller.capacity.at_once,
            items=engine.board.items_done if engine else self._caller.lifecycle.items,
            chunks=engine.board.chunks_done if engine else 0,
            requests=session.requests if session else 0,
        )

    def terminate_workers(self) -> None:
        """End the job and its tasks now; futures without a result raise BrokenBatchExecutor."""
        engine = self._caller.lifecycle.shut()
        if engine is not None:
            engine.terminate(BrokenBatchExecutor("terminate_workers() was called"))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: types.TracebackType | None,
    ) -> bool | None:
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            self._interrupted()
            return False
        return super().__exit__(exc_type, exc_val, exc_tb)

    # inside

    @property
    def _engine(self) -> Engine | None:
        return self._caller.lifecycle.engine

    @property
    def _broken(self) -> BaseException | bool:
        return self._caller.lifecycle.broken or False

    def _commands(self) -> CommandSender:
        with self._lock:
            if self._command_sender is None:
                from ._command.sending import CommandSender

                self._command_sender = CommandSender(self._caller)
            return self._command_sender

    def _interrupted(self) -> None:
        """Ctrl-C: end the job; results that are there stay."""
        engine = self._caller.lifecycle.shut()
        if engine is not None:
            interrupt(engine)


def _is_command(fn: Callable[..., Any]) -> TypeGuard[Command]:
    """Nobody who has one has not imported its module: a bare executor need not."""
    module = sys.modules.get("batchexec.command")
    return module is not None and isinstance(fn, module.Command)
