"""Which files make up a local module: the tree of a package, or a single file and the data it names."""

from __future__ import annotations

import errno
import importlib.machinery
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from batchexec._source.imports import Import, source_imports, source_paths
from batchexec._source.modules import Kind, Place, kind_of_directory, loaded_below, module_file, place
from batchexec.errors import SourceError

_MODULE_SUFFIXES = tuple(importlib.machinery.all_suffixes())
_LEFT_OUT_DIRECTORIES = frozenset({"__pycache__", "node_modules"})
_LEFT_OUT_SUFFIXES = (".pyc", ".pyo", ".egg-info", ".dist-info")


class Entry(NamedTuple):
    """One file to ship: its name in the archive, where it lies, and what identifies its state."""

    name: str
    path: str
    mtime_ns: int
    size: int

    def imports(self) -> tuple[Import, ...]:
        """What its source imports (nothing, for a file that is not Python source)."""
        if not self.name.endswith(".py"):
            return ()
        try:
            return source_imports(self.path, self.mtime_ns, self.size)
        except OSError as exc:
            raise unreadable(self.path, exc) from exc

    def module(self) -> str:
        """The dotted name under which this file is imported."""
        stem = self.name[: -len(".py")] if self.name.endswith(".py") else self.name
        return stem.removesuffix("/__init__").replace("/", ".")

    def package(self) -> str:
        """The package that relative imports in this file start from."""
        module = self.module()
        return module if self.name.endswith("/__init__.py") else module.rpartition(".")[0]


def entries(top: str) -> list[Entry]:
    """The files of the local top-level module `top`, without data files beside a single-file module."""
    where = place(top) or Place(None, ())
    if top in sys.stdlib_module_names:
        raise SourceError(
            f"your module {top!r} ({where.file or ', '.join(where.directories)}) has the name of a "
            "standard-library module, which a worker would import in its place: rename it"
        )
    found: dict[str, Entry] = {}
    for directory in where.directories:
        if kind_of_directory(directory) is Kind.LOCAL:
            for entry in _tree(top, directory):
                found.setdefault(entry.name, entry)  # the first portion wins, as it does for an import
    if where.file is not None and not (where.directories and f"{top}/__init__.py" in found):
        suffix = _module_suffix(where.file)
        name = f"{top}/__init__{suffix}" if where.directories else f"{top}{suffix}"
        found.setdefault(name, _entry(name, where.file))
    # Modules loaded by path under a name of their own (plugin loaders, pytest) go where that name says.
    shipped = {os.path.realpath(e.path) for e in found.values()}
    for name, module in loaded_below(top).items():
        file = module_file(module)
        if file is not None and os.path.realpath(file) not in shipped and os.path.isfile(file):
            arc = name.replace(".", "/") + ("/__init__" if hasattr(module, "__path__") else "")
            arc += _module_suffix(file)
            found.setdefault(arc, _entry(arc, file))
    return sorted(found.values())


def data_beside(modules: Iterable[Entry]) -> Iterator[Entry]:
    """Data files that single-file modules name in their source and find relative to their own place."""
    by_directory: dict[str, list[tuple[bool, tuple[str, ...]]]] = {}
    for entry in modules:
        if "/" not in entry.name and entry.name.endswith(".py"):
            try:
                said = source_paths(entry.path, entry.mtime_ns, entry.size)
            except OSError as exc:
                raise unreadable(entry.path, exc) from exc
            by_directory.setdefault(os.path.dirname(entry.path), []).append(said)
    for directory, said_there in by_directory.items():
        # One module may hold the directory and its neighbour the file name.
        if any(asks for asks, _ in said_there):
            for path in dict.fromkeys(path for _, paths in said_there for path in paths):
                yield from _data(directory, path)


def unreadable(path: str, exc: OSError) -> SourceError:
    return SourceError(f"cannot read {path}, which belongs to your own modules: {exc.strerror or exc}")


def _data(directory: str, relative: str) -> Iterator[Entry]:
    path = os.path.join(directory, *relative.split("/"))
    if os.path.isdir(path):
        is_package = os.path.exists(os.path.join(path, "__init__.py"))
        if not is_package and not _left_out(os.path.basename(path), path) and _inside(path, directory):
            yield from _tree(relative, path)
    elif os.path.isfile(path) and not path.endswith((*_MODULE_SUFFIXES, ".pyc")) and _inside(path, directory):
        yield _entry(relative, path)


def _tree(prefix: str, root: str) -> Iterator[Entry]:
    real_root = os.path.realpath(root)
    pending: list[tuple[str, str, tuple[str, ...]]] = [(prefix, root, (real_root,))]
    while pending:
        at, directory, above = pending.pop()
        try:
            children = sorted(os.scandir(directory), key=lambda child: child.name)
        except OSError as exc:
            raise unreadable(directory, exc) from exc
        for child in children:
            name = f"{at}/{child.name}"
            linked = child.is_symlink()
            inside = not linked or _within(os.path.realpath(child.path), real_root)
            if os.path.isdir(child.path):
                # A link that leads out is not the package's; one that leads up again has no end.
                real = os.path.realpath(child.path) if linked else os.path.join(above[-1], child.name)
                if inside and real not in above and not _left_out(child.name, child.path):
                    pending.append((name, child.path, (*above, real)))
            elif (inside or child.name.endswith(_MODULE_SUFFIXES)) and not _left_out(child.name):
                # Source files are taken also through a link: some build tools link every one of them.
                entry = _regular(name, child.path)
                if entry is not None:
                    yield entry


def _left_out(name: str, directory: str | None = None) -> bool:
    if name.startswith(".") or name.endswith(_LEFT_OUT_SUFFIXES):
        return True
    if directory is None:
        return False
    return name in _LEFT_OUT_DIRECTORIES or os.path.exists(os.path.join(directory, "pyvenv.cfg"))


def _entry(name: str, path: str) -> Entry:
    """The file `path`, which must be there."""
    entry = _regular(name, path)
    if entry is None:
        raise SourceError(
            f"{path}, from which a module of yours was loaded, is not a file (any more): modules inside a "
            "zip archive or a frozen program cannot be shipped; unpack them, or install them on the worker"
        )
    return entry


def _regular(name: str, path: str) -> Entry | None:
    try:
        state = os.stat(path)
    except OSError as exc:
        if exc.errno in (
            errno.ENOENT,
            errno.ENOTDIR,
            errno.ELOOP,
        ):  # a dangling link, a path into a zip archive
            return None
        raise unreadable(path, exc) from exc
    if not stat.S_ISREG(state.st_mode):
        return None
    return Entry(name, path, state.st_mtime_ns, state.st_size)


def _module_suffix(file: str) -> str:
    matching = [s for s in _MODULE_SUFFIXES if file.endswith(s)]
    return max(matching, key=len) if matching else ".py"


def _inside(path: str, directory: str) -> bool:
    return _within(os.path.realpath(path), os.path.realpath(directory))


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
