"""Standard output and error of a task: files, tails, and the log blob of a task that died."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from typing import IO, Any

from batchexec._wire import names


class Streams:
    """The files that collect standard output and error.

    On a plain node they are the task's own stdout.txt and stderr.txt. Where the service gives pipes instead (in a
    container), the streams are led into files of our own, and `replay` hands them on at the end, or before.
    """

    def __init__(self, task_dir: str, work_dir: str) -> None:
        self.paths: list[str] = []
        self._own: dict[int, int] = {}  # descriptor -> duplicate of where it led at first
        self._replayed = {1: 0, 2: 0}  # bytes
        for descriptor, name in ((1, "stdout.txt"), (2, "stderr.txt")):
            path = os.path.join(task_dir, name)
            if not _same_file(descriptor, path):
                path = os.path.join(work_dir, f".batchexec-{name}")
                self._own[descriptor] = os.dup(descriptor)
                target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
                os.dup2(target, descriptor)
                os.close(target)
            self.paths.append(path)

    def sizes(self) -> list[int]:
        """Bytes written to each so far, Python's own buffers included."""
        for stream in (sys.stdout, sys.stderr):
            # User code may have closed or replaced its streams; what it wrote elsewhere is not ours to count.
            with contextlib.suppress(Exception):
                stream.flush()
        return sizes(self.paths)

    def replay(self) -> None:
        """Copy what our own files got since the last time to where the streams led at first."""
        for descriptor, original in self._own.items():
            with open(self.paths[descriptor - 1], "rb") as source, os.fdopen(os.dup(original), "wb") as target:
                source.seek(self._replayed[descriptor])
                shutil.copyfileobj(source, target)
                self._replayed[descriptor] = source.tell()


def sizes(paths: list[str]) -> list[int]:
    return [os.path.getsize(path) if os.path.exists(path) else 0 for path in paths]


def tail(path: str, end: int | None = None) -> bytes:
    """The last 64 kB before `end` (default: before the file's end)."""
    try:
        with open(path, "rb") as file:
            stop = os.path.getsize(path) if end is None else end
            file.seek(max(0, stop - names.TAIL_BYTES))
            return file.read(min(stop, names.TAIL_BYTES))
    except FileNotFoundError:
        return b""


def log_file(head: bytes, paths: list[str]) -> tuple[IO[Any], int]:
    """The log blob's content as a file and its length: head length (8 bytes), head, then both streams whole."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - handed to the caller
    file.write(len(head).to_bytes(8, "big"))
    file.write(head)
    for path in paths:
        if os.path.exists(path):
            with open(path, "rb") as source:
                shutil.copyfileobj(source, file)
    length = file.tell()
    file.seek(0)
    return file, length


def _same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
