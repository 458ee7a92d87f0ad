"""The rows of a map of a Command: what it goes over, and the parameters that one of them gives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any


def rows_of(given: Any) -> Iterable[Any]:
    """What a map goes over: of a frame of pandas, its rows. Raises TypeError for what is a single run, and would be
    taken apart: into letters, or into the names of its parameters."""
    if isinstance(given, (str, bytes, os.PathLike)):
        raise TypeError(f"map goes over several runs, got {given!r}: give a list, as of Path('cases').glob('*.txt')")
    if isinstance(given, Mapping):
        raise TypeError("map goes over several runs, got one mapping: give a list of them, [dict(n=1), dict(n=2)]")
    if hasattr(given, "itertuples"):
        rows: Iterable[Any] = given.to_dict("records")
        return rows
    return given  # type: ignore[no-any-return]


def parameters_of(row: Any) -> dict[Any, Any]:
    """What a run is given, by name. What is no mapping, named tuple or row of pandas is its `input`."""
    if isinstance(row, Mapping):
        return dict(row)
    if isinstance(row, tuple) and hasattr(row, "_asdict"):
        return dict(row._asdict())
    if hasattr(row, "items") and hasattr(row, "to_dict"):
        return dict(row.to_dict())
    return {"input": row}
