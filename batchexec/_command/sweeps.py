"""A map over a command: which of its runs are done already, where their files go, and the table that tells of them."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchexec.errors import BrokenBatchExecutor, CommandFailed, OutputError
from batchexec.futures import Outcome

from . import table
from .binding import Run
from .locks import Lock
from .table import Row, Table
from .values import CommandResult

if TYPE_CHECKING:
    from batchexec.command import Command

_FILE = "sweep.csv"
_KEPT = ".sweep"  # directory beside the table: what a CommandResult has and the table has not
_KEPT_CHARS = 64 * 1024  # of standard output and error


class Sweep:
    """The table in `root`. With `resume`, what it says is done is not run again, and files go to `root`/<item>."""

    def __init__(self, root: Path, command: Command, *, resume: bool, name: str = _FILE) -> None:
        """Raises OutputError when another process writes the table, or what is there is none."""
        self.root = root
        self.resume = resume
        self.done: dict[int, CommandResult] = {}
        """Results of runs that need not be run again, by their index in the map."""
        self._command = command
        self._asked = _digest(
            [
                *(str(command.command), str(command.inputs), str(command.outputs), sorted(command.env.items())),
                *(str(command.app), command.when, command.shell),
            ]
        )
        self._lock = threading.Lock()
        self._runs: dict[int, tuple[int, Run, str]] = {}  # by index: item, run, key
        self._items: dict[int, int] = {}
        self._open: set[int] = set()  # indices of runs that are not over
        self._complete = False
        self._seen: dict[str, int] = {}
        root.mkdir(parents=True, exist_ok=True)
        path = root / name
        self._file_lock = Lock(root / f"{name}.lock", f"the table {str(path)!r}")
        try:
            rows = table.read(path) if resume else []
            self._old = {row.key: row for row in rows}
            self._superseded: dict[str, list[int]] = {}  # by parameters: items of runs that are asked for no more
            self._used = {row.item for row in rows}
            if not resume and path.exists():  # of an earlier run: its files are about to be replaced
                os.replace(path, path.with_name(f"{path.stem}.previous{path.suffix}"))
            self._table = Table(path, (), rows)
        except ValueError as error:
            self._file_lock.release()
            raise OutputError(f"{error}. Choose another directory") from None
        except BaseException:
            self._file_lock.release()
            raise

    def add_all(self, runs: Sequence[Run], first_item: int) -> None:
        """All runs of the map; the first one's number in the executor."""
        keys = [self._key(run) for run in runs]
        asked = set(keys)
        for row in self._old.values():
            if row.key not in asked:
                self._superseded.setdefault(row.key[:12], []).append(row.item)
        for index, (run, key) in enumerate(zip(runs, keys, strict=True)):
            self._add(index, run, key, first_item + index)
        self.complete()

    def add(self, index: int, run: Run, item: int) -> None:
        """A run of a map that brings them by and by; `item` is its number in the executor."""
        self._add(index, run, self._key(run), item)

    def _add(self, index: int, run: Run, key: str, item: int) -> None:
        if self.resume:
            row = self._old.get(key)
            item = row.item if row is not None else self._place_for(key, index)
            result = self._result(row, run) if row is not None else None
            if result is not None:
                self.done[index] = result
                return
        with self._lock:
            self._items[index] = item
            self._runs[index] = (item, run, key)
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
            item, run, key = self._runs.pop(index)
            result = outcome.value if outcome.error is None else getattr(outcome.error, "result", None)
            error = "" if outcome.error is None else _first_line(outcome.error)
            outputs: Sequence[Any] = ()
            if isinstance(result, CommandResult):
                seconds, outputs = result.seconds, result.outputs
                if self.resume:
                    self._keep(item, key, result)
            code = result.exit_code if isinstance(result, CommandResult) else getattr(outcome.error, "exit_code", None)
            if not isinstance(outcome.error, (CommandFailed, OutputError, type(None))):
                code = None  # of the worker, not the program
            parameters = {name: str(value) for name, value in run.parameters.items()}
            paths = [self._relative(path) for path in outputs]
            self._table.add(Row(item, parameters, code, seconds, node, paths, error, key))
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
                    self._table.finish()
                finally:
                    self._file_lock.release()

    def _key(self, run: Run) -> str:
        """What was asked: its parameters, then the command and the content of the run's own files."""
        parameters = sorted((name, str(value)) for name, value in run.parameters.items())
        key = f"{_digest(parameters)}-{_digest([self._asked, run.own.id]) if run.own else self._asked}"
        count = self._seen[key] = self._seen.get(key, -1) + 1
        return f"{key}-{count}" if count else key

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

    def _result(self, row: Row, run: Run) -> CommandResult | None:
        """What came of a run that is done; None for one that is to be run again."""
        paths = [self.root.joinpath(*one.split("/")) for one in row.outputs]
        # A table may have been edited, or be someone else's: what it names elsewhere is no output of the sweep.
        there = all(map(_below, row.outputs)) and all(path.is_file() for path in paths)
        if not row.good or not there:
            return None
        try:
            kept = json.loads((self.root / _KEPT / f"{row.item}.json").read_text("utf-8"))
        except (OSError, ValueError):
            kept = {}
        if not isinstance(kept, dict) or kept.get("key") != row.key:
            kept = {}
        names = {name: [one for one in ones if one in row.outputs] for name, ones in kept.get("named", {}).items()}
        return CommandResult(
            exit_code=0,
            stdout=kept.get("stdout", ""),
            stderr=kept.get("stderr", ""),
            outputs=paths,
            named={name: [self.root.joinpath(*one.split("/")) for one in ones] for name, ones in names.items()},
            seconds=row.seconds or 0.0,
            staging_seconds=kept.get("staging", 0.0),
            node_id=row.node,
            parameters=run.parameters,
            command=kept.get("command", self._command.text),
            cut=kept.get("cut", False),
        )

    def _keep(self, item: int, key: str, result: CommandResult) -> None:
        directory = self.root / _KEPT
        directory.mkdir(exist_ok=True)
        kept = {
            **{"key": key, "stdout": result.stdout[-_KEPT_CHARS:], "stderr": result.stderr[-_KEPT_CHARS:]},
            "named": {name: [self._relative(path) for path in paths] for name, paths in result.named.items()},
            **{"staging": result.staging_seconds, "command": result.command},
            "cut": result.cut or max(len(result.stdout), len(result.stderr)) > _KEPT_CHARS,
        }
        scratch = directory / f"{item}.json.part"
        scratch.write_text(json.dumps(kept), "utf-8")
        os.replace(scratch, directory / f"{item}.json")

    def _relative(self, path: Any) -> str:
        if not isinstance(path, Path):
            return str(path)
        try:
            return Path(os.path.relpath(path, self.root)).as_posix()
        except ValueError:  # another drive
            return str(path)


def _below(path: str) -> bool:
    """Whether a relative path of a table leads nowhere else."""
    return {"", ".", ".."}.isdisjoint(path.split("/")) and not Path(path).drive


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]
