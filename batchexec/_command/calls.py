"""One `submit` or `map` of a Command as the executor needs it: a call, its items, and what becomes of their results."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchexec._engine.sending.needs import Needs
from batchexec._engine.sending.work import Call, Part
from batchexec._source.files.sets import FileSet
from batchexec._source.programs import executables
from batchexec._worker.programs import program
from batchexec.config import BatchConfig
from batchexec.errors import ConfigError
from batchexec.futures import ChunkFuture, Delivery, Finished, Outcome

from . import here, results
from .binding import Bound, Run
from .sweeps.keys import Keys
from .sweeps.sweep import Sweep
from .values import CommandResult

if TYPE_CHECKING:
    from batchexec.command import Command

# A task would need 8 ms to import them.
_PRELOADS = tuple(f"batchexec._worker.{name}" for name in ("programs.program", "files.placing", "outputs"))

_log = logging.getLogger("batchexec")

Item = tuple[tuple[Any, ...], dict[str, Any]]


class CommandCall:
    """The runs of one call, by their index in it."""

    def __init__(
        self,
        command: Command,
        config: BatchConfig,
        *,
        files: FileSet | None,
        base: str,
        said: set[str],
        on_azure: bool,
        inline: bool,
    ) -> None:
        """`base`: what relative directories for outputs are relative to; `said`: warnings that were given already.
        Raises FilesError and ConfigError."""
        target = executables.target_of(config.vm_size) if on_azure else executables.this_machine()
        self._bound = Bound(command, target=target, files=files, outputs=config.outputs)
        self._config = config
        self._base = base
        self._on_azure = on_azure
        if inline and self.has_outputs and not isinstance(config.output_dir, (str, os.PathLike)):
            raise ConfigError("output_dir: with where='inline' files are put into a directory, not into storage")
        self._said = said
        self._runs: dict[int, Run] = {}
        self._keys = Keys(command)
        self.sweep: Sweep | None = None

    @property
    def command(self) -> Command:
        return self._bound.command

    def add(self, index: int, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> None:
        """Bind a run. Raises TypeError, ValueError or FilesError."""
        self._runs[index] = self._keys.given(self._bound.run(args, kwargs), index)

    def begin_sweep(self, resume: str | os.PathLike[str] | None, name: str) -> None:
        """Have a table: in `resume`, whose runs that are done are not run again, or where outputs go."""
        if resume is not None:
            root = Path(self._base, os.path.expanduser(resume))
        else:
            root = Path(self._base, _root_of(self._config.output_dir))
        self.sweep = Sweep(root, self.command, resume=resume is not None, name=name)

    @property
    def has_outputs(self) -> bool:
        return bool(self.command.outputs or (self.command.outputs is None and self._config.outputs))

    def all_in_sweep(self, first_item: int) -> None:
        if self.sweep is not None:
            self.sweep.add_all([self._runs[index] for index in range(len(self._runs))], first_item)

    def in_sweep(self, index: int, item: int) -> None:
        if self.sweep is not None:
            self.sweep.add(index, self._runs[index], item)

    def is_done(self, index: int) -> bool:
        return self.sweep is not None and index in self.sweep.done

    def done(self, indices: Iterable[int]) -> ChunkFuture[list[Outcome]]:
        """The future of runs that need not be run again."""
        assert self.sweep is not None
        outcomes = [Outcome(self.sweep.done.pop(index), None) for index in indices]
        future = ChunkFuture[list[Outcome]](len(outcomes))
        future.show_running()
        future.set_result(outcomes)
        return future

    def future(self, indices: range) -> ChunkFuture[list[Outcome]]:
        """The future of a chunk of a map."""
        if self.sweep is None:
            return ChunkFuture(len(indices))
        return _SweepFuture(self.sweep, indices)

    def call(self, resources: dict[str, Any], init: Part | None) -> Call:
        """Raises PayloadError."""
        for text in self._bound.warnings:
            if text not in self._said:
                self._said.add(text)
                _log.warning(text)
        needs = Needs(**resources, output_dir=self._config.output_dir)
        code = Part(program.run, "a command")
        if self._bound.modules and "auto" in (self._config.requirements or (("auto",) if self._on_azure else ())):
            code.reached = code.reached._replace(third_party=tuple(sorted(self._bound.modules)))
        what = self.command.text.split()[0]
        destination: Callable[[int, int], Path] | None = None
        if self.sweep is not None and self.sweep.resume:
            sweep = self.sweep
            destination = lambda item, index: sweep.directory(index)  # noqa: E731
        return Call(
            what,
            code,
            init,
            None,
            needs,
            destination=destination,
            finish=self._finish,
            warned=True,
            preloads=_PRELOADS,
        )

    def item(self, index: int) -> Item:
        return (self._runs[index].spec,), {}

    def sets(self, indices: Iterable[int]) -> tuple[FileSet, ...]:
        """All file sets that these runs need."""
        own = (self._runs[index].own for index in indices)
        return tuple(dict.fromkeys([*self._bound.sets, *(one for one in own if one is not None)]))

    def again(self, *args: Any, **kwargs: Any) -> CommandResult:
        """A run in this process, with what the executor gives to its runs; outputs stay in a temporary directory."""
        return here.run(self._bound, args, kwargs)

    def here(self, index: int, item: int) -> CommandResult:
        """Run it in this process (where="inline")."""
        if self.sweep is not None and index in self.sweep.done:
            return self.sweep.done.pop(index)
        run = self._runs.pop(index)
        directory: Path | None = None
        if self.sweep is not None and self.sweep.resume:
            directory = self.sweep.directory(index)
        elif self.has_outputs:
            directory = Path(self._base, os.path.expanduser(os.fspath(self._config.output_dir).format(item=item)))
        try:
            outcome = here.perform(self._bound, run, directory)
        except Exception as error:  # noqa: BLE001 - the table has it, and then the caller
            outcome = Outcome(None, error)
        if self.sweep is not None:
            self.sweep.finished(index, outcome, "", 0.0)
        if outcome.error is not None:
            raise outcome.error
        assert isinstance(outcome.value, CommandResult)
        return outcome.value

    def _finish(self, finished: Finished) -> Outcome:
        """On a resolver thread."""
        run = self._runs.pop(finished.index)
        if finished.error is not None:
            outcome = Outcome(None, finished.error)
        else:
            outcome = results.outcome(
                self._bound,
                run,
                finished.value,
                finished.outputs,
                results.describe(finished.index, run),
                task_id=finished.task_id,
                node_id=finished.node_id,
            )
        if self.sweep is not None:
            self.sweep.finished(finished.index, outcome, finished.node_id, finished.seconds)
        return outcome


class _SweepFuture(ChunkFuture[list[Outcome]]):
    """Tells the sweep of runs that end without a result of their own, before anyone who waits hears of it."""

    def __init__(self, sweep: Sweep, indices: range) -> None:
        super().__init__(len(indices))
        self._sweep = sweep
        self._indices = indices

    def deliver(self, delivery: Delivery) -> None:
        self._sweep.over(self._indices, None)
        super().deliver(delivery)

    def fail(self, error: BaseException) -> None:
        self._sweep.over(self._indices, error)
        super().fail(error)

    def cancel(self) -> bool:
        try:
            return super().cancel()
        finally:  # a callback may have raised
            if self.cancelled():
                self._sweep.over(self._indices, None)


def _root_of(output_dir: Any) -> str:
    """The directory that all items' directories are in."""
    if not isinstance(output_dir, (str, os.PathLike)):
        return "outputs"  # files stay in storage; the table does not
    text = os.path.expanduser(os.fspath(output_dir))
    head, brace, _ = text.partition("{")
    return os.path.dirname(head) if brace else text
