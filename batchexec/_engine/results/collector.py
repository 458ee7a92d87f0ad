"""Results with files behind them: the envelope read first, the files by ranges straight to the disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from batchexec._wire import envelope
from batchexec.errors import BatchExecError, OutputError, ServiceError, TamperedError

from .arriving import Announced, Arriving, Mismatch
from .destinations import Destinations, Directory, Unplaceable

T = TypeVar("T")
Get = Callable[[str, "tuple[int, int]"], Awaitable["bytes | None"]]  # a blob's bytes [start, stop); None: no such blob

_FIRST = 1 << 20  # bytes of the first read: most results are whole then, with small files
_RANGE = 4 << 20  # of those that follow, one of which is read while another is written
_AT_ONCE = 8


class Result(NamedTuple):
    """A result blob as far as it is needed in memory."""

    envelope: bytes
    more: bytes
    """What was read of the files behind it."""


class Brought(NamedTuple):
    """Files of a chunk's items that are in place, and why others are not, by the items' numbers."""

    paths: dict[int, list[Any]]
    errors: dict[int, BatchExecError]
    kept: bool
    """Whether the result must stay in storage: there are files that only it has."""


async def read(get: Get, blob: str) -> Result | None:
    """The envelope and the beginning of what is behind it; None when there is no such blob."""
    try:
        data = await get(blob, (0, _FIRST))
    except ServiceError as error:
        if error.status != 416:  # no byte at all
            raise
        data = b""
    if data is None:
        return None
    while True:
        try:
            length = envelope.length(data)
        except envelope.BadEnvelope:
            return Result(data, b"")  # whoever opens it will say so
        needed = length if length is not None else 2 * len(data)
        if len(data) >= needed:
            return Result(data[:needed], data[needed:])
        more = await _range(get, blob, len(data), needed)
        if not more:
            return Result(data, b"")
        data += more


class Collector:
    """Brings the files of an executor's items to this machine."""

    def __init__(self, get: Get, hint: str = "") -> None:
        """`get` reads blobs; `hint` tells how to have files that could not be written."""
        self._get = get
        self._hint = hint
        self._destinations = Destinations()
        self._places = asyncio.Semaphore(_AT_ONCE)

    @property
    def renamed(self) -> list[Path]:
        """Files that got another name, as another item's file had theirs. The list may be emptied."""
        return self._destinations.renamed

    async def bring(
        self,
        blob: str,
        result: Result,
        header: dict[str, Any],
        directory: Directory,
        shared: bool,
        offset: int,
        where: dict[str, Any],
    ) -> Brought:
        """Read the files that a result's (verified) header announces. `directory` says where those of an item belong,
        by its number in the executor and in its call, the former minus `offset`; `shared`: whether all items have the
        same. `where`: what errors tell of the task."""
        files = [Announced(*entry) for entry in header["attachments"]]
        errors: dict[int, BatchExecError] = {}
        placed = []
        for file in files:
            try:
                directory_of = directory(file.item, file.item - offset)
                path = self._destinations.place(directory_of, file.item, file.relative_path, shared)
            except Unplaceable:
                text = f"item {file.item} left {file.relative_path!r}, which leads out of its directory: it was refused"
                errors.setdefault(file.item, OutputError(text, **where))
                path = Path(".")
            placed.append((file, path))
        arriving = Arriving(placed, refused=set(errors))
        async with self._places:
            await self._stream(blob, result, sum(file.size for file in files), arriving)
        for item, (path, error) in arriving.errors.items():
            errors.setdefault(item, self._error(item, path, error, where))
        kept = any(isinstance(error, OSError | ValueError) for _, error in arriving.errors.values())
        return Brought(arriving.paths, errors, kept)

    async def _stream(self, blob: str, result: Result, size: int, arriving: Arriving) -> None:
        start = len(result.envelope)
        error: Exception | None = None
        try:
            async with contextlib.aclosing(self._pieces(blob, result.more[:size], start, start + size)) as pieces:
                async for piece in pieces:
                    await _in_thread(arriving.feed, memoryview(piece))
        except EOFError:
            error = Mismatch("its result blob is gone, or shorter than it was")
        finally:
            await _in_thread(arriving.end, error)

    def _error(self, item: int, path: Path, error: Exception, where: dict[str, Any]) -> BatchExecError:
        if isinstance(error, Mismatch):
            text = f"the file {path.name!r} of item {item} was not kept: {error}. Someone else may write to the storage"
            failed: BatchExecError = TamperedError(f"{text} account.", **where)
        else:
            reason = getattr(error, "strerror", None) or str(error)
            text = f"{str(path)!r}, which item {item} left, cannot be written here: {reason}. {self._hint}"
            failed = OutputError(text.rstrip(), **where)
        failed.__cause__ = error
        return failed

    async def _pieces(self, blob: str, first: bytes, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The blob's bytes [start, stop), of which `first` are here. Raises EOFError where there are fewer."""
        at = start + len(first)
        ahead = asyncio.ensure_future(_range(self._get, blob, at, min(at + _RANGE, stop))) if at < stop else None
        try:
            if first:
                yield first
            while ahead is not None:
                data = await ahead
                if not data:
                    raise EOFError
                at += len(data)
                end = min(at + _RANGE, stop)
                ahead = asyncio.ensure_future(_range(self._get, blob, at, end)) if at < stop else None
                yield data
        finally:
            if ahead is not None:
                ahead.cancel()


async def _range(get: Get, blob: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of the blob, fewer at its end."""
    try:
        return await get(blob, (start, stop)) or b""
    except ServiceError as error:
        if error.status == 416:
            return b""
        raise


async def _in_thread(work: Callable[..., T], *args: Any) -> T:
    """`work` beside the loop. It is waited for even when this is cancelled: it has files open."""
    working = asyncio.get_running_loop().run_in_executor(None, work, *args)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise
