"""BatchExecutor: the `concurrent.futures.Executor` contract, nothing else."""

from __future__ import annotations

import itertools
import math
import os
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from ._exits import exiting, interrupt, register, wait_for
from ._inline import LocalCall, run_chunks, run_now
from ._report.progress import Progress
from ._wire import names
from .config import BatchConfig
from .errors import BrokenBatchExecutor, InitializerError, NestedExecutorError, PayloadError
from .futures import BatchFuture, ChunkFuture, MapIterator, Outcome

if TYPE_CHECKING:
    from ._command.sending import CommandSender
    from ._engine.engine import Engine
    from ._engine.pools.resources import Place
    from ._engine.sending.needs import Needs
    from ._engine.sending.work import Call, Chunk, Part
    from ._source.files.sets import FileSet
    from .command import Command

T = TypeVar("T")
Item = tuple[tuple[Any, ...], dict[str, Any]]

_CHUNKS_PER_SLOT = 4  # enough to even out items of unequal length, few enough to keep tasks worth starting


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
        self._inline = where == "inline"
        place = "local" if self._inline else where
        self._config = BatchConfig.load(config, where=place, progress=progress, echo=echo, **fields)
        self.where: str = "inline" if self._inline else self._config.resolved_where
        """Where the work runs: "local", "azure" or "inline"."""
        self._max_workers = max_workers
        self._initializer = initializer
        self._initargs = initargs
        self._lock = threading.Lock()
        self._chunks = itertools.count()
        self._items = 0
        self._shut = False
        self._engine: Engine | None = None
        self._init_part: Part | None = None
        self._initialized = False
        self._inline_broken: InitializerError | None = None
        self._pid = os.getpid()
        self._tables = itertools.count(1)  # of sweeps of Commands, where outputs go
        self._said: set[str] = set()  # warnings about Commands
        self._files: FileSet | None = None  # of the configuration, once they were looked at
        self._needs: Needs | None = None  # of calls of functions, once there was one
        if (self._config.cores or self._config.memory) and not self._inline:
            self._resources()  # more than a node has is said before anything is sent

    # the contract

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> BatchFuture[T]:
        """Send one call; its future.

        Raises RuntimeError after shutdown and what broke the executor (a BrokenBatchExecutor), as the standard
        library does; whatever is wrong with the call itself arrives through the future.
        """
        if _is_command(fn):
            return self._commands().submit(fn, args, kwargs)  # type: ignore[return-value]
        number, first = self._ready(1)
        seed = self._config.seed
        future: BatchFuture[T] = BatchFuture(LocalCall(fn, args, kwargs, seed, first))
        if self._inline:
            run_now(future, lambda: future._call())  # type: ignore[misc]
            return future
        try:
            call = self._call(fn)
        except PayloadError as error:
            future.fail(error)
        else:
            self._send([self._chunk(call, future, [(args, kwargs)], number, first)])
        return future

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
        items = zip(*iterables, strict=False) if iterables else iter(())
        if buffersize is None:
            known = list(items)
            if _is_command(fn):
                source = self._commands().send_all(fn, known, chunksize or 1, resume)
            else:
                source = self._send_all(fn, known, chunksize or self._chunksize(len(known)))
            ahead = None
        else:
            size = chunksize or 1
            if _is_command(fn):
                source = self._commands().send_by_and_by(fn, items, min(size, buffersize))
            else:
                source = self._send_by_and_by(fn, items, min(size, buffersize))
            ahead = max(1, buffersize // min(size, buffersize))
        return MapIterator(source, end_time=end_time, return_exceptions=return_exceptions).start(ahead)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work. Work that was submitted is done; then job and blobs go. `wait`: until all that is over.

        cancel_futures: cancel what has not started.
        """
        with self._lock:
            self._shut = True
            engine = self._engine
        if engine is None or engine.foreign:
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
        from ._engine.sending.shared import Shared
        from ._engine.sending.work import Part

        part = Part(obj, "the shared object")
        return Shared(obj, *part.blob, part.reached)

    def stats(self) -> Stats:
        """What was done so far, and in how many requests."""
        engine = self._engine
        session = engine.session if engine is not None else None
        return Stats(
            where=self.where,
            job_id=session.job_id if session else None,
            pool_id=session.pool_id if session else None,
            slots=self._at_once,
            items=engine.board.items_done if engine else self._items,
            chunks=engine.board.chunks_done if engine else 0,
            requests=session.requests if session else 0,
        )

    def terminate_workers(self) -> None:
        """End the job and its tasks now; futures without a result raise BrokenBatchExecutor."""
        with self._lock:
            self._shut = True
            engine = self._engine
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
    def _broken(self) -> BaseException | bool:
        return (self._engine.board.broken if self._engine is not None else self._inline_broken) or False

    def _initialize_inline(self) -> None:
        if self._initialized or self._initializer is None:
            return
        try:
            self._initializer(*self._initargs)
        except Exception as error:
            self._inline_broken = InitializerError(f"the initializer raised {type(error).__name__}: {error}")
            raise self._inline_broken from error
        self._initialized = True

    @property
    def _slots(self) -> int:
        """Task slots that this executor may use at once."""
        if self.where == "azure":
            most = self._config.max_nodes * self._config.slots_per_node
            return min(self._max_workers or most, most)
        return self._max_workers or os.cpu_count() or 1

    @property
    def _at_once(self) -> int:
        """Tasks of this executor that run at the same time: all slots, where each takes one."""
        if not (self._config.cores or self._config.memory) or self._inline:
            return self._slots
        from ._engine.pools import resources

        needs = self._resources()
        return resources.at_once(self._place(), needs["node"], needs["slots"])

    def _place(self) -> Place:
        from ._engine.pools import pool
        from ._engine.pools.resources import Place

        if self.where == "local":
            return Place("local", self._slots, 1)
        return Place("azure", self._slots, pool.nodes_for(self._config, self._max_workers))

    def _resources(self, cores: int | None = None, memory: float | None = None) -> dict[str, Any]:
        """What each task takes of its node, as fields of Needs; default: what the configuration says. Raises
        ConfigError for more than a node has."""
        from ._engine.pools.resources import needs_of

        return needs_of(self._config, self._place(), cores=cores, memory=memory)

    def _ready(self, items: int, chunks: int = 1) -> tuple[int, int]:
        """Numbers for the next chunk and item, with the engine there to take them."""
        if os.getpid() != self._pid:  # before the lock, which another thread may have held at the fork
            raise RuntimeError(
                "this BatchExecutor belongs to the parent process: create one of its own in a forked child"
            )
        with self._lock:
            if self._engine is not None:
                self._engine.board.raise_if_broken()
            if self._inline_broken is not None:
                raise self._inline_broken
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if exiting():
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            if self._inline:
                self._initialize_inline()
            elif self._engine is None:
                self._start_engine()
            first, self._items = self._items, self._items + items
            number = next(self._chunks)
            for _ in range(chunks - 1):
                next(self._chunks)
            return number, first

    def _start_engine(self) -> None:
        if self.where == "local":
            from ._engine import local

            local.start()  # before the imports below, so that it starts while they go on
        from ._engine.engine import Engine
        from ._engine.pools import pool

        config = self._config
        echo = self.where == "local" if config.echo is None else config.echo
        progress = Progress(show=config.progress, echo=echo, remote=self.where == "azure")
        place = self._place()
        if self.where == "local":
            reason = " (no Azure account is configured)" if config.where == "auto" else ""
            told = f"on this machine, {self._at_once} processes at once{reason}"
        else:
            told = (
                f"Azure Batch account {config.batch_account}, pool {pool.pool_id(config)}, up to {place.nodes} "
                f"{config.vm_size} nodes of {config.slots_per_node} slots, released after {config.idle_minutes} idle "
                "minutes"
            )
        progress.announce(told, always=self.where == "azure")
        self._engine = Engine(config, place, progress)
        register(self._engine)
        # Dropping the executor drains it, as with the standard library's.
        weakref.finalize(self, self._engine.end, "drain").atexit = False

    def _call(self, fn: Callable[..., Any]) -> Call:
        """The callable, pickled. Raises PayloadError when it cannot be."""
        from ._engine.sending.work import Call, Part

        name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
        needs = self._needs or self._own_needs()
        return Call(name, Part(fn, f"the callable {name}"), self._initializing(), self._config.seed, needs)

    def _own_needs(self) -> Needs:
        """What tasks of callables need, made once: it is the same for all of them. Raises FilesError."""
        from ._engine.sending.needs import Needs

        self._needs = Needs(
            **self._resources(),
            files=self._own_files(),
            outputs=self._config.outputs,
            output_dir=self._config.output_dir,
        )
        return self._needs

    def _initializing(self) -> Part | None:
        """The initializer, pickled once. Raises PayloadError."""
        from ._engine.sending.work import Part

        if self._initializer is not None and self._init_part is None:
            self._init_part = Part((self._initializer, self._initargs), "the initializer")
        return self._init_part

    def _own_files(self) -> FileSet | None:
        """The configuration's `files`, looked at once. Raises FilesError."""
        from ._engine.sending.needs import files_of

        if self._config.files and self._files is None:
            self._files = files_of(self._config.files)
        return self._files

    def _chunk(
        self,
        call: Call,
        future: ChunkFuture[Any],
        items: list[Item],
        number: int,
        first: int,
        offset: int = 0,
        is_map: bool = False,
        filesets: tuple[FileSet, ...] = (),
    ) -> Chunk:
        from ._engine.sending.work import Chunk, ItemsPart

        if self.where == "azure" and not call.warned:
            self._warn_of_paths(call, items)
        return Chunk(
            number=number,
            call=call,
            first_item=first,
            size=len(items),
            items=ItemsPart(items),
            future=future,
            offset=offset,
            is_map=is_map,
            filesets=filesets,
        )

    def _warn_of_paths(self, call: Call, items: list[Item]) -> None:
        """Once for a call: paths of this machine mean nothing to nodes."""
        from ._engine.results.hints import local_path

        text = local_path(items)
        if text is not None:
            assert self._engine is not None
            self._engine.board.progress.warn(f"{call.name}: {text}")
            call.warned = True

    def _send(self, chunks: list[Chunk]) -> None:
        assert self._engine is not None
        self._engine.board.progress.items_added(sum(chunk.size for chunk in chunks))
        self._engine.submit(chunks)

    def _chunksize(self, items: int) -> int:
        return max(1, math.ceil(items / (self._at_once * _CHUNKS_PER_SLOT)))

    def _send_all(
        self, fn: Callable[..., Any], known: list[tuple[Any, ...]], size: int
    ) -> Iterator[ChunkFuture[list[Outcome]]]:
        if not known:
            self._ready(0)
            return iter(())
        starts = range(0, len(known), size)
        number, first = self._ready(len(known), len(starts))
        futures = [ChunkFuture[list[Outcome]](min(size, len(known) - start)) for start in starts]
        if self._inline:
            return run_chunks(fn, known, size, self._config.seed, first)
        try:
            call = self._call(fn)
        except PayloadError as error:
            for future in futures:
                future.fail(error)
            return iter(futures)
        chunks = []
        for index, (start, future) in enumerate(zip(starts, futures, strict=True)):
            items: list[Item] = [(args, {}) for args in known[start : start + size]]
            chunks.append(self._chunk(call, future, items, number + index, first + start, offset=start, is_map=True))
        self._send(chunks)
        return iter(futures)

    def _send_groups(self, call: Call, groups: list[list[Item]], offset: int) -> list[ChunkFuture[list[Outcome]]]:
        """Send each group of items as one chunk; `offset` is the number of the first in its call."""
        number, first = self._ready(sum(map(len, groups)), len(groups))
        futures = [ChunkFuture[list[Outcome]](len(items)) for items in groups]
        chunks = []
        for index, (items, future) in enumerate(zip(groups, futures, strict=True)):
            chunks.append(self._chunk(call, future, items, number + index, first, offset=offset, is_map=True))
            first, offset = first + len(items), offset + len(items)
        self._send(chunks)
        return futures

    def _cancel_chunks(self, futures: set[ChunkFuture[list[Outcome]]]) -> None:
        """Nobody waits for these: cancel them, and end the tasks of those that run."""
        if self._engine is not None and futures:
            for chunk in self._engine.board.unsettled():
                if chunk.future in futures and not chunk.future.cancel():
                    self._engine.board.cancel(chunk)

    def _send_by_and_by(
        self, fn: Callable[..., Any], items: Iterator[tuple[Any, ...]], size: int
    ) -> Iterator[ChunkFuture[list[Outcome]]]:
        call: Call | None = None
        offset = 0
        while known := list(itertools.islice(items, size)):
            number, first = self._ready(len(known))
            if self._inline:
                yield from run_chunks(fn, known, len(known), self._config.seed, first)
                continue
            future = ChunkFuture[list[Outcome]](len(known))
            try:
                call = call or self._call(fn)
            except PayloadError as error:
                future.fail(error)
                yield future
                continue
            batch: list[Item] = [(args, {}) for args in known]
            self._send([self._chunk(call, future, batch, number, first, offset=offset, is_map=True)])
            offset += len(known)
            yield future

    def _commands(self) -> CommandSender:
        from ._command.sending import CommandSender

        return CommandSender(
            config=self._config,
            on_azure=self.where == "azure",
            inline=self._inline,
            ready=self._ready,
            base=self._engine.board.base if self._engine is not None else os.getcwd(),
            files=self._own_files,
            resources=self._resources,
            initializing=self._initializing,
            chunk=self._chunk,
            send=self._send,
            tables=self._tables,
            said=self._said,
        )

    def _interrupted(self) -> None:
        """Ctrl-C: end the job; results that are there stay."""
        with self._lock:
            self._shut = True
            engine = self._engine
        if engine is None or engine.foreign:
            return
        interrupt(engine)


def _is_command(fn: Callable[..., Any]) -> TypeGuard[Command]:
    """Nobody who has one has not imported its module: a bare executor need not."""
    module = sys.modules.get("batchexec.command")
    return module is not None and isinstance(fn, module.Command)
