"""What a script needs, read from its source: it is not run."""

from __future__ import annotations

import ast
import os
import sys
from typing import NamedTuple

from batchexec._source.conditions import When
from batchexec._source.imports import source_imports
from batchexec._source.modules import Kind, kind, top_level
from batchexec._source.reach import unloaded_imports
from batchexec.errors import RequirementsError


class Needed(NamedTuple):
    """Modules by their full names: the user's own (top-level names), third-party ones, and those not found here (but
    for those that the script only tries to import)."""

    local: frozenset[str]
    third_party: frozenset[str]
    missing: frozenset[str]


def needed_by(path: str) -> Needed:
    """What the script at `path` and the user's modules that it imports import, functions included.

    Its directory is searched first, as if it were run. Raises RequirementsError when it cannot be read, or is none.
    """
    path = os.path.abspath(path)
    _refuse_what_is_none(path)
    sys.path.insert(0, os.path.dirname(path))
    state = os.stat(path)
    imports = source_imports(path, state.st_mtime_ns, state.st_size)
    found: dict[Kind, set[str]] = {what: set() for what in Kind}
    used = set()
    for item in imports:
        base = item.absolute("") if item.when is not When.ELSEWHERE else None
        if base is not None and top_level(base) not in sys.stdlib_module_names:
            what = kind(base)
            if what is not Kind.MISSING or item.when is not When.IF_IT_CAN:
                found[what].add(base)
            if what is not Kind.MISSING:
                used |= {base, *(f"{base}.{name}" for name in item.names)}
    local = frozenset(map(top_level, found[Kind.LOCAL]))
    third_party = found[Kind.INSTALLED] | unloaded_imports(local, used)
    return Needed(local, frozenset(third_party), frozenset(found[Kind.MISSING]))


def _refuse_what_is_none(path: str) -> None:
    """Raise RequirementsError for what Python would not run."""
    if path.endswith(".ipynb"):  # which is JSON, and reads as Python that imports nothing
        raise RequirementsError(f"{path} is a notebook: jupyter nbconvert --to script makes a script of it")
    try:
        with open(path, "rb") as file:
            ast.parse(file.read())
    except OSError as error:
        raise RequirementsError(f"cannot read {path}: {error.strerror or error}") from error
    except SyntaxError as error:
        raise RequirementsError(f"{path}, line {error.lineno}: {error.msg}") from error
    except ValueError as error:
        raise RequirementsError(f"{path} is no Python: {error}") from error
