"""Where a module comes from: the standard library, an installed distribution, or the user's own files."""

from __future__ import annotations

import enum
import functools
import importlib.machinery
import importlib.util
import os
import site
import sys
import sysconfig
import types
from typing import NamedTuple

_NEVER_SHIPPED = frozenset({"batchexec", "cloudpickle", "__main__"})


class Kind(enum.Enum):
    """What is to be done about a module that a worker will import."""

    STANDARD = "comes with Python"
    INSTALLED = "third-party: the worker's image must have it"
    LOCAL = "the user's own: shipped"
    MISSING = "not found: an optional import, or made in memory"


class Place(NamedTuple):
    """A module's file (None for namespace packages) and, for packages, its directories."""

    file: str | None
    directories: tuple[str, ...]


def top_level(name: str) -> str:
    return name.partition(".")[0]


def place(name: str) -> Place | None:
    """Where the module `name` lies. When it is not loaded it is looked up, never imported."""
    module = sys.modules.get(name)
    if module is not None:
        directories = getattr(module, "__path__", None)
        file = module_file(module)
    else:
        spec = _find(name)
        if spec is None:
            return None
        directories = spec.submodule_search_locations
        file = os.path.abspath(spec.origin) if spec.has_location and spec.origin else None
    # Editable installs put placeholders among a namespace package's directories.
    found = tuple(os.path.abspath(d) for d in directories or () if os.path.isdir(d))
    return Place(file, found)


def locate(name: str) -> str | None:
    """The file of the module `name`, or of the innermost package above it that has one; it is never imported."""
    found = None
    where: Place | None = None
    for depth, part in enumerate(name.split("."), 1):
        if depth == 1:
            where = place(part)
        elif (loaded := sys.modules.get(".".join(name.split(".")[:depth]))) is not None:
            where = Place(module_file(loaded), tuple(getattr(loaded, "__path__", ())))
        else:
            where = _below(where.directories if where else (), part)
        if where is None:
            break
        found = where.file or found
    return found


def kind(name: str) -> Kind:
    """What `name` (dotted) is. What is loaded under a name wins over what a fresh import would find."""
    top = top_level(name)
    if top in _NEVER_SHIPPED or top in sys.builtin_module_names:
        return Kind.STANDARD
    where = place(top) or Place(None, ())
    if where.file is not None:
        return kind_of_path(where.file)
    # A namespace package can have installed and local portions side by side: its modules decide.
    part = name
    while "." in part:
        if (inner := sys.modules.get(part)) is not None and (file := module_file(inner)) is not None:
            return kind_of_path(file)
        part = part.rpartition(".")[0]
    kinds = {kind_of_directory(d) for d in where.directories}
    if Kind.LOCAL in kinds or (not kinds and loaded_below(top)):
        return Kind.LOCAL
    if kinds:
        return kinds.pop()
    return Kind.STANDARD if top in sys.stdlib_module_names else Kind.MISSING


def module_file(module: types.ModuleType) -> str | None:
    """The file a loaded module came from, absolute, or None."""
    spec: importlib.machinery.ModuleSpec | None = getattr(module, "__spec__", None)
    located = getattr(spec, "has_location", False)
    file = spec.origin if spec is not None and located else getattr(module, "__file__", None)
    return os.path.abspath(file) if isinstance(file, str) else None


def loaded_below(top: str) -> dict[str, types.ModuleType]:
    """Loaded submodules of `top`, under their own names, that came from the user's files."""
    prefix = top + "."
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith(prefix) and isinstance(module, types.ModuleType):
            spec = getattr(module, "__spec__", None)
            file = module_file(module)
            # An entry under a second name (an alias) is put there by the package's own code, there too.
            if spec is not None and spec.name == name and file and kind_of_path(file) is Kind.LOCAL:
                found[name] = module
    return found


def kind_of_directory(path: str) -> Kind:
    """Which kind of code lies in the directory `path`."""
    return kind_of_path(os.path.join(path, "__init__.py"))


@functools.lru_cache(maxsize=65536)
def kind_of_path(path: str) -> Kind:
    """Which kind of code lies at `path`."""
    # Directories are resolved, files are not: a package linked into site-packages is under development,
    # while installers that link every single file leave the directories real.
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if any(part in ("site-packages", "dist-packages") for part in real.split(os.sep)):
        return Kind.INSTALLED
    if any(_within(real, root) for root in _installed_roots()):
        return Kind.INSTALLED
    if any(_within(real, root) for root in _standard_roots()):
        return Kind.STANDARD
    return Kind.LOCAL


@functools.lru_cache(maxsize=1)
def _installed_roots() -> tuple[str, ...]:
    roots = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    roots.add(site.getusersitepackages())
    return tuple(os.path.realpath(r) for r in roots)


@functools.lru_cache(maxsize=1)
def _standard_roots() -> tuple[str, ...]:
    roots = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)}
    return tuple(os.path.realpath(r) for r in roots)


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _below(directories: tuple[str, ...], part: str) -> Place | None:
    """The module `part` of a package with these directories."""
    spaces: list[str] = []
    for directory in directories:
        spec = importlib.machinery.PathFinder.find_spec(part, [directory])
        if spec is None:
            continue
        inner = tuple(spec.submodule_search_locations or ())
        if spec.has_location and spec.origin:
            return Place(os.path.abspath(spec.origin), inner)
        spaces += inner
    return Place(None, tuple(spaces)) if spaces else None


def _find(name: str) -> importlib.machinery.ModuleSpec | None:
    if "." in name:  # looking up a submodule would import its parents
        return None
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a finder's way to say that there is none
        return None
