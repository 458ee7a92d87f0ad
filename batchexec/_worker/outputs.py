"""Files that items leave behind: found, kept until the result is stored, and sent behind it in the same blob."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from typing import Any, NamedTuple

from . import patterns
from .store import PUT_LIMIT
from .task import Task

_HOLD = ".batchexec-outputs"  # in the working directory: what items left, out of their followers' way
_PIECE = 1 << 20


class OutputChanged(Exception):
    """A file was changed after it was taken for an output."""


class _File(NamedTuple):
    name: str  # for messages
    path: str
    size: int
    stamp: tuple[int, ...]


class Attachments:
    """The files that follow a chunk's result. `entries` describes them in the signed header: for each the item's
    number in its executor, relative path, bytes, SHA-256, and whether it may be executed."""

    def __init__(self, work_dir: str, wanted: list[str]) -> None:
        self.entries: list[list[Any]] = []
        self.number = 0  # of the item at work
        self.size = 0  # bytes of all files
        self._files: list[_File] = []
        self._work_dir = work_dir
        self._wanted = wanted
        self._before: dict[str, tuple[int, ...]] = {}
        self._known: set[str] = set()  # texts on what could not be taken before the first item either
        self._held = 0

    def largest(self, count: int = 3) -> str:
        """The largest files, with their megabytes, for a message."""
        entries = sorted(self.entries, key=lambda entry: -int(entry[2]))[:count]
        return ", ".join(f"{path!r} of item {number} ({size / 1e6:,.0f} MB)" for number, path, size, _, _ in entries)

    def add(self, relative_path: str, path: str) -> None:
        """Have the file at `path` follow the result, as `relative_path` of the item at work. It must stay as it is
        until the task has ended. Raises OSError where it cannot be read, ValueError for a path that leads outside."""
        if relative_path.startswith("/") or not {"", ".", ".."}.isdisjoint(relative_path.split("/")):
            raise ValueError(f"not a path below a directory: {relative_path!r}")
        status, digest = self._hashed(path)
        executable = bool(status.st_mode & stat.S_IXUSR)
        self.entries.append([self.number, relative_path, status.st_size, digest, executable])
        self._files.append(_File(repr(relative_path), path, status.st_size, _stamp(status)))
        self.size += status.st_size

    def settle(self) -> None:
        """Before the header is signed: what was still written to after its item had ended is taken as it is now.

        Raises OutputChanged where that cannot be.
        """
        for index, (entry, file) in enumerate(zip(self.entries, self._files)):
            try:
                if _stamp(os.stat(file.path)) == file.stamp:
                    continue
                self.size -= file.size
                status, digest = self._hashed(file.path)
            except OSError as error:
                raise OutputChanged(f"{file.name} ({error.strerror})") from error
            entry[2:4] = status.st_size, digest
            self._files[index] = file._replace(size=status.st_size, stamp=_stamp(status))
            self.size += status.st_size

    def _hashed(self, path: str) -> tuple[os.stat_result, str]:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            left = status.st_size
            if self.size + left > PUT_LIMIT:
                return status, ""  # the result cannot be stored anyway
            while left:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    raise OSError(errno.EIO, "it is being cut off by something that still writes to it")
                digest.update(piece)
                left -= len(piece)
        return status, digest.hexdigest()

    def begin(self) -> None:
        """Remember what is in the working directory before the first item: what does not change is no output."""
        if self._wanted:
            found, refused = patterns.find(self._work_dir, self._wanted)
            self._before = {name: _stamp(os.stat(os.path.join(self._work_dir, name))) for name in found}
            self._known = set(refused)

    def collect(self) -> list[str]:
        """After an item of a plain callable: take the files that it left. Why some are refused, a text for each.

        They are moved away, so that the next item finds the directory as this one did; only what was there before the
        first item stays.
        """
        if not self._wanted:
            return []
        found, refused = patterns.find(self._work_dir, self._wanted)
        refused = [text for text in refused if text not in self._known]
        taken = []
        for name in patterns.in_order_of_taking(self._work_dir, found):
            try:
                held = self._hold(name)
                if held is not None:
                    taken.append((name, held))
            except OSError as error:
                refused.append(f"{name!r}: {error.strerror or error}")
        for name, held in sorted(taken):
            try:
                self.add(name, held)
            except OSError as error:
                refused.append(f"{name!r}: {error.strerror or error}")
        return refused

    def _hold(self, name: str) -> str | None:
        """Put the file where it stays until the result is stored; None for one that no item changed."""
        source = os.path.join(self._work_dir, name)
        now = _stamp(os.stat(source))
        if self._before.get(name) == now:
            return None
        self._held += 1
        target = os.path.join(self._work_dir, _HOLD, str(self._held))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if name in self._before:
            shutil.copy2(source, target)
            self._before[name] = now
        elif os.path.islink(source):
            _link_or_copy(os.path.realpath(source), target)
            os.unlink(source)
        else:
            shutil.move(source, target)
        return target

    def behind(self, head: bytes) -> Body:
        """The whole blob: `head`, and the files."""
        return Body(head, self._files)


class Body:
    """What http.client sends: bytes and files one after the other, none of them whole in memory. `seek(0)` rewinds.

    Raises OutputChanged where a file is not what it was.
    """

    def __init__(self, head: bytes, files: list[_File]) -> None:
        self._head = memoryview(head)
        self._files = files
        self.length = len(head) + sum(file.size for file in files)
        self._at = 0  # in the head
        self._next = 0  # file
        self._open: Any = None
        self._left = 0  # bytes of the open file

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def seek(self, offset: int) -> None:
        assert offset == 0
        self.close()
        self._at = self._next = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes; empty at the end."""
        size = size if size > 0 else _PIECE
        if self._at < len(self._head):
            piece = bytes(self._head[self._at : self._at + size])
            self._at += len(piece)
            return piece
        while not self._left:
            self.close()
            if self._next == len(self._files):
                return b""
            file = self._files[self._next]
            self._open = open(file.path, "rb", buffering=0)  # noqa: SIM115 - read in many calls
            if _stamp(os.fstat(self._open.fileno())) != file.stamp:
                raise OutputChanged(file.name)
            self._left = file.size
            self._next += 1
        data: bytes = self._open.read(min(size, self._left))
        if not data:
            raise OutputChanged(self._files[self._next - 1].name)
        self._left -= len(data)
        return data

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open, self._left = None, 0


def store_with(task: Task, files: Attachments, header: dict[str, Any], frames: list[Any]) -> bool:
    """As `Task.store_result`, with the files behind the result."""
    try:
        files.settle()
        with files.behind(task.sealed({**header, "attachments": files.entries}, frames)) as body:
            if body.length <= PUT_LIMIT:
                task.put_result(body, body.length)
                return True
            size, of_files = body.length / 2**20, files.size / 2**20
        text = f"the chunk's results take {size:,.0f} MiB, of which files take {of_files:,.0f}: {files.largest()}"
        task.store_failure("outputs_too_large", text, frames)
    except OutputChanged as error:
        task.store.close()  # perhaps in the midst of a request
        task.store_failure("output_changed", str(error), frames)
    return False


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    """What differs when a file was written to, or is another one. (Not its ctime: moving changes that.)"""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
