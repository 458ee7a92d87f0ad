"""Files below a directory that match patterns, and nothing outside of it."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from typing import Callable, Iterable

_Matcher = Callable[[str], object]


def find(root: str, patterns: list[str]) -> tuple[list[str], list[str]]:
    """Relative paths (with "/", sorted) of the files below `root` that match, and texts on those that cannot be taken.

    As with glob: `*` and `?` stay within a name, `**` is any number of directories, and names that begin with a dot
    match only what says so. A directory that matches stands for all files below it. Links are followed to files within
    `root`; those that lead elsewhere, and what is neither file nor directory, are refused.
    """
    found: set[str] = set()
    refused: dict[str, str] = {}
    walk = _Walk(os.path.realpath(root), found, refused)
    for pattern in patterns:
        parts = [part for part in pattern.split("/") if part not in ("", ".")]
        if ".." in parts or pattern.startswith("/"):
            raise ValueError(f"a pattern that leads outside: {pattern!r}")
        if parts:
            walk.below("", parts)
    return sorted(found), [refused[name] for name in sorted(refused)]


def in_order_of_taking(root: str, names: Iterable[str]) -> list[str]:
    """Links first: what they lead to may be taken too, and is about to be moved."""
    return sorted(names, key=lambda name: not os.path.islink(os.path.join(root, name)))


class _Walk:
    def __init__(self, root: str, found: set[str], refused: dict[str, str]) -> None:
        self._root = root
        self._found = found
        self._refused = refused

    def below(self, directory: str, parts: list[str]) -> None:
        """Match `parts` of a pattern below a directory, given relative to the root with "/" at its end."""
        first, rest = parts[0], parts[1:]
        if first == "**":
            # No directory at all, or one more; at a pattern's end it is all files.
            self.below(directory, rest or ["*"])
            for entry in self._entries(directory):
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    self.below(f"{directory}{entry.name}/", parts)
            return
        for entry in self._entries(directory, _matcher(first)):
            name = directory + entry.name
            if not rest:
                self._take(name, entry)
            elif entry.is_dir(follow_symlinks=False):
                self.below(f"{name}/", rest)

    def _entries(self, directory: str, matches: _Matcher | None = None) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self._root, directory)) as entries:
                return [
                    entry
                    for entry in entries
                    if not entry.name.startswith(".batchexec-") and (matches is None or matches(entry.name))
                ]
        except OSError as error:
            self._refused[directory] = f"{directory or 'the working directory'!r}: {error.strerror}"
            return []

    def _take(self, name: str, entry: os.DirEntry[str]) -> None:
        if entry.is_symlink():
            self._take_link(name)
        elif entry.is_file(follow_symlinks=False):
            self._found.add(name)
        elif entry.is_dir(follow_symlinks=False):
            for below in self._entries(f"{name}/"):
                self._take(f"{name}/{below.name}", below)
        else:
            self._refused[name] = f"{name!r} is no file, but a socket, a pipe or a device"

    def _take_link(self, name: str) -> None:
        real = os.path.realpath(os.path.join(self._root, name))
        if os.path.commonpath([real, self._root]) != self._root:
            self._refused[name] = f"{name!r} is a link to {real!r}, outside of the directory"
            return
        try:
            kind = os.stat(real).st_mode
        except OSError:
            self._refused[name] = f"{name!r} is a link to nothing"
            return
        if stat.S_ISREG(kind):
            self._found.add(name)
        else:
            self._refused[name] = f"{name!r} is a link to something that is no file"


def _matcher(part: str) -> _Matcher:
    expression = re.compile(fnmatch.translate(part)).match
    if part.startswith("."):
        return expression
    return lambda name: not name.startswith(".") and expression(name)
