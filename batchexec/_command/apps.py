"""The app of a command: a directory or an archive, looked at before it is sent."""

from __future__ import annotations

import functools
import os
import posixpath
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from batchexec._source.files.sets import FileSet, file_set
from batchexec._source.programs import executables
from batchexec._wire import archives
from batchexec.errors import FilesError


class App:
    """`files` is what is sent; `archive` the name of the archive in it, "" for a directory; `names` are the paths of
    its files as they will be below its root on a node."""

    def __init__(self, path: Path) -> None:
        """Raises FilesError."""
        self.path = os.path.abspath(os.path.expanduser(path))
        self.archive = ""
        if os.path.isdir(self.path):
            self.files: FileSet = file_set([(".", self.path)])
            self.names = frozenset(entry.path for entry in self.files.entries)
            return
        if not os.path.exists(self.path):
            raise FilesError(f"app={str(path)!r} is not there: looked for it at {self.path!r}")
        if not archives.is_archive(self.path):
            raise FilesError(
                f"app={str(path)!r} is neither a directory nor an archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz)"
            )
        self.archive = os.path.basename(self.path)
        self.files = file_set([(self.archive, self.path)])
        self.names = _content(*_version(self.path)).names

    def has(self, name: str, *, direct: bool = False) -> bool:
        """Whether a node would find this program in it, on its PATH or (`direct`) at this very path."""
        return self._place(name, direct) is not None

    def lacks(self, name: str) -> bool:
        """Whether nothing can be at this path: neither a file nor what a link in it leads to."""
        parts = posixpath.normpath(name).split("/")
        return self.names.isdisjoint("/".join(parts[:count]) for count in range(1, len(parts) + 1))

    def check(
        self, name: str, target: executables.Target, sent: frozenset[str], *, direct: bool = False
    ) -> tuple[str, ...]:
        """As `executables.check`, for a program that it has. Raises FilesError."""
        place = self._place(name, direct)
        assert place is not None
        if self.archive:
            return _check_member(*_version(self.path), place, target, sent)
        path = os.path.join(self.path, *place.split("/"))
        return tuple(executables.check(path, target, called=place, sent=sent, written=f"{{app}}/{place}"))

    def _place(self, name: str, direct: bool) -> str | None:
        candidates = (name,) if direct else (name, f"bin/{name}")
        return next((candidate for candidate in candidates if candidate in self.names), None)


class _Content(NamedTuple):
    names: frozenset[str]  # of files and links, below `top`
    top: str  # the one directory that all is in, with a slash; or nothing


def _version(path: str) -> tuple[str, int, int]:
    state = os.stat(path)
    return path, state.st_mtime_ns, state.st_size


@functools.lru_cache(maxsize=16)
def _content(path: str, mtime_ns: int, size: int) -> _Content:
    try:
        found = [(member.name, member.kind) for member in archives.members(path)]
    except (archives.BadArchive, OSError) as error:
        raise FilesError(f"app={path!r} cannot be unpacked: {error}") from error
    tops = {name.partition("/")[0] for name, _ in found if name != "."}
    files = [name for name, kind in found if kind != "directory"]
    # As `archives.root_of` sees it once it is unpacked.
    if len(tops) == 1 and tops != {"bin"} and all("/" in name for name in files):
        top = f"{tops.pop()}/"
        return _Content(frozenset(name[len(top) :] for name in files), top)
    return _Content(frozenset(files), "")


@functools.lru_cache(maxsize=64)
def _check_member(
    path: str, mtime_ns: int, size: int, place: str, target: executables.Target, sent: frozenset[str]
) -> tuple[str, ...]:
    wanted = _content(path, mtime_ns, size).top + place
    for member in archives.members(path):
        if member.name == wanted and member.content is not None:
            with tempfile.TemporaryDirectory() as scratch:
                copy = os.path.join(scratch, os.path.basename(place))
                with open(copy, "wb") as file:
                    shutil.copyfileobj(member.content, file)
                os.chmod(copy, 0o755 if member.executable else 0o644)
                called = f"{os.path.basename(path)}: {place}"
                return tuple(executables.check(copy, target, called=called, sent=sent, written=f"{{app}}/{place}"))
    return ()  # a link: the node will say
