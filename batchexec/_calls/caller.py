"""Calls of functions on their way: pickled once, made into chunks, and given to the engine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from batchexec._inline import Initialization, LocalCall, run_chunks, run_now
from batchexec.config import BatchConfig
from batchexec.errors import PayloadError
from batchexec.futures import BatchFuture, ChunkFuture, Outcome

from .capacity import Capacity
from .lifecycle import Lifecycle

if TYPE_CHECKING:
    from batchexec._engine.sending.needs import Needs
    from batchexec._engine.sending.work import Call, Chunk, Part
    from batchexec._source.files.sets import FileSet

Item = tuple[tuple[Any, ...], dict[str, Any]]
ChunkFutures = Iterator[ChunkFuture[list[Outcome]]]

_CHUNKS_PER_SLOT = 4  # enough to even out items of unequal length, few enough to keep tasks worth starting


class Caller:
    """Sends the calls of one executor. What commands and joblib's batches send goes through it as well."""

    def __init__(
        self,
        config: BatchConfig,
        where: str,
        max_workers: int | None,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        """`where` is "local", "azure" or "inline". Raises ConfigError when a task needs more than a node has."""
        self.config = config
        self.on_azure = where == "azure"
        self.inline = where == "inline"
        self.capacity = Capacity(config, where, max_workers)
        initialization = Initialization(initializer, initargs) if self.inline else None
        self.lifecycle = Lifecycle(config, where, self.capacity, initialization)
        self._initializer = initializer
        self._initargs = initargs
        self._init_part: Part | None = None
        self._files: FileSet | None = None  # of the configuration, once they were looked at
        self._needs: Needs | None = None  # of calls of functions, once there was one
        if (config.cores or config.memory) and not self.inline:
            self.capacity.resources()  # more than a node has is said before anything is sent

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> BatchFuture[Any]:
        number, first = self.lifecycle.ready(1)
        future: BatchFuture[Any] = BatchFuture(LocalCall(fn, args, kwargs, self.config.seed, first))
        if self.inline:
            run_now(future, lambda: future._call())  # type: ignore[misc]
            return future
        try:
            call = self.call(fn)
        except PayloadError as error:
            future.fail(error)
        else:
            self.send([self.chunk(call, future, [(args, kwargs)], number, first)])
        return future

    def send_all(self, fn: Callable[..., Any], known: list[tuple[Any, ...]], size: int | None) -> ChunkFutures:
        """All items of a map, `size` to a chunk."""
        if not known:
            self.lifecycle.ready(0)
            return iter(())
        if size is None:
            size = max(1, math.ceil(len(known) / (self.capacity.at_once * _CHUNKS_PER_SLOT)))
        starts = range(0, len(known), size)
        number, first = self.lifecycle.ready(len(known), len(starts))
        if self.inline:
            return run_chunks(fn, known, size, self.config.seed, first)
        futures = [ChunkFuture[list[Outcome]](min(size, len(known) - start)) for start in starts]
        try:
            call = self.call(fn)
        except PayloadError as error:
            for future in futures:
                future.fail(error)
            return iter(futures)
        chunks = []
        for index, (start, future) in enumerate(zip(starts, futures, strict=True)):
            items: list[Item] = [(args, {}) for args in known[start : start + size]]
            chunks.append(self.chunk(call, future, items, number + index, first + start, offset=start, is_map=True))
        self.send(chunks)
        return iter(futures)

    def send_by_and_by(self, fn: Callable[..., Any], items: Iterator[tuple[Any, ...]], size: int) -> ChunkFutures:
        """The items of a map as they are asked for."""
        call: Call | None = None
        offset = 0
        while known := list(itertools.islice(items, size)):
            number, first = self.lifecycle.ready(len(known))
            if self.inline:
                yield from run_chunks(fn, known, len(known), self.config.seed, first)
                continue
            future = ChunkFuture[list[Outcome]](len(known))
            try:
                call = call or self.call(fn)
            except PayloadError as error:
                future.fail(error)
                yield future
                continue
            batch: list[Item] = [(args, {}) for args in known]
            self.send([self.chunk(call, future, batch, number, first, offset=offset, is_map=True)])
            offset += len(known)
            yield future

    def send_groups(self, call: Call, groups: list[list[Item]], offset: int) -> list[ChunkFuture[list[Outcome]]]:
        """Send each group of items as one chunk; `offset` is the number of the first in its call."""
        number, first = self.lifecycle.ready(sum(map(len, groups)), len(groups))
        futures = [ChunkFuture[list[Outcome]](len(items)) for items in groups]
        chunks = []
        for index, (items, future) in enumerate(zip(groups, futures, strict=True)):
            chunks.append(self.chunk(call, future, items, number + index, first, offset=offset, is_map=True))
            first, offset = first + len(items), offset + len(items)
        self.send(chunks)
        return futures

    def cancel(self, futures: set[ChunkFuture[list[Outcome]]]) -> None:
        """Nobody waits for these: cancel them, and end the tasks of those that run."""
        engine = self.lifecycle.engine
        if engine is not None and futures:
            for chunk in engine.board.unsettled():
                if chunk.future in futures and not chunk.future.cancel():
                    engine.board.cancel(chunk)

    def share(self, obj: Any) -> Any:
        """A handle that travels in the object's place. Raises PicklingError."""
        from batchexec._engine.sending.shared import Shared
        from batchexec._engine.sending.work import Part

        part = Part(obj, "the shared object")
        return Shared(obj, *part.blob, part.reached)

    # what calls and chunks are made of

    def call(self, fn: Callable[..., Any]) -> Call:
        """The callable, pickled. Raises PayloadError when it cannot be."""
        from batchexec._engine.sending.work import Call, Part

        name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
        needs = self._needs or self._own_needs()
        return Call(name, Part(fn, f"the callable {name}"), self.initializing(), self.config.seed, needs)

    def initializing(self) -> Part | None:
        """The initializer, pickled once. Raises PayloadError."""
        from batchexec._engine.sending.work import Part

        if self._initializer is not None and self._init_part is None:
            self._init_part = Part((self._initializer, self._initargs), "the initializer")
        return self._init_part

    def files(self) -> FileSet | None:
        """The configuration's `files`, looked at once. Raises FilesError."""
        if self.config.files and self._files is None:
            from batchexec._source.files.sets import file_set

            self._files = file_set(self.config.files)
        return self._files

    def chunk(
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
        """`number` is the chunk's, `first` its first item's in the executor, and `offset` that in the call."""
        from batchexec._engine.sending.work import Chunk, ItemsPart

        if self.on_azure and not call.warned:
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

    def send(self, chunks: list[Chunk]) -> None:
        engine = self.lifecycle.engine
        assert engine is not None
        engine.board.progress.items_added(sum(chunk.size for chunk in chunks))
        engine.submit(chunks)

    def _own_needs(self) -> Needs:
        """What tasks of functions need, made once: it is the same for all of them. Raises FilesError."""
        from batchexec._engine.sending.needs import Needs

        self._needs = Needs(
            **self.capacity.resources(),
            files=self.files(),
            outputs=self.config.outputs,
            output_dir=self.config.output_dir,
        )
        return self._needs

    def _warn_of_paths(self, call: Call, items: list[Item]) -> None:
        """Once for a call: paths of this machine mean nothing to nodes."""
        from batchexec._engine.results.hints import local_path

        text = local_path(items)
        if text is not None:
            assert self.lifecycle.engine is not None
            self.lifecycle.engine.board.progress.warn(f"{call.name}: {text}")
            call.warned = True
