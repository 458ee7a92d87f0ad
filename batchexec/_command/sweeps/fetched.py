"""Runs of a job without its client (`batchexec fetch`): their results, and the table that their sweep would have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchexec._command import results
from batchexec._command.values import CommandResult
from batchexec._engine.earlier_jobs import Item
from batchexec.errors import BatchExecError
from batchexec.futures import Outcome

from . import kept_runs, table
from .locks import Lock
from .table import Row, Table


def value(item: Item) -> Any:
    """The item's value, or the CommandResult of a run, whatever its exit code."""
    return item.value if item.asked is None or item.error is not None else _result(item)


def write_table(path: Path, items: Sequence[Item], unfinished: Sequence[Item], brought: bool) -> int:
    """Write a line for each run of a Command among the items, and return how many there are; none, no table.

    brought: their files are in the table's directory; what a map with `resume=` needs is then kept beside the table.
    An earlier table is kept beside it. Raises OutputError where another process writes it.
    """
    runs = [item for item in (*items, *unfinished) if item.asked is not None]
    if not runs:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(path.with_name(f"{path.name}.lock"), f"the table {str(path)!r}")
    try:
        table.set_aside(path)
        Table(path, (), [_row(item, path.parent, brought) for item in runs])
    finally:
        lock.release()
    return len(runs)


def _row(item: Item, root: Path, brought: bool) -> Row:
    asked = item.asked or {}
    outcome = _outcome(item)
    row = kept_runs.row_of(item.number, asked["key"], asked["parameters"], outcome, item.node_id, item.seconds, root)
    if item.value is None and item.error is None:
        return row._replace(seconds=None)
    if not brought:  # as they will be called
        return row._replace(outputs=[f"{item.number}/{one}" for one in row.outputs])
    result = kept_runs.result_of(outcome)
    if result is not None:
        kept_runs.keep(root, row, result)
    return row


def _outcome(item: Item) -> Outcome:
    if item.error is not None:
        return Outcome(None, item.error)
    if item.value is None:
        return Outcome(None, BatchExecError("it has no result: it did not run yet, was ended, or its worker died"))
    asked, result = item.asked or {}, _result(item)
    error = results.error(item.value, result, asked["what"], asked["check"], asked["timeout"])
    return Outcome(None, error) if error is not None else Outcome(result, None)


def _result(item: Item) -> CommandResult:
    said, asked = item.value, item.asked or {}
    # Files that were not brought have the names of there.
    outputs = item.outputs if len(item.outputs) == len(said["outputs"]) else [path for path, _ in said["outputs"]]
    names = dict.fromkeys(name for _, its_names in said["outputs"] for name in its_names)
    return results.result(said, names, outputs, item.node_id, dict(asked["parameters"]), asked["shell"])
