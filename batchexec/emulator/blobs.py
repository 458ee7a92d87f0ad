"""The Blob service of the local Azure: its routes over HTTP, path style, for one storage account."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from aiohttp import web

from batchexec.emulator import blob_blocks, blob_containers, blob_objects
from batchexec.emulator.blob_auth import Authority, Signed, parse_query
from batchexec.emulator.blob_batch import Part, run_batch
from batchexec.emulator.blob_call import Call, Operation, split_path
from batchexec.emulator.blob_errors import BlobError
from batchexec.emulator.blob_files import PieceFiles
from batchexec.emulator.blob_store import Store, http_date

_VERSION = "2026-10-06"  # replied to a request that names none

# (level, restype or "", comp or "", method) → operation
_OPERATIONS: dict[tuple[str, str, str, str], Operation] = {
    ("account", "", "list", "GET"): blob_containers.list_containers,
    ("account", "service", "properties", "GET"): blob_containers.service_properties,
    ("account", "account", "properties", "GET"): blob_containers.account_information,
    ("account", "account", "properties", "HEAD"): blob_containers.account_information,
    ("container", "container", "", "PUT"): blob_containers.create_container,
    ("container", "container", "", "GET"): blob_containers.container_properties,
    ("container", "container", "", "HEAD"): blob_containers.container_properties,
    ("container", "container", "", "DELETE"): blob_containers.delete_container,
    ("container", "container", "metadata", "PUT"): blob_containers.set_container_metadata,
    ("container", "container", "metadata", "GET"): blob_containers.container_properties,
    ("container", "container", "metadata", "HEAD"): blob_containers.container_properties,
    ("container", "container", "list", "GET"): blob_containers.list_blobs,
    ("container", "account", "properties", "GET"): blob_containers.account_information,
    ("blob", "account", "properties", "GET"): blob_containers.account_information,
    ("blob", "", "", "PUT"): blob_objects.put_blob,
    ("blob", "", "", "GET"): blob_objects.get_blob,
    ("blob", "", "", "HEAD"): blob_objects.head_blob,
    ("blob", "", "", "DELETE"): blob_objects.delete_blob,
    ("blob", "", "metadata", "PUT"): blob_objects.set_metadata,
    ("blob", "", "metadata", "GET"): blob_objects.get_metadata,
    ("blob", "", "metadata", "HEAD"): blob_objects.get_metadata,
    ("blob", "", "properties", "PUT"): blob_objects.set_properties,
    ("blob", "", "block", "PUT"): blob_blocks.put_block,
    ("blob", "", "blocklist", "PUT"): blob_blocks.put_block_list,
    ("blob", "", "blocklist", "GET"): blob_blocks.get_block_list,
}
_BATCHES = {("account", "", "batch", "POST"), ("container", "container", "batch", "POST")}


class BlobService:
    """Believes or refuses requests, finds their operation and words the refusals."""

    def __init__(self, account: str, key: str, root: Path, now: Callable[[], datetime]) -> None:
        self._authority = Authority(account, key)
        self._store = Store()
        self._files = PieceFiles(root)
        self._now = now
        self._run = os.urandom(4).hex()
        self._numbers = itertools.count(1)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        return await self._perform(request, request.method, request.raw_path, request.headers)

    async def _perform(
        self, request: web.Request, method: str, target: str, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Answer `method target` with `headers`: the request itself, or one part of a batch in it."""
        now = self._now()
        version = headers.get("x-ms-version", _VERSION)
        reply = {
            "x-ms-request-id": f"{self._run}-0000-4000-8000-{next(self._numbers):012x}",
            "x-ms-version": version if version.isascii() else _VERSION,
            "Date": http_date(now),
        }
        client_id = headers.get("x-ms-client-request-id")
        if client_id is not None and client_id.isascii():
            reply["x-ms-client-request-id"] = client_id
        try:
            signed = _parse(request, method, target, headers)
            access = self._authority.check(signed, now)
            if signed.account != self._authority.account:
                raise BlobError("ResourceNotFound", "Paths begin with the name of the account.")
            call = Call(request, signed, access, self._authority, self._store, self._files, now, reply)
            return await self._operate(call)
        except BlobError as error:
            return _refusal(method, error, reply, now)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return _refusal(method, BlobError("InsufficientStorage"), reply, now)

    async def _operate(self, call: Call) -> web.StreamResponse:
        signed, get = call.signed, call.query.get
        level = "blob" if signed.blob else "container" if signed.container else "account"
        if "snapshot" in signed.query or "versionid" in signed.query:
            raise BlobError("NotImplemented", "There are no snapshots and no versions.")
        key = (level, get("restype", ""), get("comp", ""), signed.method)
        if key in _BATCHES:
            return await run_batch(call, lambda part: self._delete_part(call, part))
        operation = _OPERATIONS.get(key)
        if operation is None:
            raise _unknown(*key)
        return await operation(call)

    async def _delete_part(self, call: Call, part: Part) -> web.Response:
        path, _, query = part.target.partition("?")
        _, container, blob = split_path(path)
        within = call.signed.container
        if part.method != "DELETE" or "comp=" in query or not blob or (within and container != within):
            raise BlobError("InvalidInput", "The parts of a batch delete blobs, here of its container.")
        response = await self._perform(call.request, part.method, part.target, part.headers)
        assert isinstance(response, web.Response)  # a delete streams nothing
        return response


def blob_app(account: str, key: str, root: Path, now: Callable[[], datetime]) -> web.Application:
    """The Blob service of one storage account as an aiohttp application.

    `key` is the account key in Base64; `root` the directory for large content (state is not kept from one
    run to the next); `now` the clock, in UTC. Serve it with
    `web.AppRunner(app, access_log=None, auto_decompress=False)`: without the latter a body sent with a
    Content-Encoding would arrive decompressed, where the service stores it as it is.
    """
    service = BlobService(account, key, root, now)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.handle)
    return app


def _parse(request: web.Request, method: str, target: str, headers: Mapping[str, str]) -> Signed:
    if not target.isascii():
        raise BlobError("InvalidUri", "Characters beyond ASCII are percent-encoded in a URI.")
    raw_path, _, query_text = target.partition("?")
    account, container, blob = split_path(raw_path)
    query = parse_query(query_text)
    return Signed(method, raw_path, query, headers, account, container, blob, request.scheme, request.remote)


def _refusal(method: str, error: BlobError, reply: dict[str, str], now: datetime) -> web.Response:
    # A new dict: the operation may have begun to describe a blob that is not sent now.
    kept = ("x-ms-request-id", "x-ms-version", "Date", "x-ms-client-request-id")
    headers = {name: reply[name] for name in kept if name in reply}
    headers.update(error.headers)
    headers["x-ms-error-code"] = error.code
    if method == "HEAD" or error.status == 304:
        return web.Response(status=error.status, headers=headers)
    headers["Content-Type"] = "application/xml"
    return web.Response(
        status=error.status, headers=headers, body=error.xml(reply["x-ms-request-id"], now.isoformat())
    )


def _unknown(level: str, restype: str, comp: str, method: str) -> BlobError:
    """Why no operation was found: an unknown combination, or a method that one does not have."""
    if any(known[:3] == (level, restype, comp) for known in _OPERATIONS):
        return BlobError("UnsupportedHttpVerb")
    return BlobError("InvalidQueryParameterValue", f"restype={restype!r}, comp={comp!r} on a {level}.")
