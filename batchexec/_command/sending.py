"""Commands on their way: what `submit` and `map` of an executor do when they are given one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from batchexec._calls.caller import Caller
from batchexec._inline import LocalCall, run_chunks, run_now
from batchexec.errors import PayloadError
from batchexec.futures import BatchFuture, ChunkFuture, Outcome

from .calls import CommandCall
from .parameters import rows_of
from .values import CommandResult

if TYPE_CHECKING:
    from batchexec._engine.sending.work import Call, Chunk
    from batchexec.command import Command

Rows = list[tuple[Any, ...]]


class CommandSender:
    """Sends the Commands of one executor."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._ready = caller.lifecycle.ready
        self._tables = itertools.count(1)  # numbers for the tables of sweeps
        self._said: set[str] = set()  # warnings that were given

    def submit(self, command: Command, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BatchFuture[CommandResult]:
        """Raises TypeError and ValueError for what does not fit the command; what cannot be sent is the future's."""
        error: PayloadError | None = None
        again: Callable[..., CommandResult] = command
        try:
            runs = self._runs(command)
            again = runs.again
            runs.add(0, args, kwargs)
        except PayloadError as found:
            error = found
        number, first = self._ready(1, 1)
        future = BatchFuture[CommandResult](LocalCall(again, args, kwargs, None, first))
        if error is None and not self._caller.inline:
            try:
                call = self._call(runs)
            except PayloadError as found:
                error = found
        if error is not None:
            future.fail(error)
        elif self._caller.inline:
            run_now(future, lambda: runs.here(0, first))
        else:
            self._caller.send(
                [self._caller.chunk(call, future, [runs.item(0)], number, first, filesets=runs.sets([0]))]
            )
        return future

    def rows(self, iterables: Iterable[Any]) -> tuple[Iterable[Any], ...]:
        """What a map of a Command goes over. Raises TypeError for what is no several runs."""
        return tuple(map(rows_of, iterables))

    def send_all(
        self, command: Command, known: Rows, size: int, resume: str | os.PathLike[str] | None
    ) -> Iterator[ChunkFuture[list[Outcome]]]:
        """All runs of a map. What is wrong with one of them is raised before any is sent."""
        runs = self._runs(command)
        for index, args in enumerate(known):
            _add(runs, index, args)
        if not known:
            self._ready(0, 1)
            return iter(())
        number, first = self._ready(len(known), len(known))
        self._begin_sweep(runs, resume)
        try:
            runs.all_in_sweep(first)
            if self._caller.inline:
                return self._run_here(runs, [(index, first + index) for index in range(len(known))], size)
            return self._send_chunks(runs, len(known), size, number, first)
        except BaseException:
            if runs.sweep is not None:
                runs.sweep.close()
            raise

    def _run_here(
        self, runs: CommandCall, items: list[tuple[int, int]], size: int
    ) -> Iterator[ChunkFuture[list[Outcome]]]:
        try:
            yield from run_chunks(runs.here, items, size, None, items[0][1])
        finally:
            if runs.sweep is not None:
                runs.sweep.close()

    def _send_chunks(
        self, runs: CommandCall, count: int, size: int, number: int, first: int
    ) -> Iterator[ChunkFuture[list[Outcome]]]:
        call = self._call(runs)
        futures = []
        chunks = []
        for indices in _stretches(runs, count, size):
            if runs.is_done(indices.start):
                futures.append(runs.done(indices))
                continue
            chunk = self._chunk(runs, call, indices, number + indices.start, first + indices.start)
            chunks.append(chunk)
            futures.append(chunk.future)
        if chunks:
            self._caller.send(chunks)
        return iter(futures)

    def send_by_and_by(
        self, command: Command, items: Iterator[tuple[Any, ...]], size: int
    ) -> Iterator[ChunkFuture[list[Outcome]]]:
        """The runs of a map as they are asked for."""
        runs = self._runs(command)
        self._begin_sweep(runs, None)
        return self._sending(runs, items, size)

    def _sending(
        self, runs: CommandCall, items: Iterator[tuple[Any, ...]], size: int
    ) -> Iterator[ChunkFuture[list[Outcome]]]:
        call: Call | None = None
        start = 0
        try:
            while known := list(itertools.islice(items, size)):
                indices = range(start, start + len(known))
                start = indices.stop
                for index, args in zip(indices, known, strict=True):
                    _add(runs, index, args)
                number, first = self._ready(len(known), 1)
                for index in indices:
                    runs.in_sweep(index, first + index - indices.start)
                if self._caller.inline:
                    pairs = [(index, first + index - indices.start) for index in indices]
                    yield from run_chunks(runs.here, pairs, len(pairs), None, first)
                    continue
                call = call or self._call(runs)
                chunk = self._chunk(runs, call, indices, number, first)
                self._caller.send([chunk])
                yield chunk.future
        finally:
            if runs.sweep is not None:
                runs.sweep.complete()

    def _runs(self, command: Command) -> CommandCall:
        return CommandCall(
            command,
            self._caller.config,
            files=self._caller.files(),
            base=self._caller.lifecycle.base,
            said=self._said,
            on_azure=self._caller.on_azure,
            inline=self._caller.inline,
        )

    def _call(self, runs: CommandCall) -> Call:
        resources = self._caller.capacity.resources(runs.command.cores, runs.command.memory)
        return runs.call(resources, self._caller.initializing())

    def _begin_sweep(self, runs: CommandCall, resume: str | os.PathLike[str] | None) -> None:
        if resume is not None:
            if not isinstance(resume, (str, os.PathLike)):
                raise TypeError(f"resume= is the directory of the sweep, got {resume!r}")
            runs.begin_sweep(resume, "sweep.csv")
        elif runs.has_outputs:
            number = next(self._tables)
            runs.begin_sweep(None, "sweep.csv" if number == 1 else f"sweep-{number}.csv")

    def _chunk(self, runs: CommandCall, call: Call, indices: range, number: int, first: int) -> Chunk:
        return self._caller.chunk(
            call,
            runs.future(indices),
            [runs.item(index) for index in indices],
            number,
            first,
            offset=indices.start,
            is_map=True,
            filesets=runs.sets(indices),
        )


def _add(runs: CommandCall, index: int, args: tuple[Any, ...]) -> None:
    """Bind a run of a map; what does not fit says which one it is."""
    try:
        runs.add(index, args)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError  # some kinds take more than a text
        raise kind(f"item {index}: {error}") from None


def _stretches(runs: CommandCall, count: int, size: int) -> Iterator[range]:
    """Runs that come together: up to `size` of them, all done already or none."""
    start = 0
    while start < count:
        stop = start + 1
        while stop < min(start + size, count) and runs.is_done(stop) == runs.is_done(start):
            stop += 1
        yield range(start, stop)
        start = stop
