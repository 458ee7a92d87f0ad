"""What a Python script that is run as a program needs: modules that lie beside it, and packages. It is not run."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from batchexec._source.imports import source_imports
from batchexec._source.modules import Kind, kind, top_level


class Script(NamedTuple):
    """`beside`: files and directories of the script's directory that it imports, directly or by one of them;
    `third_party`: full names of modules of packages that are installed here."""

    beside: tuple[str, ...]
    third_party: frozenset[str]


def of_script(path: str) -> Script:
    """Raises OSError when it cannot be read."""
    return _needs(os.path.dirname(os.path.abspath(path)), [(os.path.abspath(path), "")], [])


def of_module(name: str, directory: str) -> Script | None:
    """The same of a module that is run as `python -m name` in `directory`, which is itself among `beside`; None when
    it is not there. Raises OSError when it cannot be read."""
    place = _beside(directory, name)
    return _needs(directory, _sources(place, top_level(name)), [place]) if place is not None else None


def _needs(directory: str, pending: list[tuple[str, str]], known: list[str]) -> Script:
    """Of the files `pending`, each with its package; `known` is sent already."""
    beside = dict.fromkeys(known)
    third_party = set()
    while pending:
        file, package = pending.pop()
        state = os.stat(file)
        for item in source_imports(file, state.st_mtime_ns, state.st_size):
            name = item.absolute(package)
            if name is None:
                continue
            top = top_level(name)
            place = _beside(directory, name)
            if place is None:
                if top not in sys.stdlib_module_names and kind(name) is Kind.INSTALLED:
                    third_party.add(name)
            elif place not in beside:
                beside[place] = None
                pending += _sources(place, top)
    return Script(tuple(beside), frozenset(third_party))


def _beside(directory: str, name: str) -> str | None:
    """The file or directory below `directory` that has the module; of a package without `__init__`, only if it does."""
    top, *inner = name.split(".")
    place = os.path.join(directory, top)
    if os.path.isfile(f"{place}.py"):
        return f"{place}.py"
    module = os.path.join(place, *inner)
    has = [
        os.path.join(place, "__init__.py"),
        *((f"{module}.py", os.path.join(module, "__init__.py")) if inner else ()),
    ]
    return place if any(map(os.path.isfile, has)) else None


def _sources(place: str, top: str) -> list[tuple[str, str]]:
    """The Python files of a module or package, with the package that each is in."""
    if not os.path.isdir(place):
        return [(place, "")]
    found = []
    for folder, _, names in os.walk(place):
        package = ".".join([top, *os.path.relpath(folder, place).split(os.sep)]).removesuffix("..")
        found += [(os.path.join(folder, name), package.rstrip(".")) for name in names if name.endswith(".py")]
    return found
