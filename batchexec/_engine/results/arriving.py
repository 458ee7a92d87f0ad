"""Files that follow one another in a stream of bytes, each written beside its place, checked, and put there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import IO, Any, NamedTuple


class Announced(NamedTuple):
    """One file, as the signed header of a result describes it."""

    item: int
    relative_path: str
    size: int
    sha256: str
    executable: bool


class Mismatch(Exception):
    """The bytes are not those that the worker signed for."""


class Arriving:
    """The files of one result, fed with their bytes in order. What is wrong with a file is its item's error; the bytes
    of that item's later files are passed over. Not for several threads at once, and never raises."""

    def __init__(self, files: list[tuple[Announced, Path]], refused: set[int]) -> None:
        """The files with their places, in the order of their bytes; none of the items in `refused` is written."""
        self._files = files
        self._refused = refused
        self._next = 0
        self._left = 0
        self._file: IO[bytes] | None = None
        self._part = ""
        self._digest: Any = None
        self.paths: dict[int, list[Path]] = {}
        """The files that are in place, by item."""
        self.errors: dict[int, tuple[Path, Exception]] = {}
        """By item, the first file that cannot be put in its place, and why."""

    def feed(self, data: memoryview) -> None:
        while self._step(data):
            size = min(self._left, len(data))
            if self._file is not None:
                try:
                    _write(self._file, data[:size])
                    self._digest.update(data[:size])
                except OSError as error:
                    self._fail(error)
            self._left -= size
            data = data[size:]

    def end(self, error: Exception | None = None) -> None:
        """No more bytes come; `error` is why those of the files not yet written do not."""
        self._step(memoryview(b""))
        if self._left or self._next < len(self._files):
            first = self._next - 1 if self._left else self._next
            self._drop()
            for announced, path in self._files[first:]:
                self.errors.setdefault(announced.item, (path, error or Mismatch("it ends early")))
        self._drop()

    def _step(self, data: memoryview) -> bool:
        """Finish the file at hand if all of it came, and begin those that follow; True when there are bytes to use."""
        while not self._left:
            if self._file is not None:
                self._finish()
            if self._next == len(self._files):
                return False
            announced, path = self._files[self._next]
            self._next += 1
            self._left = announced.size
            if announced.item not in self.errors and announced.item not in self._refused:
                self._begin(path)
        return bool(len(data))

    def _begin(self, path: Path) -> None:
        try:
            os.makedirs(path.parent, exist_ok=True)
            self._part = os.path.join(path.parent, f"{path.name[:100]}.part-{secrets.token_hex(4)}")
            self._file = open(self._part, "xb", buffering=0)  # noqa: SIM115 - written by many calls
            self._digest = hashlib.sha256()
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be one here
            self._fail(error)

    def _finish(self) -> None:
        announced, path = self._files[self._next - 1]
        assert self._file is not None
        try:
            self._file.close()
            if self._digest.hexdigest() != announced.sha256:
                raise Mismatch("its bytes are not those that the worker signed for")
            if announced.executable:
                mode = os.stat(self._part).st_mode
                os.chmod(self._part, mode | (mode & 0o444) >> 2)  # for all who may read it
            os.replace(self._part, path)
        except (OSError, Mismatch) as error:
            self._fail(error)
            return
        self._file = None
        self.paths.setdefault(announced.item, []).append(path)

    def _fail(self, error: Exception) -> None:
        announced, path = self._files[self._next - 1]
        self.errors.setdefault(announced.item, (path, error))
        self._drop()

    def _drop(self) -> None:
        """Leave no half of a file."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(OSError):
                os.unlink(self._part)


def _write(file: IO[bytes], data: memoryview) -> None:
    """All of it: without a buffer, a write may take a part."""
    while len(data):
        data = data[file.write(data) :]
