"""Resource files: what a node downloads into a task's working directory before it starts."""

from __future__ import annotations

import asyncio
import errno
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from .state import Body

if TYPE_CHECKING:
    from aiohttp import ClientSession

_CHUNK = 1 << 18


class CannotStart(Exception):
    """A task cannot start: `info` is its failureInfo."""

    def __init__(self, code: str, message: str, **details: str) -> None:
        super().__init__(message)
        self.info = failure("usererror", code, message, **details)


def failure(category: str, code: str, message: str, **details: str) -> Body:
    """A failureInfo object."""
    listed = [{"name": name, "value": value} for name, value in details.items()]
    return {"category": category, "code": code, "message": message, "details": listed}


class Downloader:
    """Downloads over one HTTP session per node, opened when first needed."""

    def __init__(self) -> None:
        self._session: ClientSession | None = None
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, files: list[Body], directory: Path) -> None:
        for file in files:
            await self._fetch_one(file, directory)

    async def _fetch_one(self, file: Body, directory: Path) -> None:
        path = file["filePath"]
        target = directory / path
        if not target.resolve().is_relative_to(directory.resolve()):
            raise CannotStart("ResourceFileCreateFailed", "The file path leaves the working directory", FilePath=path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            await self._download(file["httpUrl"], target, path)
            target.chmod(int(file.get("fileMode") or "0770", 8))
        except OSError as error:
            code = "DiskFull" if error.errno == errno.ENOSPC else "ResourceFileWriteFailed"
            raise CannotStart(code, error.strerror or str(error), FilePath=path) from error

    async def _download(self, url: str, target: Path, path: str) -> None:
        import aiohttp
        from yarl import URL

        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            )
        details = {"FilePath": path, "BlobSource": url.partition("?")[0]}  # the query is a secret
        try:
            async with self._session.get(URL(url, encoded=True), ssl=self._trusted(url)) as reply:
                if reply.status != 200:
                    codes = {404: "BlobNotFound", 401: "BlobAccessDenied", 403: "BlobAccessDenied"}
                    code = codes.get(reply.status, "BlobDownloadMiscError")
                    raise CannotStart(
                        code,
                        "A resource file could not be downloaded",
                        **details,
                        HttpStatusCode=str(reply.status),
                    )
                with open(target, "wb") as out:
                    async for data in reply.content.iter_chunked(_CHUNK):
                        out.write(data)
        except asyncio.TimeoutError as error:
            raise CannotStart("BlobDownloadTimedOut", "A download timed out", **details) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise CannotStart("BlobDownloadMiscError", type(error).__name__, **details) from error

    def _trusted(self, url: str) -> ssl.SSLContext | bool:
        """Whom to believe: the system's certificates, read when first needed."""
        if url[:6].lower() != "https:":
            return True
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
