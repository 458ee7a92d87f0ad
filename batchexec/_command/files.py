"""The files that runs get: what a path or a glob stands for, what it is called in the run's directory, and the sets."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from batchexec._source.files.sets import FileEntry, FileSet, file_set
from batchexec.errors import FilesError

from .templates import Names
from .values import BlobPath


class Gathered:
    """Files for one directory: `take` tells what each will be called in it, `set` what they are."""

    def __init__(self) -> None:
        self._given: dict[str, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._given)

    def take(self, where: str | Path | BlobPath) -> Names:
        """A text may be a glob; a Path is what it says. Raises FilesError when nothing is there."""
        if isinstance(where, BlobPath):
            target = where.prefix.rpartition("/")[2] or where.container
            self._add(target, where)
            return Names([_plain(target)])
        text = os.path.expanduser(where)
        if "\0" in text:
            raise FilesError(f"{text!r} holds a null character, which no file's name can")
        if os.path.lexists(text):
            return Names([_plain(self._add(_target(text), os.path.abspath(text)))])
        if isinstance(where, Path) or not glob.has_magic(text):
            raise FilesError(
                f"{text!r} is not there: looked for it at {os.path.abspath(text)!r}. Files of a run come from here; "
                "those in the executor's storage account are given as BlobPath('container/name')"
            )
        found = sorted(glob.glob(text, recursive=True))
        if not found:
            raise FilesError(f"{text!r} matches no file here (in {os.getcwd()!r})")
        below = [path for path in found if not os.path.isdir(path)] if "**" in text else found
        return Names(_plain(self._add(_target(path), os.path.abspath(path))) for path in below)

    def _add(self, target: str, source: Any) -> str:
        other = self._given.setdefault(target, source)
        if other != source:
            raise FilesError(
                f"{str(other)!r} and {str(source)!r} would both be {target!r} in the run's directory: rename one, or "
                "start from a directory above both, so that each keeps its relative path"
            )
        return target

    def put(self, target: str, source: str) -> None:
        """Have the file or directory `source` at `target`. Raises FilesError."""
        self._add(target, os.path.abspath(source))

    def target(self, path: str) -> str:
        """Where that file will be, which was taken."""
        return next(there for there, here in self._given.items() if here == os.path.abspath(path))

    def source(self, name: str) -> str | None:
        """Where the file here is that has this name there."""
        source = self._given.get(name.removeprefix("./"))
        return source if isinstance(source, str) else None

    def set(self) -> FileSet:
        """Raises FilesError."""
        return file_set(list(self._given.items()))


def merged(sets: Iterable[FileSet | None]) -> FileSet | None:
    """One set of several. Raises FilesError when they are in each other's way."""
    present = [one for one in sets if one]
    if len(present) < 2:
        return present[0] if present else None
    entries: dict[str, FileEntry] = {}
    for entry in (entry for one in present for entry in one.entries):
        if entries.setdefault(entry.path, entry).sha256 != entry.sha256:
            raise FilesError(f"{entry.path!r} is among the executor's files and, with other content, the command's")
    directories = [path for one in present for path in one.directories]
    return FileSet(entries.values(), directories, {blob for one in present for blob in one.blobs})


def _target(path: str) -> str:
    """Where it will be: at the same relative path when it is below the current directory, else under its name."""
    try:
        relative = os.path.relpath(os.path.abspath(path))
    except ValueError:  # another drive
        relative = os.pardir
    if relative == os.curdir or relative.split(os.sep)[0] == os.pardir:
        relative = os.path.basename(os.path.abspath(path))
    return relative.replace(os.sep, "/")


def _plain(name: str) -> str:
    """A name that no program takes for an option."""
    return f"./{name}" if name.startswith("-") else name
