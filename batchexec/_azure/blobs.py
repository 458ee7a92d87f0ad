"""Blob storage: one job's blobs, below a prefix of one container."""

from __future__ import annotations

import asyncio
import base64
import re
import urllib.parse
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from html import unescape
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from batchexec.errors import ServiceError

from . import faults
from .account import Account, sdk_transport

SAS_DAYS = 7  # the longest that a user delegation key lives
_VERSION = "2021-12-02"
_ONE_PUT = 32 * 1024 * 1024  # larger blobs go in blocks
_BLOCK = 8 * 1024 * 1024  # of at most 50,000
_BLOCKS_AT_ONCE = 4
_PIECE = 512 * 1024  # larger bodies are handed over by pieces
_NAME = re.compile(r"<Name>([^<]*)</Name>")
_MARKER = re.compile(r"<NextMarker>([^<]+)</NextMarker>")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")


class BlobStore:
    """The blobs whose names begin with `prefix` in `container`; names are given and returned without it."""

    def __init__(
        self, account: Account, session: aiohttp.ClientSession, container: str, prefix: str, patience: float
    ) -> None:
        self._account = account
        self._session = session
        self._container = container
        self._prefix = prefix
        self._patience: float | None = patience
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

    async def open(self, *, create: bool) -> None:
        """Get ready to sign; create the container if it is ours to create. Raises ServiceError."""
        await self.renew()
        if create:
            await self._sdk(self._container_client().create_container, "ContainerAlreadyExists")

    async def renew(self) -> None:
        """From now on, sign for another SAS_DAYS."""
        from azure.storage.blob import generate_container_sas

        self._expiry = datetime.now(timezone.utc) + timedelta(days=SAS_DAYS, minutes=-10)
        self._sas_seen.clear()
        account = self._account
        if account.storage_key:
            self._signer = {"account_key": account.storage_key}
        else:
            self._signer = {"user_delegation_key": await self._delegation_key()}
        self._own_sas = generate_container_sas(
            account.storage_account,
            self._container,
            permission="racwdl",
            expiry=self._expiry,
            **self._signer,
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
                url = f"{target}&comp=block&blockid={urllib.parse.quote(block, safe='')}"
                status, answer, header = await self._request("PUT", url, data[start : start + _BLOCK], {})
                if status != 201:
                    raise self._refusal(status, answer, header)

        staged = [asyncio.ensure_future(stage(block, start)) for block, start in blocks.items()]
        try:
            await asyncio.gather(*staged)
        finally:
            for one in staged:
                one.cancel()
        listed = "".join(f"<Latest>{block}</Latest>" for block in blocks)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        status, answer, header = await self._request("PUT", f"{target}&comp=blocklist", body, {})
        if status != 201:
            raise self._refusal(status, answer, header)

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
        marker = ""
        query = f"restype=container&comp=list&prefix={urllib.parse.quote(self._prefix + prefix, safe='')}"
        while True:
            more = f"&marker={urllib.parse.quote(marker, safe='')}" if marker else ""
            url = f"{self._url[:-1]}?{query}{more}&{self._own_sas}"
            status, answer, header = await self._request("GET", url, None, {})
            if status != 200:
                raise self._refusal(status, answer, header)
            text = answer.decode("utf-8")
            found += [unescape(name)[len(self._prefix) :] for name in _NAME.findall(text)]
            next_marker = _MARKER.search(text)
            if next_marker is None:
                return found
            marker = unescape(next_marker.group(1))

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
