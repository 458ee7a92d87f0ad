"""The bytes of blobs: pieces held in memory or in a file, streamed in and out."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import weakref
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

MEMORY_LIMIT = 64 * 1024  # bytes up to which a piece stays in memory
_SLICE = 1024 * 1024  # bytes moved to or from a file in one step


class Source(Protocol):
    """What a body is read from: the `content` of an aiohttp request."""

    async def readany(self) -> bytes: ...


class Piece:
    """Some bytes of a blob. Its file goes when nothing refers to the piece any more: neither a blob nor a
    reply being sent, so overwriting or deleting a blob never breaks a running download."""

    __slots__ = ("__weakref__", "_data", "number", "path", "size")

    def __init__(self, number: int, size: int, data: bytes = b"", path: Path | None = None) -> None:
        self.number = number
        self.size = size
        self._data: bytes | None = data
        self.path = path

    def data(self) -> bytes:
        """The bytes of a piece that has no file."""
        return self._data or b""


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


class PieceFiles:
    """Makes pieces. File names are counted, never derived from what a client sent."""

    synchronised = False  # whether a file must be on the disk before its piece is there

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root
        self._prefix = os.urandom(6).hex() + "-"
        self._numbers = itertools.count(1)

    def path(self, number: int) -> Path:
        return self._root / f"{self._prefix}{number:08x}.bin"

    def made(self, number: int, size: int, data: bytes = b"", path: Path | None = None) -> Piece:
        piece = Piece(number, size, data, path)
        if path is not None:
            weakref.finalize(piece, remove, path)
        return piece

    async def receive(self, source: Source, size: int, *, md5: bool) -> tuple[Piece, bytes | None]:
        """Read a body of `size` bytes; returns its piece and, if asked for, its MD5 digest.

        Raises EOFError when the body ends early; nothing is left behind then.
        """
        if size <= MEMORY_LIMIT:
            data = await _read_exactly(source, size)
            piece = self.made(next(self._numbers), size, data)
            return piece, hashlib.md5(data, usedforsecurity=False).digest() if md5 else None
        number = next(self._numbers)
        path = self.path(number)
        digest = hashlib.md5(usedforsecurity=False) if md5 else None
        try:
            with path.open("wb") as file:
                received = 0
                while received < size:
                    chunks = await _read_slice(source, size - received)
                    received += sum(map(len, chunks))
                    await asyncio.to_thread(_append, file, chunks, digest)
                if self.synchronised:
                    await asyncio.to_thread(os.fsync, file.fileno())
        except BaseException:
            remove(path)
            raise
        return self.made(number, size, path=path), digest.digest() if digest else None


def read(pieces: Sequence[Piece], start: int, stop: int) -> bytes | None:
    """The bytes [start, stop) if they are in memory, else None: then `stream` them."""
    if len(pieces) == 1 and pieces[0].path is None:
        data = pieces[0].data()
        return data if stop - start == len(data) else data[start:stop]
    return None if pieces else b""


async def stream(pieces: Sequence[Piece], start: int, stop: int) -> AsyncIterator[bytes]:
    """The bytes [start, stop) in slices of at most 1 MiB."""
    offset = 0
    for piece in pieces:
        first, last = max(start - offset, 0), min(stop - offset, piece.size)
        offset += piece.size
        if first >= last:
            continue
        if piece.path is None:
            yield piece.data()[first:last]
            continue
        with piece.path.open("rb") as file:
            file.seek(first)
            while first < last:
                data = await asyncio.to_thread(file.read, min(_SLICE, last - first))
                first += len(data)
                yield data


async def _read_exactly(source: Source, size: int) -> bytes:
    data = await source.readany() if size else b""
    while len(data) < size:
        more = await source.readany()
        if not more:
            raise EOFError
        data += more
    return data


async def _read_slice(source: Source, most: int) -> list[bytes]:
    """About a slice of the body, so that threads and files are not bothered for each packet."""
    chunks: list[bytes] = []
    length = 0
    while length < min(_SLICE, most):
        chunk = await source.readany()
        if not chunk:
            raise EOFError
        chunks.append(chunk)
        length += len(chunk)
    return chunks


def _append(file: BinaryIO, chunks: list[bytes], digest: hashlib._Hash | None) -> None:
    file.writelines(chunks)
    file.flush()
    if digest is not None:
        for chunk in chunks:
            digest.update(chunk)
