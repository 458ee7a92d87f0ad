"""Output files: what a node uploads from a task's directory after its process has ended."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote
from xml.sax.saxutils import escape

from batchexec.emulator.clock import Clock
from batchexec.emulator.state import Body

from .directories import open_to_append, refuse_links
from .directory import Absent, Directory
from .failures import failure
from .patterns import OutsideError, find
from .transfers import Transfers, without_secret

OUT, ERR = "fileuploadout.txt", "fileuploaderr.txt"
_ONE_PUT = 64 << 20  # bytes that go in one request; more goes in blocks
_BLOCK = 8 << 20
_CHUNK = 1 << 18
_TRIES = 3
_CONDITIONS = {"tasksuccess": (True,), "taskfailure": (False,), "taskcompletion": (True, False)}
_MESSAGES = {
    "FileUploadContainerNotFound": "One of the specified Azure container(s) was not found while attempting to upload "
    "an output file",
    "FileUploadAccessDenied": "Access to one of the specified Azure container(s) was denied while attempting to upload "
    "an output file",
    "FileUploadMiscError": "A miscellaneous error was encountered while uploading one of the output files",
}
_CODES = {404: "FileUploadContainerNotFound", 401: "FileUploadAccessDenied", 403: "FileUploadAccessDenied"}


class _Refused(Exception):
    """Storage did not take a file; `status` is what it answered, None where it did not answer."""

    def __init__(self, status: int | None, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Uploader:
    """Uploads what tasks leave."""

    def __init__(self, http: Transfers, clock: Clock) -> None:
        self._http = http
        self._clock = clock

    async def upload(self, items: list[Body], root: Path, env: Mapping[str, str], success: bool) -> Body | None:
        """Upload from a task's directory what its end calls for; the failureInfo of the first that failed, or None.

        All are tried. What was done is told in `fileuploadout.txt`, what failed in `fileuploaderr.txt`.
        """
        wanted = [item for item in items if success in _CONDITIONS[item["uploadOptions"]["uploadCondition"]]]
        try:
            return await self._upload(wanted, root, env) if wanted else None
        except OSError as error:  # the disk is full, or the task has removed its directory
            code = "FileUploadMiscError"
            return failure("usererror", code, _MESSAGES[code], Reason=error.strerror or str(error))

    async def _upload(self, wanted: list[Body], root: Path, env: Mapping[str, str]) -> Body | None:
        first: Body | None = None
        refuse_links(root.parent, root)
        directory = Directory(root)
        with (
            open(open_to_append(root / OUT), "a", buffering=1) as out,
            open(open_to_append(root / ERR), "a", buffering=1) as err,
        ):
            for item in wanted:
                pattern, container = item["filePattern"], item["destination"]["container"]
                out.write(f"{self._clock.now()} Uploading all files matching pattern {pattern}\n")
                try:
                    for path, name in await asyncio.to_thread(_files, item, root, env):
                        await self._upload_one(directory, path, name, container)
                        out.write(f"{self._clock.now()} {path} -> {without_secret(container['containerUrl'])}/{name}\n")
                except (_Refused, OSError, OutsideError) as error:
                    status = error.status if isinstance(error, _Refused) else None
                    code = _CODES.get(status or 0, "FileUploadMiscError")
                    err.write(f"{self._clock.now()} {code}: {pattern}: {error}\n")
                    details = {"FilePattern": pattern, "ContainerUrl": without_secret(container["containerUrl"])}
                    first = first or failure("usererror", code, _MESSAGES[code], **details, Reason=str(error))
        return first

    async def _upload_one(self, directory: Directory, path: str, name: str, container: Body) -> None:
        address, _, signature = self._http.address(container["containerUrl"], container, "racw").partition("?")
        url = f"{address.rstrip('/')}/{quote(name, safe='/~')}" + (f"?{signature}" if signature else "")
        headers = {item["name"]: item.get("value") or "" for item in container.get("uploadHeaders") or ()}
        try:
            handle, status = directory.open(path)  # it may have become something else since it was found
        except Absent:
            raise FileNotFoundError(f"no file {path}") from None
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            raise IsADirectoryError(errno.EISDIR, f"{path} has become a directory")
        with open(handle, "rb") as file:
            size = status.st_size
            if size <= _ONE_PUT:
                await self._put(url, {**headers, "x-ms-blob-type": "BlockBlob"}, file, 0, size)
            else:
                await self._put_blocks(url, headers, file, size)

    async def _put_blocks(self, url: str, headers: dict[str, str], file: BinaryIO, size: int) -> None:
        joint = "&" if "?" in url else "?"
        ids = []
        for start in range(0, size, _BLOCK):
            id = base64.b64encode(f"{start:020}".encode()).decode()
            ids.append(id)
            length = min(_BLOCK, size - start)
            await self._put(f"{url}{joint}comp=block&blockid={quote(id, safe='')}", {}, file, start, length)
        listed = "".join(f"<Latest>{escape(id)}</Latest>" for id in ids)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        await self._send(f"{url}{joint}comp=blocklist", headers, lambda: body)

    async def _put(self, url: str, headers: dict[str, str], file: BinaryIO, start: int, length: int) -> None:
        # With Content-Length given, the body is not sent in HTTP chunks, which the Blob service does not take.
        headers = {**headers, "Content-Length": str(length)}
        await self._send(url, headers, lambda: _part(file, start, length) if length else b"")

    async def _send(self, url: str, headers: dict[str, str], body: Callable[[], object]) -> None:
        """One request, tried again where the service is busy or does not answer."""
        import aiohttp

        for left in reversed(range(_TRIES)):
            status, reason = None, ""
            try:
                async with self._http.request("PUT", url, data=body(), headers=headers) as reply:
                    status, reason = reply.status, reply.headers.get("x-ms-error-code", reply.reason or "")
            except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
                reason = type(error).__name__
            if status == 201:
                return
            if left == 0 or (status is not None and status < 500):
                raise _Refused(status, f"{status or 'no answer'} {reason}")
            await self._clock.sleep(_TRIES - left)


def _files(item: Body, root: Path, env: Mapping[str, str]) -> list[tuple[str, str]]:
    """The files that an item means, with the names of their blobs."""
    found = find(item["filePattern"], str(root), env)
    path = str(item["destination"]["container"].get("path") or "").strip("/")
    if found.single:
        if not found.files:
            raise FileNotFoundError(f"no file {item['filePattern']}")
        return [(found.files[0][0], path or found.files[0][1])]
    return [(file, f"{path}/{name}" if path else name) for file, name in found.files]


async def _part(file: BinaryIO, start: int, length: int) -> AsyncIterator[bytes]:
    file.seek(start)
    while length > 0:
        data = file.read(min(_CHUNK, length))
        if not data:
            raise ValueError("the file became shorter while it was uploaded")
        length -= len(data)
        yield data
