"""Blob storage: one job's blobs, below a prefix of one container."""

from __future__ import annotations

import asyncio
import base64
import re
import urllib.parse
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta, timezone
from html import unescape
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from batchexec.errors import ServiceError

from . import faults
from .account import Account, sdk_transport

SAS_DAYS = 7  # the longest that a user delegation key lives
_VERSION = "2021-12-02"
_ONE_PUT = 32 * 1024 * 1024  # larger blobs go in blocks
_BLOCK = 8 * 1024 * 1024
_MOST_BLOCKS = 50_000  # of one blob
_BLOCKS_AT_ONCE = 4
_COPY_BLOCK = 100 * 1024 * 1024  # of a copy within storage: what all versions of the service take
_PIECE = 512 * 1024  # larger bodies are handed over by pieces
_NAME = re.compile(r"<Name>([^<]*)</Name>")
_ANY_NAME = re.compile(r'<Name( Encoded="true")?>([^<]*)</Name>')  # encoded: what XML cannot say
_MARKER = re.compile(r"<NextMarker>([^<]+)</NextMarker>")
_BLOB = re.compile(r"<Blob>.*?</Blob>", re.DOTALL)
_SIZE = re.compile(r"<Content-Length>(\d+)</Content-Length>")
_ETAG = re.compile(r"<Etag>([^<]*)</Etag>")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")


class FoundBlob(NamedTuple):
    """A blob of any container of the account, as it was when it was listed."""

    name: str
    size: int
    etag: str


class BlobStore:
    """The blobs whose names begin with `prefix` in `container`; names are given and returned without it."""

    def __init__(
        self, account: Account, session: aiohttp.ClientSession, container: str, prefix: str, patience: float | None
    ) -> None:
        self._account = account
        self._session = session
        self._container = container
        self._prefix = prefix
        self._patience = patience
        self._name = f"Blob storage ({urlsplit(account.blob_endpoint).netloc})"
        self._url = f"{account.blob_endpoint}/{container}/"
        self._expiry = datetime.now(timezone.utc)
        self._signer: dict[str, Any] = {}
        self._own_sas = ""
        self._sas_seen: dict[tuple[str, str], str] = {}
        self.requests = 0

    @property
    def base_url(self) -> str:
        """What a worker puts before the names below."""
        return self._url + self._prefix

    @property
    def signed_until(self) -> datetime:
        """The end of the SAS that are given out now."""
        return self._expiry

    async def open(self, *, create: bool) -> None:
        """Get ready to sign; create the container if it is ours to create. Raises ServiceError."""
        await self.renew()
        if create:
            await self._sdk(self._container_client().create_container, "ContainerAlreadyExists")

    async def renew(self) -> None:
        """From now on, sign for another SAS_DAYS."""
        self._expiry = datetime.now(timezone.utc) + timedelta(days=SAS_DAYS, minutes=-10)
        self._sas_seen.clear()
        account = self._account
        if account.storage_key:
            self._signer = {"account_key": account.storage_key}
        else:
            self._signer = {"user_delegation_key": await self._delegation_key()}
        self._own_sas = self._container_sas(self._container, "racwdl")

    def _container_sas(self, container: str, permission: str) -> str:
        from azure.storage.blob import generate_container_sas

        return str(
            generate_container_sas(
                self._account.storage_account, container, permission=permission, expiry=self._expiry, **self._signer
            )
        )

    def sas(self, name: str, permission: str, *, keep: bool = False) -> str:
        """A SAS for one blob. `keep` remembers it, for a blob that many tasks read."""
        from azure.storage.blob import generate_blob_sas

        if keep and (name, permission) in self._sas_seen:
            return self._sas_seen[name, permission]
        token = generate_blob_sas(
            self._account.storage_account,
            self._container,
            self._prefix + name,
            permission=permission,
            expiry=self._expiry,
            **self._signer,
        )
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

    async def put_read(
        self, name: str, read: Callable[[int], bytes], size: int, checked: Callable[[], bool]
    ) -> bool:
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

    async def _pages(self, url: str, sas: str) -> AsyncIterator[str]:
        """The pages of a list of blobs."""
        marker = ""
        while True:
            more = f"&marker={urllib.parse.quote(marker, safe='')}" if marker else ""
            status, answer, header = await self._request("GET", f"{url}{more}&{sas}", None, {})
            if status != 200:
                raise self._refusal(status, answer, header)
            text = answer.decode("utf-8")
            yield text
            next_marker = _MARKER.search(text)
            if next_marker is None:
                return
            marker = unescape(next_marker.group(1))

    async def blob_in(self, container: str, name: str) -> FoundBlob | None:
        """One blob of any container of the account; None when there is none of that name. Raises ServiceError."""
        url = f"{self._account.blob_endpoint}/{container}/{urllib.parse.quote(name)}"
        status, answer, header = await self._request("HEAD", f"{url}?{self.sas_in(container, name)}", None, {})
        if status == 200:
            return FoundBlob(name, int(header["content-length"]), header["etag"])
        if status == 404 and header.get("x-ms-error-code") == "BlobNotFound":
            return None
        raise self._refusal(status, answer, header)

    async def blobs_in(self, container: str, prefix: str) -> list[FoundBlob]:
        """The blobs of any container of the account whose names begin with `prefix`, in order. Raises ServiceError."""
        sas = self._container_sas(container, "rl")
        base = f"{self._account.blob_endpoint}/{container}?restype=container&comp=list"
        found: list[FoundBlob] = []
        async for text in self._pages(f"{base}&prefix={urllib.parse.quote(prefix, safe='')}", sas):
            for blob in _BLOB.findall(text):
                encoded, name = _ANY_NAME.findall(blob)[0]
                size, etag = _first(_SIZE, blob) or "0", _first(_ETAG, blob) or ""
                name = urllib.parse.unquote(name) if encoded else unescape(name)
                found.append(FoundBlob(name, int(size), etag if etag.startswith('"') else f'"{etag}"'))
        return found

    def sas_in(self, container: str, name: str) -> str:
        """A SAS to read one blob of any container of the account."""
        from azure.storage.blob import generate_blob_sas

        return str(
            generate_blob_sas(
                self._account.storage_account, container, name, permission="r", expiry=self._expiry, **self._signer
            )
        )

    def path_in(self, container: str, name: str) -> str:
        """What a worker puts behind the host's name to reach that blob."""
        return f"{urlsplit(self._account.blob_endpoint).path}/{container}/{name}"

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

    async def _request(
        self, verb: str, url: str, data: Any, headers: dict[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        async def once() -> tuple[int, bytes, dict[str, str]]:
            self.requests += 1
            try:
                target = URL(url, encoded=True)
                sent = {"x-ms-version": _VERSION, **headers}
                body = data
                if data is not None and len(data) > _PIECE:
                    body, sent["Content-Length"] = _pieces(data), str(len(data))
                async with self._session.request(
                    verb, target, data=body, headers=sent, allow_redirects=False
                ) as response:
                    answer = await response.read()
                    header = {name.lower(): value for name, value in response.headers.items()}
            except Exception as error:
                raise self._typed(error) from error
            refused = self._refusal(response.status, answer, header)
            if refused.transient:
                raise refused
            if "x-ms-request-id" not in header and "x-ms-version" not in header:
                detail = f"it answers {response.status} with {header.get('content-type', 'no type')}"
                raise faults.not_the_service("Blob storage", self._account.blob_endpoint, detail)
            return response.status, answer, header

        answer = await faults.persistently(once, patience=self._patience)
        self._patience = None
        return answer

    def _refusal(self, status: int, answer: bytes, header: dict[str, str]) -> ServiceError:
        text = answer[:4000].decode("utf-8", "replace")
        code = header.get("x-ms-error-code") or _first(_CODE, text)
        return faults.refusal(self._name, status, code, _first(_MESSAGE, text) or "", header.get("retry-after"))

    def _typed(self, error: Exception) -> Exception:
        return faults.translate(self._name, self._account.blob_endpoint, error) or error

    async def _sdk(self, call: Any, *accepted: str) -> None:
        async def once() -> None:
            self.requests += 1
            try:
                await call()
            except Exception as error:
                raise self._typed(error) from error

        try:
            await faults.persistently(once, patience=self._patience)
        except ServiceError as error:
            if error.code not in accepted:
                raise
        self._patience = None

    def _service_client(self) -> Any:
        from azure.storage.blob.aio import BlobServiceClient

        account = self._account
        if account.storage_key:
            credential: Any = {"account_name": account.storage_account, "account_key": account.storage_key}
        else:
            credential = account.token_credential()
        return BlobServiceClient(
            account.blob_endpoint,
            credential=credential,
            transport=sdk_transport(self._session, account.blob_endpoint),
            retry_total=0,
        )

    def _container_client(self) -> Any:
        return self._service_client().get_container_client(self._container)

    async def _delegation_key(self) -> Any:
        found: list[Any] = []

        async def ask() -> None:
            start = datetime.now(timezone.utc) - timedelta(minutes=10)
            found.append(await self._service_client().get_user_delegation_key(start, self._expiry))

        await self._sdk(ask)
        return found[-1]


async def _pieces(data: bytes | memoryview) -> AsyncIterator[memoryview]:
    """A large body by pieces, between which the loop has its turn."""
    whole = memoryview(data)
    for start in range(0, len(whole), _PIECE):
        yield whole[start : start + _PIECE]


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return unescape(found.group(1)) if found else None
