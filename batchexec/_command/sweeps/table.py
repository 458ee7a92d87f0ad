"""A sweep's table: a line for each run that is over, whole at any moment, and in the order of the runs at the end."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

NAME = "sweep.csv"  # of a sweep, also of one that is fetched: `resume=` goes on from it
_BEFORE = ("item",)
_AFTER = ("exit_code", "seconds", "node", "outputs", "error", "key")
_UNSAFE = re.compile(r"[%;\x00-\x1f\x7f]")


class Row(NamedTuple):
    """`item` is the run's number and its directory's name, `outputs` are paths relative to the table's directory."""

    item: int
    parameters: Mapping[str, str]
    exit_code: int | None  # None: it did not come to an end
    seconds: float | None
    node: str
    outputs: Sequence[str]
    error: str
    key: str

    @property
    def good(self) -> bool:
        return self.exit_code == 0 and not self.error


class Table:
    """The file `path`. One writer at a time; see `locks`."""

    def __init__(self, path: Path, parameters: Iterable[str], rows: Iterable[Row] = ()) -> None:
        """Begin it, with columns for these parameters and with these rows."""
        self.path = path
        self.rows = {row.item: row for row in rows}
        names = dict.fromkeys(name for row in self.rows.values() for name in row.parameters)
        names.update(dict.fromkeys(parameters))
        self._parameters = list(names)
        self._torn = False  # whether the file may lack columns, or the end of a line
        self._rewrite()

    def add(self, row: Row) -> None:
        """Append a line, in one write."""
        new = [name for name in row.parameters if name not in self._parameters]
        self.rows[row.item] = row
        if new or self._torn:  # a later row has a parameter that no row before it had, or a write failed
            self._parameters += new
            self._torn = True
            self._rewrite()
            return
        line = self._lines([row])
        self._torn = True
        with open(self.path, "ab", buffering=0) as file:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False

    def finish(self) -> None:
        """Bring the lines into the order of the runs."""
        self._rewrite()

    def _rewrite(self) -> None:
        scratch = self.path.with_name(f"{self.path.name}.part-{secrets.token_hex(4)}")
        columns = [*_BEFORE, *(_column(name) for name in self._parameters), *_AFTER]
        ordered = [self.rows[item] for item in sorted(self.rows)]
        try:
            with open(scratch, "wb") as file:
                file.write(_line(columns))
                file.write(self._lines(ordered))
            os.replace(scratch, self.path)
            self._torn = False
        finally:
            scratch.unlink(missing_ok=True)

    def _lines(self, rows: Iterable[Row]) -> bytes:
        return b"".join(
            _line(
                [
                    row.item,
                    *(row.parameters.get(name, "") for name in self._parameters),
                    "" if row.exit_code is None else row.exit_code,
                    "" if row.seconds is None else f"{row.seconds:.6f}",
                    row.node,
                    ";".join(_UNSAFE.sub(lambda found: quote(found[0], safe=""), path) for path in row.outputs),
                    row.error,
                    row.key,
                ]
            )
            for row in rows
        )


def set_aside(path: Path) -> None:
    """Have a table of an earlier run beside the one that is to come."""
    if path.exists():
        os.replace(path, path.with_name(f"{path.stem}.previous{path.suffix}"))


def read(path: Path) -> list[Row]:
    """The rows of a table, the last one of each run; what a writer that was killed left unfinished is passed over."""
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return []
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        return _read(path, text)
    finally:
        csv.field_size_limit(limit)


def _read(path: Path, text: str) -> list[Row]:
    found: dict[int, Row] = {}
    # Spreadsheets write a mark before the text, and numbers of columns with gaps as 1.0.
    lines = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=False)
    columns = next(lines, [])
    if columns[:1] != list(_BEFORE) or columns[-len(_AFTER) :] != list(_AFTER):
        has = f"it has the columns {', '.join(columns)}" if columns else "it is empty"
        if columns and columns[0].startswith(f"{_BEFORE[0]};"):
            has = "its columns are separated by ';' (save it with commas)"
        raise ValueError(f"{str(path)!r} is no table of a sweep: {has}")
    parameters = [name.removeprefix("parameter.") for name in columns[len(_BEFORE) : -len(_AFTER)]]
    for line in lines:
        if len(line) != len(columns) or not re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]{12}(-\d+)?", line[-1]):
            continue
        code, seconds, node, outputs, error, key = line[-len(_AFTER) :]
        try:
            item, exit_code, duration = (int(float(line[0])), int(float(code or 0)), float(seconds or 0))
        except (ValueError, OverflowError):
            continue
        row = Row(
            item,
            dict(zip(parameters, line[1 : -len(_AFTER)], strict=True)),
            exit_code if code else None,
            duration if seconds else None,
            node,
            [unquote(one, errors="surrogateescape") for one in outputs.split(";")] if outputs else [],
            error,
            key,
        )
        found[row.item] = row
    return list(found.values())


def _line(cells: Sequence[Any]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _column(name: str) -> str:
    """A parameter may be called as one of our columns."""
    return f"parameter.{name}" if name in (*_BEFORE, *_AFTER) or name.startswith("parameter.") else name
