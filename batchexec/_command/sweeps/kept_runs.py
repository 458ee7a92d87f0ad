"""A run that is over as a line of its table, and what is kept of it beside the table, to have its result again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchexec._command.values import CommandResult
from batchexec.errors import CommandFailed, OutputError
from batchexec.futures import Outcome

from .table import Row

_KEPT = ".sweep"  # directory beside the table: what a CommandResult has and the table has not
_KEPT_CHARS = 64 * 1024  # of standard output and error


def result_of(outcome: Outcome) -> CommandResult | None:
    """What came of a run, whether it is its value or within its error."""
    result = outcome.value if outcome.error is None else getattr(outcome.error, "result", None)
    return result if isinstance(result, CommandResult) else None


def row_of(
    item: int, key: str, parameters: Mapping[str, Any], outcome: Outcome, node: str, seconds: float, root: Path
) -> Row:
    """The line in a table in `root`. `seconds`: how long it took, where no result tells."""
    result = result_of(outcome)
    error = "" if outcome.error is None else _first_line(outcome.error)
    outputs: Sequence[Any] = ()
    code = getattr(outcome.error, "exit_code", None)
    if result is not None:
        seconds, outputs, code = result.seconds, result.outputs, result.exit_code
    if not isinstance(outcome.error, (CommandFailed, OutputError, type(None))):
        code = None  # of the worker, not the program
    texts = {name: str(value) for name, value in parameters.items()}
    return Row(item, texts, code, seconds, node, [_relative(path, root) for path in outputs], error, key)


def keep(root: Path, row: Row, result: CommandResult) -> None:
    directory = root / _KEPT
    directory.mkdir(exist_ok=True)
    kept = {
        **{"key": row.key, "stdout": result.stdout[-_KEPT_CHARS:], "stderr": result.stderr[-_KEPT_CHARS:]},
        "named": {name: [_relative(path, root) for path in paths] for name, paths in result.named.items()},
        **{"staging": result.staging_seconds, "command": result.command},
        "cut": result.cut or max(len(result.stdout), len(result.stderr)) > _KEPT_CHARS,
    }
    scratch = directory / f"{row.item}.json.part"
    scratch.write_text(json.dumps(kept), "utf-8")
    os.replace(scratch, directory / f"{row.item}.json")


def result_again(root: Path, row: Row, parameters: dict[str, Any], command: str) -> CommandResult | None:
    """What came of a run that is done; None for one that is to be run again. `command`: the text to show for it where
    nothing was kept."""
    paths = [root.joinpath(*one.split("/")) for one in row.outputs]
    # A table may have been edited, or be someone else's: what it names elsewhere is no output of the sweep.
    there = all(map(_below, row.outputs)) and all(path.is_file() for path in paths)
    if not row.good or not there:
        return None
    try:
        kept = json.loads((root / _KEPT / f"{row.item}.json").read_text("utf-8"))
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
        named={name: [root.joinpath(*one.split("/")) for one in ones] for name, ones in names.items()},
        seconds=row.seconds or 0.0,
        staging_seconds=kept.get("staging", 0.0),
        node_id=row.node,
        parameters=parameters,
        command=kept.get("command", command),
        cut=kept.get("cut", False),
    )


def _relative(path: Any, root: Path) -> str:
    if not isinstance(path, Path):
        return str(path)
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # another drive
        return str(path)


def _below(path: str) -> bool:
    """Whether a relative path of a table leads nowhere else."""
    return {"", ".", ".."}.isdisjoint(path.split("/")) and not Path(path).drive


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]
