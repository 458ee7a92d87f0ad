"""Resource files: what a node downloads into a task's working directory before it starts."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from batchexec.emulator.state import Body

from .directory import Absent, Directory
from .failures import CannotStart
from .transfers import Transfers, without_secret

_CHUNK = 1 << 18
_PAUSES = (0.1, 0.4)  # seconds between the tries of a download
_PASSING = frozenset(("BlobDownloadTimedOut", "BlobDownloadMiscError"))
_CODES = {404: "BlobNotFound", 401: "BlobAccessDenied", 403: "BlobAccessDenied"}


class _File(NamedTuple):
    """A file to download: from where, and where to, relative to the working directory."""

    url: str
    path: str


class Downloader:
    """Downloads what tasks ask for."""

    def __init__(self, http: Transfers) -> None:
        self._http = http

    async def fetch(self, files: list[Body], directory: Path) -> None:
        """Bring all of these resource files into a directory; CannotStart for the first that cannot be had."""
        for item in files:
            mode = int(item.get("fileMode") or "0770", 8)
            if item.get("httpUrl"):
                url = self._http.address(item["httpUrl"], item, "r")
                await self._fetch_one(_File(url, item["filePath"]), directory, mode)
                continue
            async for file in self._in_container(item):
                await self._fetch_one(file, directory, mode)

    async def _fetch_one(self, file: _File, directory: Path, mode: int) -> None:
        path = file.path
        try:
            await self._download(file, Directory(directory), mode)
        except Absent:
            raise CannotStart(
                "ResourceFileCreateFailed", "The file path leaves the working directory", FilePath=path
            ) from None
        except OSError as error:
            code = "DiskFull" if error.errno == errno.ENOSPC else "ResourceFileWriteFailed"
            raise CannotStart(code, error.strerror or str(error), FilePath=path) from error

    async def _download(self, file: _File, directory: Directory, mode: int) -> None:
        """Ask a few times where the trouble may pass: the service's agent has retries of its own, as its failure code
        MaxInternalRetryCountReached tells; how many is unknown."""
        for pause in _PAUSES:
            try:
                return await self._download_once(file, directory, mode)
            except CannotStart as error:
                if error.info["code"] not in _PASSING:
                    raise
            await asyncio.sleep(pause)
        await self._download_once(file, directory, mode)

    async def _download_once(self, file: _File, directory: Directory, mode: int) -> None:
        import aiohttp

        details = {"FilePath": file.path, "BlobSource": without_secret(file.url)}
        try:
            async with self._http.request("GET", file.url) as reply:
                if reply.status != 200:
                    raise _refused(reply.status, "A resource file could not be downloaded", details)
                with open(directory.create(file.path), "wb") as out:
                    async for data in reply.content.iter_chunked(_CHUNK):
                        out.write(data)
                    os.fchmod(out.fileno(), mode)
        except asyncio.TimeoutError as error:
            raise CannotStart("BlobDownloadTimedOut", "A download timed out", **details) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise CannotStart("BlobDownloadMiscError", type(error).__name__, **details) from error

    # -- containers

    async def _in_container(self, item: Body) -> AsyncIterator[_File]:
        """The blobs of a container, or those under `blobPrefix`; their names go on under `filePath`."""
        if item.get("storageContainerUrl"):
            container = self._http.address(item["storageContainerUrl"], item, "rl")
        elif self._http.storage is not None:
            container = self._http.storage.container(item["autoStorageContainerName"], "rl")
        else:
            raise CannotStart("BlobAccessDenied", "The account has no storage of its own")
        address, _, signature = container.partition("?")
        address = address.rstrip("/")
        folder = str(item.get("filePath") or "").rstrip("/")
        marker = ""
        while True:
            query = f"restype=container&comp=list&prefix={quote(item.get('blobPrefix') or '', safe='')}"
            query += f"&marker={quote(marker, safe='')}" if marker else ""
            names, marker = await self._list(f"{address}?{query}&{signature}".rstrip("&"))
            for name in names:
                if not name.endswith("/"):  # a marker of a directory
                    url = f"{address}/{quote(name, safe='/~')}" + (f"?{signature}" if signature else "")
                    yield _File(url, f"{folder}/{name}" if folder else name)
            if not marker:
                return

    async def _list(self, url: str) -> tuple[list[str], str]:
        """One page of names, and the marker of the next."""
        from xml.etree import ElementTree

        import aiohttp

        details = {"BlobSource": without_secret(url)}
        try:
            async with self._http.request("GET", url) as reply:
                if reply.status != 200:
                    raise _refused(reply.status, "A container could not be listed", details)
                page = ElementTree.fromstring(await reply.read())
        except asyncio.TimeoutError as error:
            raise CannotStart("BlobDownloadTimedOut", "A listing timed out", **details) from error
        except (aiohttp.ClientError, ValueError, ElementTree.ParseError) as error:
            raise CannotStart("BlobDownloadMiscError", type(error).__name__, **details) from error
        names = [
            unquote(name.text or "") if name.get("Encoded") == "true" else name.text or ""
            for name in page.findall("Blobs/Blob/Name")
        ]
        return names, page.findtext("NextMarker") or ""


def _refused(status: int, message: str, details: dict[str, str]) -> CannotStart:
    code = _CODES.get(status, "BlobDownloadMiscError")
    return CannotStart(code, message, **details, HttpStatusCode=str(status))
