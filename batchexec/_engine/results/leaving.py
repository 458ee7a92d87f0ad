"""Files that stay in storage: each is copied from its result blob to one of its own, without coming here."""

from __future__ import annotations

import asyncio
from typing import Any

from batchexec._azure.blobs import BlobStore
from batchexec.errors import BatchExecError, OutputError, ServiceError

from .arriving import Announced
from .collector import Brought, Result
from .destinations import Unplaceable, parts

_AT_ONCE = 8


class Leaver:
    """Copies below one `BlobPath`: `PREFIX/NUMBER OF THE ITEM/relative path`, or where `{item}` stands in it."""

    def __init__(self, store: BlobStore, target: Any, hint: str) -> None:
        """`store` has the results, `target` is the BlobPath; `hint` tells how to have files that cannot be copied."""
        self._store = store
        self._target = target
        self._hint = hint
        self._there = store.beside(target.container, "")
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._opening: asyncio.Future[None] | None = None

    async def leave(self, blob: str, result: Result, header: dict[str, Any], where: dict[str, Any]) -> Brought:
        """Copy the files that a result's (verified) header announces. Their bytes are believed to be those whose hash
        the worker signed, as nothing here reads them; the hash is in the copies' metadata (`sha256`)."""
        paths: dict[int, list[Any]] = {}
        errors: dict[int, BatchExecError] = {}
        source = f"{self._store.base_url}{blob}?{self._store.sas(blob, 'r')}"
        kept = False

        async def copy(file: Announced, start: int) -> Any:
            path = self._path(file)
            metadata = {"sha256": file.sha256, **({"executable": "true"} if file.executable else {})}
            async with self._places:
                await self._put(path.prefix, source, start, start + file.size, metadata)
            return path

        files = [Announced(*entry) for entry in header["attachments"]]
        starts = [len(result.envelope)]
        for file in files:
            starts.append(starts[-1] + file.size)
        copies = await asyncio.gather(*map(copy, files, starts), return_exceptions=True)
        for file, copied in zip(files, copies, strict=True):
            if isinstance(copied, ServiceError | Unplaceable):
                kept = kept or isinstance(copied, ServiceError)
                what = f"{file.relative_path!r}, which item {file.item} left, cannot be copied to {self._target}"
                error = OutputError(f"{what}: {str(copied).rstrip('.')}. {self._hint}", **where)
                error.__cause__ = copied
                errors.setdefault(file.item, error)
            elif isinstance(copied, BaseException):
                raise copied
            else:
                paths.setdefault(file.item, []).append(copied)
        return Brought(paths, errors, kept)

    def _path(self, file: Announced) -> Any:
        prefix = str(self._target)
        there = prefix.format(item=file.item) if "{item" in prefix else f"{prefix}/{file.item}"
        name = "/".join(map(_blob_name, parts(file.relative_path, windows=False)))
        return type(self._target)(f"{there}/{name}")

    async def _put(self, name: str, source: str, start: int, stop: int, metadata: dict[str, str]) -> None:
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._there.open(create=False))
        await self._opening
        try:
            await self._there.put_range(name, source, start, stop, metadata)
        except ServiceError as error:
            if error.status == 403:  # perhaps what was signed is a week old
                await self._there.renew()
            elif error.code == "ContainerNotFound":
                await self._there.open(create=True)
            else:
                raise
            await self._there.put_range(name, source, start, stop, metadata)


def _blob_name(part: str) -> str:
    """What a part of a blob's name cannot have, as %xx: bytes that are no UTF-8, control characters, backslashes, and a
    dot at its end; and so "%" itself.

    https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
    """
    if part.endswith("."):
        return _blob_name(part[:-1]) + "%2e"
    return "".join(
        f"%{ord(one) - 0xDC00:02x}" if "\udc80" <= one <= "\udcff" else f"%{ord(one):02x}" if _is_bad(one) else one
        for one in part
    )


def _is_bad(one: str) -> bool:
    return one < " " or "\x7f" <= one <= "\x9f" or one in "\\%"
