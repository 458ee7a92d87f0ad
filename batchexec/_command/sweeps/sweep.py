"""A map over a command: which of its runs are done already, where their files go, and the table that tells of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from batchexec._command.binding import Run
from batchexec._command.values import CommandResult
from batchexec.errors import BrokenBatchExecutor, OutputError
from batchexec.futures import Outcome

from . import kept_runs, table
from .locks import Lock
from .table import Table

if TYPE_CHECKING:
    from batchexec.command import Command

_log = logging.getLogger("batchexec")


class Sweep:
    """The table in `root`. With `resume`, what it says is done is not run again, and files go to `root`/<item>."""

    def __init__(self, root: Path, command: Command, *, resume: bool, name: str = table.NAME) -> None:
        """Raises OutputError when another process writes the table, what is there is none, or it cannot be written."""
        self.root = root
        self.resume = resume
        self.done: dict[int, CommandResult] = {}
        """Results of runs that need not be run again, by their index in the map."""
        self._command = command
        self._lock = threading.Lock()
        self._runs: dict[int, tuple[int, Run]] = {}  # by index: item, run
        self._items: dict[int, int] = {}
        self._open: set[int] = set()  # indices of runs that are not over
        self._complete = False
        self._warned = False  # that the table cannot be written
        path = root / name
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._file_lock = Lock(root / f"{name}.lock", f"the table {str(path)!r}")
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            rows = table.read(path) if resume else []
            self._old = {row.key: row for row in rows}
            self._superseded: dict[str, list[int]] = {}  # by parameters: items of runs that are asked for no more
            self._used = {row.item for row in rows}
            if not resume:  # its files are about to be replaced
                table.set_aside(path)
            self._table = Table(path, (), rows)
        except ValueError as error:
            self._file_lock.release()
            raise OutputError(f"{error}. Choose another directory") from None
        except OSError as error:
            self._file_lock.release()
            raise _unwritable(path, error) from error
        except BaseException:
            self._file_lock.release()
            raise

    def add_all(self, runs: Sequence[Run], first_item: int) -> None:
        """All runs of the map; the first one's number in the executor."""
        asked = {run.key for run in runs}
        for row in self._old.values():
            if row.key not in asked:
                self._superseded.setdefault(row.key[:12], []).append(row.item)
        for index, run in enumerate(runs):
            self.add(index, run, first_item + index)
        self.complete()

    def add(self, index: int, run: Run, item: int) -> None:
        """A run of the map; `item` is its number in the executor."""
        if self.resume:
            row = self._old.get(run.key)
            item = row.item if row is not None else self._place_for(run.key, index)
            text = self._command.text
            result = kept_runs.result_again(self.root, row, run.parameters, text) if row is not None else None
            if result is not None:
                self.done[index] = result
                return
        with self._lock:
            self._items[index] = item
            self._runs[index] = (item, run)
            self._open.add(index)

    def complete(self) -> None:
        """All runs have been added."""
        with self._lock:
            self._complete = True
        self._look()

    def close(self) -> None:
        """Nothing more comes: bring the table into its order, and give it up."""
        with self._lock:
            self._complete = True
            self._open.clear()
        self._look()

    def directory(self, index: int) -> Path:
        return self.root / str(self._items[index])

    def finished(self, index: int, outcome: Outcome, node: str, seconds: float) -> None:
        """A run is over: write its line. Nothing happens when it has one."""
        with self._lock:
            if index not in self._open:
                return
            item, run = self._runs.pop(index)
            row = kept_runs.row_of(item, run.key, run.parameters, outcome, node, seconds, self.root)
            result = kept_runs.result_of(outcome)
            if self.resume and result is not None:
                self._write(lambda: kept_runs.keep(self.root, row, result))
            self._write(lambda: self._table.add(row))
            self._open.discard(index)
        self._look()

    def over(self, indices: Iterable[int], error: BaseException | None) -> None:
        """These runs are over, or will never be run. Those that failed with their task have a line of their own; those
        that ended with the executor have none."""
        for index in indices:
            if error is not None and not isinstance(error, BrokenBatchExecutor):
                self.finished(index, Outcome(None, error), getattr(error, "node_id", None) or "", 0.0)
        with self._lock:
            self._open.difference_update(indices)
            for index in indices:
                self._runs.pop(index, None)
        self._look()

    # inside

    def _look(self) -> None:
        with self._lock:
            if self._complete and not self._open:
                self._complete = False  # once
                try:
                    self._write(self._table.finish)
                finally:
                    self._file_lock.release()

    def _write(self, write: Callable[[], None]) -> None:
        """A run has its result whether or not the disk has room for its line."""
        try:
            write()
        except OSError as error:
            if not self._warned:
                self._warned = True
                _log.warning(
                    f"{str(self._table.path)!r} cannot be written: {error.strerror or error}. The results are not "
                    "touched by that; a map with resume= runs again what the table lacks"
                )

    def _place_for(self, key: str, index: int) -> int:
        """A number for a run that the table does not know: the one of the same parameters for another command, its
        index, or one beyond all."""
        earlier = self._superseded.get(key[:12])
        if earlier:
            item = earlier.pop(0)
        else:
            item = index if index not in self._used else max(self._used) + 1
        self._used.add(item)
        return item


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"the table of the sweep, {str(path)!r}, cannot be written: {error.strerror or error}. Choose another "
        "directory by output_dir= of BatchExecutor, or resume="
    )
