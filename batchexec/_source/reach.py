"""From the modules that a pickle names to all that a worker must have to import them."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from batchexec._source.conditions import When
from batchexec._source.imports import Import
from batchexec._source.layout import Entry, entries
from batchexec._source.modules import Kind, Place, kind, place, top_level
from batchexec.errors import SourceError

_FRESH_SECONDS = 1.0


class Reached(NamedTuple):
    """What a pickled object needs on a worker.

    `local`: top-level names of the user's own modules and of those of theirs that they import in turn;
    `third_party`: full names of third-party modules, sorted.
    """

    local: frozenset[str] = frozenset()
    third_party: tuple[str, ...] = ()


NOTHING = Reached()


def reach(required: frozenset[str], met: frozenset[str]) -> Reached:
    """What a worker needs for the modules `required`, imported by name, and `met`, which may be imported.

    Files and loaded modules are looked at again at most once a second. Raises SourceError for a required
    module that exists in this process only, and for local files that cannot be read.
    """
    return _reach(required, met, int(time.monotonic() / _FRESH_SECONDS)) if required or met else NOTHING


def local_closure(tops: Iterable[str]) -> dict[str, list[Entry]]:
    """The files of the local modules `tops` and of all local modules that they import, by top-level name."""
    found: dict[str, list[Entry]] = {}
    seen = set()
    pending = set(tops)
    while pending:
        top = pending.pop()
        seen.add(top)
        if kind(top) is Kind.LOCAL:
            found[top] = entries(top)
            for entry in found[top]:
                pending |= {top_level(name) for name in imported(entry.imports(), entry.package())}
            pending -= seen
    return found


def unloaded_imports(tops: Iterable[str], used: Iterable[str] = ()) -> set[str]:
    """Third-party modules that the local modules `tops` import when they are used and that are not loaded here yet.

    Of a package's modules those count that are loaded or `used`, and what they import in turn; of imports those that a
    node comes by.
    """
    used = {inner for name in used for inner in _with_parents(name)}
    entries_by_name = {e.module(): e for group in local_closure(tops).values() for e in group if e.name.endswith(".py")}
    pending = [name for name in entries_by_name if name in sys.modules or name in used or "." not in name]
    seen = set(pending)
    found: set[str] = set()
    checked: dict[str, Kind] = {}  # by top-level name
    while pending:
        entry = entries_by_name[pending.pop()]
        for item in entry.imports():
            base = item.absolute(entry.package()) if item.on_nodes else None
            if base is None:
                continue
            names = {base, *(f"{base}.{name}" for name in item.names)}
            local = {inner for name in names for inner in _with_parents(name) if inner in entries_by_name}
            pending += local - seen
            seen |= local
            top = top_level(base)
            if not local and top not in sys.stdlib_module_names:
                if top not in checked:
                    checked[top] = kind(base)
                if checked[top] is Kind.INSTALLED:  # a namespace's modules may be several distributions'
                    found |= names if (place(top) or Place(None, ())).file is None else {base}
    return found


def is_only_tried(tops: Iterable[str], module: str) -> bool:
    """Whether the local modules `tops` import `module`, and only where they can do without (`except ImportError`)."""
    whens = set()
    for entry in (entry for group in local_closure(tops).values() for entry in group):
        for item in entry.imports():
            base = item.absolute(entry.package())
            if item.on_nodes and base is not None and top_level(base) == top_level(module):
                whens.add(item.when)
    return whens == {When.IF_IT_CAN}


def _with_parents(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


def imported(imports: Iterable[Import], package: str) -> Iterator[str]:
    """Full names of the modules that `imports` bring in: a.b for `from a import b` when that is a module."""
    for item in imports:
        base = item.absolute(package)
        if base is None:
            continue
        inner = [name for n in item.names if (name := f"{base}.{n}") in sys.modules]
        yield from inner
        if not inner or len(inner) < len(item.names):
            yield base


@functools.lru_cache(maxsize=256)
def _reach(required: frozenset[str], met: frozenset[str], _when: int) -> Reached:
    local = set()
    third_party = set()
    for name in required | met:
        what = kind(name)
        if what is Kind.LOCAL:
            local.add(top_level(name))
        elif what is Kind.INSTALLED:
            third_party.add(name)
        elif what is Kind.MISSING and name in required and name in sys.modules:
            raise SourceError(
                f"module {name!r} was made in this process and has no file, so a worker cannot import it: "
                "put its code into a file, or define the callable in the main script"
            )
    files = local_closure(local)
    for entry in (e for group in files.values() for e in group):
        # Of a package's modules only those in use here say what is worth loading there.
        if entry.name.endswith(".py") and entry.module() in sys.modules:
            for name in imported((item for item in entry.imports() if item.on_nodes), entry.package()):
                if name in sys.modules and kind(name) is Kind.INSTALLED:
                    third_party.add(name)
    return Reached(frozenset(files), tuple(sorted(third_party)))
