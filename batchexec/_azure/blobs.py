"""Blob storage: one job's blobs, below a prefix of one container."""

from __future__ import annotations

import asyncio
import base64
import re
import urllib.parse
from collections.abc import Callable
from html import unescape
from typing import Any

import aiohttp

from .account import Account
from .storage import Storage

_ONE_PUT = 32 * 1024 * 1024  # larger blobs go in blocks
_BLOCK = 8 * 1024 * 1024
_MOST_BLOCKS = 50_000  # of one blob
_BLOCKS_AT_ONCE = 4
_COPY_BLOCK = 100 * 1024 * 1024  # of a copy within storage: what all versions of the service take
_NAME = re.compile(r"<Name>([^<]*)</Name>")


class BlobStore(Storage):
    """The blobs whose names begin with `prefix` in `container`; names are given and returned without it."""

    def __init__(
        self, account: Account, session: aiohttp.ClientSession, container: str, prefix: str, patience: float | None
    ) -> None:
        super().__init__(account, session, patience)
        self._container = container
        self._prefix = prefix
        self._url = f"{account.blob_endpoint}/{container}/"
        self._own_sas = ""
        self._sas_seen: dict[tuple[str, str], str] = {}

    @property
    def base_url(self) -> str:
        """What a worker puts before the names below."""
        return self._url + self._prefix

    async def open(self, *, create: bool) -> None:
        """Get ready to sign; create the container if it is ours to create. Raises ServiceError."""
        await self.renew()
        if create:
            await self._sdk(self._container_client().create_container, "ContainerAlreadyExists")

    async def renew(self) -> None:
        """From now on, sign for another SAS_DAYS."""
        self._sas_seen.clear()
        await super().renew()
        self._own_sas = self._container_sas(self._container, "racwdl")

    def sas(self, name: str, permission: str, *, keep: bool = False) -> str:
        """A SAS for one blob. `keep` remembers it, for a blob that many tasks read."""
        if keep and (name, permission) in self._sas_seen:
            return self._sas_seen[name, permission]
        token = self._blob_sas(self._container, self._prefix + name, permission)
        if keep:
            self._sas_seen[name, permission] = token
        return token

    async def put(self, name: str, data: bytes | memoryview) -> None:
        if len(data) > _ONE_PUT:
            await self._put_blocks(name, memoryview(data))
            return
        headers = {"x-ms-blob-type": "BlockBlob"}
        status, answer, header = await self._request("PUT", self._target(name), data, headers)
        if status != 201:
            raise self._refusal(status, answer, header)

    async def _put_blocks(self, name: str, data: memoryview) -> None:
        """Some blocks at a time, and then the list of them: with that, the blob is there."""
        target = self._target(name)
        blocks = {base64.b64encode(b"%015d" % start).decode(): start for start in range(0, len(data), _BLOCK)}
        places = asyncio.Semaphore(_BLOCKS_AT_ONCE)

        async def stage(block: str, start: int) -> None:
            async with places:
                await self._put_block(target, block, data[start : start + _BLOCK])

        staged = [asyncio.ensure_future(stage(block, start)) for block, start in blocks.items()]
        try:
            await asyncio.gather(*staged)
        finally:
            for one in staged:
                one.cancel()
        await self._put_list(target, list(blocks))

    async def _put_block(self, target: str, block: str, data: bytes | memoryview) -> None:
        url = f"{target}&comp=block&blockid={urllib.parse.quote(block, safe='')}"
        status, answer, header = await self._request("PUT", url, data, {})
        if status != 201:
            raise self._refusal(status, answer, header)

    async def _put_list(self, target: str, blocks: list[str], metadata: dict[str, str] | None = None) -> None:
        listed = "".join(f"<Latest>{block}</Latest>" for block in blocks)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        headers = {f"x-ms-meta-{key}": value for key, value in (metadata or {}).items()}
        status, answer, header = await self._request("PUT", f"{target}&comp=blocklist", body, headers)
        if status != 201:
            raise self._refusal(status, answer, header)

    def beside(self, container: str, prefix: str) -> BlobStore:
        """Another prefix, of any container of the same account; to be opened."""
        return BlobStore(self._account, self._session, container, prefix, self._patience)

    async def put_range(
        self, name: str, source: str, start: int, stop: int, metadata: dict[str, str] | None = None
    ) -> None:
        """Make a blob of the bytes [start, stop) of the one at the URL `source`, in storage itself (Put Block From
        URL). Raises ServiceError."""
        target = self._target(name)
        blocks = {base64.b64encode(b"%015d" % at).decode(): at for at in range(start, stop, _COPY_BLOCK)}
        for block, at in blocks.items():
            url = f"{target}&comp=block&blockid={urllib.parse.quote(block, safe='')}"
            span = f"bytes={at}-{min(at + _COPY_BLOCK, stop) - 1}"
            headers = {"x-ms-copy-source": source, "x-ms-source-range": span}
            status, answer, header = await self._request("PUT", url, b"", headers)
            if status != 201:
                raise self._refusal(status, answer, header)
        await self._put_list(target, list(blocks), metadata)

    async def put_read(self, name: str, read: Callable[[int], bytes], size: int, checked: Callable[[], bool]) -> bool:
        """What `read` gives, `size` bytes, by blocks and never whole in memory. The blob appears, and True is returned,
        if `checked()` is true when all has been read."""
        if size <= _BLOCK:
            data = await asyncio.to_thread(read, size)
            good = checked()
            if good:
                await self.put(name, data)
            return good
        target = self._target(name)
        block_size = max(_BLOCK, -(-size // _MOST_BLOCKS))
        blocks = [base64.b64encode(b"%015d" % start).decode() for start in range(0, size, block_size)]
        places = asyncio.Semaphore(_BLOCKS_AT_ONCE)

        async def stage(block: str, data: bytes) -> None:
            try:
                await self._put_block(target, block, data)
            finally:
                places.release()

        staged: list[asyncio.Future[None]] = []
        try:
            for block in blocks:
                await places.acquire()
                if any(one.done() and one.exception() for one in staged):
                    break
                data = await asyncio.to_thread(read, block_size)
                staged.append(asyncio.ensure_future(stage(block, data)))
            await asyncio.gather(*staged)
        finally:
            for one in staged:
                one.cancel()
        if checked():
            await self._put_list(target, blocks)
            return True
        return False

    async def get(self, name: str, span: tuple[int, int] | None = None) -> bytes | None:
        """The blob, or its bytes [start, stop); None when there is no such blob."""
        headers = {} if span is None else {"x-ms-range": f"bytes={span[0]}-{span[1] - 1}"}
        status, answer, header = await self._request("GET", self._target(name), None, headers)
        if status in (200, 206):
            return answer
        if status == 404 and header.get("x-ms-error-code") == "BlobNotFound":
            return None
        raise self._refusal(status, answer, header)

    async def names(self, prefix: str) -> list[str]:
        """Names of the blobs below `prefix`, in order."""
        found: list[str] = []
        query = f"restype=container&comp=list&prefix={urllib.parse.quote(self._prefix + prefix, safe='')}"
        async for text in self._pages(f"{self._url[:-1]}?{query}", self._own_sas):
            found += [unescape(name)[len(self._prefix) :] for name in _NAME.findall(text)]
        return found

    async def delete(self, name: str) -> None:
        status, answer, header = await self._request("DELETE", self._target(name), None, {})
        if status not in (202, 404):
            raise self._refusal(status, answer, header)

    async def drop(self, *, keep: tuple[str, ...] = (), whole_container: bool) -> None:
        """Delete everything here, but blobs whose names are in `keep`."""
        there = set(await self.names("")) if keep or not whole_container else set()
        if whole_container and not there.intersection(keep):
            await self._sdk(self._container_client().delete_container, "ContainerNotFound")
            return
        await asyncio.gather(*(self.delete(name) for name in there.difference(keep)))

    def _target(self, name: str) -> str:
        return f"{self._url}{urllib.parse.quote(self._prefix + name)}?{self._own_sas}"

    def _container_client(self) -> Any:
        return self._service_client().get_container_client(self._container)
