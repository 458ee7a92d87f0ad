"""Files of a directory that others write into: listed, opened and removed, and nothing outside of it."""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from aiohttp import payload
from aiohttp.abc import AbstractStreamWriter

_SMALL = 1 << 18  # bytes that are read at once, without leaving the loop
_CHUNK = 1 << 20
_BEHIND = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class Absent(Exception):
    """There is no such file in the directory."""


class Directory:
    """What is below `root`, by paths relative to it. A name, however it is made, leads nowhere else; a symbolic link
    is followed as far as it stays inside. `shown` are the only names at the top, where they are given.
    """

    def __init__(self, root: Path, shown: Sequence[str] = ()) -> None:
        self._root = root.resolve()
        self._shown = shown

    def open(self, path: str) -> tuple[int, os.stat_result]:
        """Open a file or directory for reading, and see what it is. The caller closes it. Raises Absent."""
        real = self._inside(self._root / path)
        try:
            handle = os.open(self._root, os.O_RDONLY)
        except OSError:  # it was removed just now
            raise Absent from None
        try:
            for part in real.relative_to(self._root).parts:
                # Once more, part by part: it may have become a link to elsewhere since. A pipe must not be waited for.
                below = os.open(part, _BEHIND | os.O_NONBLOCK, dir_fd=handle)
                os.close(handle)
                handle = below
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                raise Absent
        except (OSError, Absent):
            os.close(handle)
            raise Absent from None
        return handle, status

    def create(self, path: str) -> int:
        """Open a new file for writing, in place of what has its name; directories on the way to it are made. The caller
        closes it. Raises Absent where the path leads outside, OSError where there can be no such file."""
        try:
            *way, name = Path(os.path.realpath(self._root / path)).relative_to(self._root).parts
        except ValueError:  # outside, the root itself, or no name at all
            raise Absent from None
        handle = os.open(self._root, os.O_RDONLY)
        try:
            for part in way:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=handle)
                below = os.open(part, _BEHIND | os.O_NONBLOCK, dir_fd=handle)
                os.close(handle)
                handle = below
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=handle)  # it may be a pipe, or have another name outside
            return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=handle)
        finally:
            os.close(handle)

    def remove(self, path: str, recursive: bool) -> bool:
        """Remove a file, a link or a directory; False where a directory has to stay, not being empty. Raises Absent."""
        given = self._root / path
        if os.path.normpath(path) in (".", "..") or given.name in ("", ".", ".."):
            raise Absent
        target = self._inside(given.parent) / given.name
        at_top = bool(self._shown) and target.parent == self._root
        if at_top and target.name not in self._shown:
            raise Absent
        try:
            status = target.lstat()
        except (OSError, ValueError):  # not there, or no name at all
            raise Absent from None
        try:
            if not stat.S_ISDIR(status.st_mode):
                target.unlink()
            elif at_top or (not recursive and any(target.iterdir())):
                return False
            else:
                shutil.rmtree(target)
        except FileNotFoundError:
            raise Absent from None
        return True

    def names(self, recursive: bool) -> Iterator[str]:
        """Names of all that is there, or of what is at the top; links to directories are not entered."""
        try:
            tops = os.listdir(self._root)
        except FileNotFoundError:  # it was removed just now
            return
        for top in tops:
            if self._shown and top not in self._shown:
                continue
            yield top
            if not recursive or os.path.islink(self._root / top):
                continue
            for parent, directories, files in os.walk(self._root / top):
                for name in directories + files:
                    yield os.path.relpath(os.path.join(parent, name), self._root)

    def status(self, name: str) -> os.stat_result | None:
        """What a name listed is; of a link that leads outside, the link. None when it is gone."""
        path = self._root / name
        try:
            status = path.lstat()
            return self._inside(path).stat() if stat.S_ISLNK(status.st_mode) else status
        except Absent:
            return status
        except OSError:
            return None

    def _inside(self, path: Path) -> Path:
        try:
            real = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # not there, no name at all, or links in a circle
            raise Absent from None
        if not real.is_relative_to(self._root):
            raise Absent
        parts = real.relative_to(self._root).parts
        if self._shown and parts and parts[0] not in self._shown:
            raise Absent
        return real


class FilePart(payload.Payload):
    """Some bytes of an open file as the body of a reply, read as they are sent. It closes the file."""

    def __init__(self, handle: int, start: int, end: int) -> None:
        super().__init__(None)
        self._file = os.fdopen(handle, "rb", buffering=0)
        self._at = start
        self._end = end
        self._size = end - start

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("the content of a file is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        with self._file as file:
            while self._at < self._end:
                size = min(_CHUNK, self._end - self._at)
                data = await asyncio.to_thread(os.pread, file.fileno(), size, self._at)
                if not data:
                    raise ConnectionAbortedError("the file has become shorter")
                self._at += len(data)
                await writer.write(data)


def content(handle: int, start: int, end: int) -> bytes | FilePart:
    """The bytes of an open file, which is closed: at once where they are few, else as they are sent."""
    if end - start > _SMALL:
        return FilePart(handle, start, end)
    try:
        return os.pread(handle, end - start, start)
    finally:
        os.close(handle)


def media_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
