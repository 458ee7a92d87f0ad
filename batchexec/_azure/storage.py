"""Blob storage as one account: signing, requests with retries, and looking at any container."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import AsyncIterator
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
_PIECE = 512 * 1024  # larger bodies are handed over by pieces
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


class Storage:
    """The storage account. `requests` counts those sent, `patience` is how long the first may go without an answer."""

    def __init__(self, account: Account, session: aiohttp.ClientSession, patience: float | None) -> None:
        self._account = account
        self._session = session
        self._patience = patience
        self._name = f"Blob storage ({urlsplit(account.blob_endpoint).netloc})"
        self._expiry = datetime.now(timezone.utc)
        self._signer: dict[str, Any] = {}
        self.requests = 0

    @property
    def signed_until(self) -> datetime:
        """The end of the SAS that are given out now."""
        return self._expiry

    async def renew(self) -> None:
        """From now on, sign for another SAS_DAYS."""
        self._expiry = datetime.now(timezone.utc) + timedelta(days=SAS_DAYS, minutes=-10)
        account = self._account
        if account.storage_key:
            self._signer = {"account_key": account.storage_key}
        else:
            self._signer = {"user_delegation_key": await self._delegation_key()}

    def _container_sas(self, container: str, permission: str) -> str:
        from azure.storage.blob import generate_container_sas

        return str(
            generate_container_sas(
                self._account.storage_account, container, permission=permission, expiry=self._expiry, **self._signer
            )
        )

    def _blob_sas(self, container: str, name: str, permission: str) -> str:
        from azure.storage.blob import generate_blob_sas

        return str(
            generate_blob_sas(
                self._account.storage_account,
                container,
                name,
                permission=permission,
                expiry=self._expiry,
                **self._signer,
            )
        )

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
        return self._blob_sas(container, name, "r")

    def path_in(self, container: str, name: str) -> str:
        """What a worker puts behind the host's name to reach that blob."""
        return f"{urlsplit(self._account.blob_endpoint).path}/{container}/{name}"

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

        answer = await faults.persistently(once, service=self._name, patience=self._patience)
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
            await faults.persistently(once, service=self._name, patience=self._patience)
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
