"""Sets of files that travel: which they are, where they will be, and what is in them (by hash)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from batchexec.errors import FilesError

from . import found, hashes

_NAME_BYTES = 255  # of one name, on the file systems of Linux
_PATH_BYTES = 3000  # of a path; PATH_MAX is 4,096, and the directory comes before it
_OURS = ".batchexec"  # names in the working directory that the worker uses


class BlobReference(Protocol):
    """A place in the storage account, such as a `BlobPath`."""

    @property
    def container(self) -> str: ...
    @property
    def prefix(self) -> str: ...


class FileEntry(NamedTuple):
    """One local file. `path` (POSIX, relative) is where it will be below the directory that the set is placed in."""

    path: str
    sha256: str
    size: int
    executable: bool
    source: str


class BlobTree(NamedTuple):
    """Blobs that are in the storage account already: the one called `prefix`, which will be the file `path`, or all
    below `prefix/`, which will be the directory `path` ("": the top). Which they are is looked up at submission."""

    path: str
    container: str
    prefix: str


class FileSet:
    """Files to be placed together. Immutable, equal when its `id` is; it holds no content."""

    __slots__ = ("blobs", "directories", "entries", "id")

    def __init__(
        self, entries: Iterable[FileEntry], directories: Iterable[str] = (), blobs: Iterable[BlobTree] = ()
    ) -> None:
        """`directories` are those to be there even if nothing is in them. Raises FilesError when two of the parts are
        in each other's way, or a name cannot be used on a node."""
        self.entries = tuple(sorted(entries))
        self.directories = tuple(sorted(set(directories)))
        self.blobs = tuple(sorted(blobs))
        _check(self)
        tree = [[one.path, one.sha256, one.size, one.executable] for one in self.entries]
        text = json.dumps([tree, self.directories, self.blobs], separators=(",", ":"))
        self.id = hashlib.sha256(text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FileSet) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __bool__(self) -> bool:
        return bool(self.entries or self.directories or self.blobs)

    def __repr__(self) -> str:
        return f"<FileSet of {len(self.entries)} files, {self.size:,} bytes>"

    @property
    def size(self) -> int:
        """Bytes of the local files in it."""
        return sum(entry.size for entry in self.entries)


Here = str | os.PathLike[str] | BlobReference
Given = Here | tuple[str, Here]


def file_set(given: Iterable[Given], base: str | None = None) -> FileSet:
    """The files that `given` names, with their hashes.

    A path, directory or glob (`**` too) stands for the same path below the working directory there; a pair is
    `(path there, path here)`. A blob reference alone is placed under the last part of its name. `base` is the directory
    that relative paths start from (default: the current one). Raises FilesError.
    """
    base = os.path.abspath(base or os.curdir)
    entries: dict[str, FileEntry] = {}
    directories: list[str] = []
    blobs: list[BlobTree] = []
    for one in given:
        there, source = one if isinstance(one, tuple) else (None, one)
        if not isinstance(source, (str, os.PathLike)):
            blobs.append(_blob_tree(source, there))
            continue
        for target, path in found.below(os.fspath(source), None if there is None else relative(there), base):
            if path is None:
                directories.append(target)
                continue
            entry = entry_for(path, target)
            other = entries.setdefault(target, entry)
            if other.source != path and not os.path.samefile(other.source, path):
                raise FilesError(
                    f"{other.source!r} and {path!r} would both be {target!r} on the node: give one of them another "
                    "name there, by a mapping {path there: path here}"
                )
    return FileSet(entries.values(), directories, blobs)


def entry_for(source: str, target: str) -> FileEntry:
    """The file `source`, to be at `target` (relative, POSIX). Raises FilesError when it is not there, or no file."""
    path = os.path.abspath(source)
    state = found.regular(path)
    return FileEntry(relative(target), hashes.of_file(path, state), state.st_size, bool(state.st_mode & 0o100), path)


def relative(target: str) -> str:
    """`target` in its plain form ("" for "."). Raises FilesError when it would be outside of the directory it is
    relative to."""
    plain = target.replace(os.sep, "/") if os.sep != "/" else target
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if plain.startswith("/") or ".." in parts or os.path.splitdrive(target)[0]:
        raise FilesError(
            f"{target!r} leads out of the working directory that it would be placed in: give a relative path without "
            "'..'"
        )
    return "/".join(parts)


def name_problem(path: str) -> str | None:
    """Why no file of a node can be called that, or None."""
    try:
        encoded = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "holds characters that no file name on a node can have"
    if "\0" in path:
        return "holds a null character"
    if any(len(part) > _NAME_BYTES for part in encoded.split(b"/")):
        return f"has a part of more than {_NAME_BYTES} bytes, which no file name on a node can have"
    if len(encoded) > _PATH_BYTES:
        return f"has more than {_PATH_BYTES} bytes, which is too long for a path on a node"
    if path.split("/", 1)[0].startswith(_OURS):
        return f"begins with {_OURS!r}, which is kept for the worker's own files"
    return None


def _blob_tree(source: BlobReference, there: str | None) -> BlobTree:
    prefix = source.prefix.strip("/")
    name = prefix.rpartition("/")[2] if there is None else there
    return BlobTree(relative(name), source.container, prefix)


def _check(files: FileSet) -> None:
    for path in (*(entry.path for entry in files.entries), *files.directories, *(tree.path for tree in files.blobs)):
        problem = name_problem(path)
        if problem is not None:
            raise FilesError(f"{path!r} {problem}: give it another, by a mapping {{path there: path here}}")
    taken = {entry.path for entry in files.entries}
    if len(taken) < len(files.entries):
        twice = next(a.path for a, b in zip(files.entries, files.entries[1:], strict=False) if a.path == b.path)
        raise FilesError(f"two files would both be {twice!r} on the node")
    if "" in taken:
        raise FilesError("a file needs a name on the node: '.' is the working directory itself")
    for path in (*taken, *files.directories):
        for directory in _parents(path):
            if directory in taken:
                raise FilesError(f"{directory!r} would be a file on the node, and a directory for {path!r}")
    for directory in files.directories:
        if directory in taken:
            raise FilesError(f"{directory!r} would be both a file and a directory on the node")


def _parents(path: str) -> Iterator[str]:
    at = path.rfind("/")
    while at > 0:
        yield path[:at]
        at = path.rfind("/", 0, at)


__all__ = ["BlobTree", "FileEntry", "FileSet", "entry_for", "file_set", "name_problem", "relative"]
