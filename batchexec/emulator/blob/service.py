"""The Blob service of the local Azure: its routes over HTTP, path style, for one storage account."""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from batchexec.emulator.clock import http_date
from batchexec.emulator.errors import NotSaved
from batchexec.emulator.faults.faults import Faults, around
from batchexec.emulator.identity.hosts import Hosts

from . import blocks as blob_blocks
from . import containers as blob_containers
from . import objects as blob_objects
from . import reads as blob_reads
from .auth import Authority, BearerCheck, Signed, parse_query
from .batch import Part, run_batch
from .call import Call, Operation, split_path
from .delegation import get_user_delegation_key
from .errors import BlobError
from .files import PieceFiles
from .store import Store

if TYPE_CHECKING:
    from batchexec.emulator.persistence.journal import Journal

_log = logging.getLogger(__name__)
_VERSION = "2026-10-06"  # replied to a request that names none

# (level, restype or "", comp or "", method) → operation
_OPERATIONS: dict[tuple[str, str, str, str], Operation] = {
    ("account", "", "list", "GET"): blob_containers.list_containers,
    ("account", "service", "properties", "GET"): blob_containers.service_properties,
    ("account", "service", "userdelegationkey", "POST"): get_user_delegation_key,
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
    ("blob", "", "", "GET"): blob_reads.get_blob,
    ("blob", "", "", "HEAD"): blob_reads.head_blob,
    ("blob", "", "", "DELETE"): blob_objects.delete_blob,
    ("blob", "", "metadata", "PUT"): blob_objects.set_metadata,
    ("blob", "", "metadata", "GET"): blob_reads.get_metadata,
    ("blob", "", "metadata", "HEAD"): blob_reads.get_metadata,
    ("blob", "", "properties", "PUT"): blob_objects.set_properties,
    ("blob", "", "tier", "PUT"): blob_objects.set_tier,
    ("blob", "", "copy", "PUT"): blob_objects.abort_copy,
    ("blob", "", "block", "PUT"): blob_blocks.put_block,
    ("blob", "", "blocklist", "PUT"): blob_blocks.put_block_list,
    ("blob", "", "blocklist", "GET"): blob_blocks.get_block_list,
}
# Operations of the service that are not served here, by level
_NOT_SERVED = {
    "account": {"stats", "blobs", "properties", "userdelegationkey"},
    "container": {"acl", "lease", "undelete", "rename", "blobs"},
    "blob": {"lease", "snapshot", "tags", "undelete", "query", "expiry", "immutabilitypolicies", "legalhold"}
    | {"appendblock", "page", "pagelist", "incrementalcopy", "seal"},
}
_BATCHES = {("account", "", "batch", "POST"), ("container", "container", "batch", "POST")}


class BlobService:
    """Believes or refuses requests, finds their operation and words the refusals."""

    def __init__(
        self,
        account: str,
        key: str,
        root: Path,
        now: Callable[[], datetime],
        hosts: Hosts | None = None,
        tokens: BearerCheck | None = None,
        journal: Journal | None = None,
    ) -> None:
        self._authority = Authority(account, key, tokens)
        self._hosts = hosts or Hosts()
        self._journal = journal
        self._store = journal.blobs.store if journal else Store()
        self._files = journal.blobs.files if journal else PieceFiles(root)
        self._now = now
        self._run = os.urandom(4).hex()
        self._numbers = itertools.count(1)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self._journal is None:
            return await self._perform(request, request.method, request.raw_path, request.headers)
        try:
            self._journal.save()  # what a reply tells that is sent in the course of the operation
            response = await self._perform(request, request.method, request.raw_path, request.headers)
            if not response.prepared:
                self._journal.save()
        except NotSaved as error:  # nothing may be told that would be forgotten
            _log.warning("%s %s: %s", request.method, request.path, error)
            reply = self._reply(request.headers)
            response = _refusal(request.method, BlobError("InsufficientStorage"), reply, self._now())
        return response

    async def _perform(
        self, request: web.Request, method: str, target: str, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Answer `method target` with `headers`: the request itself, or one part of a batch in it."""
        now, reply = self._now(), self._reply(headers)
        try:
            if not self._hosts.accepts(request.headers.get("Host", "")):
                raise BlobError("InvalidHeaderValue", "Host: not a name of this service.")
            signed = _parse(request, method, target, headers)
            access = self._authority.check(signed, now)
            if signed.account != self._authority.account:
                raise BlobError("ResourceNotFound", "Paths begin with the name of the account.")
            call = Call(request, signed, access, self._authority, self._store, self._files, now, reply)
            return await self._operate(call)
        except BlobError as error:
            return _refusal(method, error, reply, now)
        except Exception as error:
            if isinstance(error, ConnectionError) or request.writer.output_size:
                raise  # the client is gone, or the reply has begun: it can only be broken off
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                return _refusal(method, BlobError("InsufficientStorage"), reply, now)
            _log.exception("%s %s", method, target.partition("?")[0])
            return _refusal(method, BlobError("InternalError"), reply, now)

    def _reply(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers of every reply to a request with these."""
        version = headers.get("x-ms-version", _VERSION)
        reply = {
            "x-ms-request-id": f"{self._run}-0000-4000-8000-{next(self._numbers):012x}",
            "x-ms-version": version if version.isascii() else _VERSION,
            "Date": http_date(self._now()),
        }
        client_id = headers.get("x-ms-client-request-id")
        if client_id is not None and client_id.isascii():
            reply["x-ms-client-request-id"] = client_id
        return reply

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


def blob_app(
    account: str,
    key: str,
    root: Path,
    now: Callable[[], datetime],
    hosts: Hosts | None = None,
    tokens: BearerCheck | None = None,
    journal: Journal | None = None,
    faults: Faults | None = None,
) -> web.Application:
    """The Blob service of one storage account as an aiohttp application.

    `key` is the account key in Base64; `root` the directory for large content (nothing is kept from one run
    to the next without a `journal`); `now` the clock, in UTC; `hosts` the names that requests may use, by
    default those of loopback; `tokens` says whose a bearer token is, where such are accepted. Serve it with
    `web.AppRunner(app, access_log=None, auto_decompress=False)`: without the latter a body sent with a
    Content-Encoding would arrive decompressed, where the service stores it as it is.
    """
    service = BlobService(account, key, root, now, hosts, tokens, journal)
    app = web.Application()
    handle = service.handle if faults is None else around(faults, "blob", service.handle)
    app.router.add_route("*", "/{path:.*}", handle)
    return app


def _parse(request: web.Request, method: str, target: str, headers: Mapping[str, str]) -> Signed:
    if not target.isascii():
        raise BlobError("InvalidUri", "Characters beyond ASCII are percent-encoded in a URI.")
    raw_path, _, query_text = target.partition("?")
    account, container, blob = split_path(raw_path)
    query = parse_query(query_text)
    version = request.headers.get("x-ms-version", "")
    return Signed(method, raw_path, query, headers, account, container, blob, request.scheme, request.remote, version)


def _refusal(method: str, error: BlobError, reply: dict[str, str], now: datetime) -> web.Response:
    # A new dict: the operation may have begun to describe a blob that is not sent now.
    kept = ("x-ms-request-id", "x-ms-version", "Date", "x-ms-client-request-id")
    headers = {name: reply[name] for name in kept if name in reply}
    headers.update(error.headers)
    headers["x-ms-error-code"] = error.code
    if method == "HEAD" or error.status == 304:
        return web.Response(status=error.status, headers=headers)
    headers["Content-Type"] = "application/xml"
    return web.Response(status=error.status, headers=headers, body=error.xml(reply["x-ms-request-id"], now.isoformat()))


def _unknown(level: str, restype: str, comp: str, method: str) -> BlobError:
    """Why no operation was found: an unknown combination, or a method that one does not have."""
    if any(known[:3] == (level, restype, comp) for known in _OPERATIONS):
        return BlobError("UnsupportedHttpVerb")
    if comp.lower() in _NOT_SERVED[level]:
        return BlobError("NotImplemented", f"comp={comp} on a {level}")
    return BlobError("InvalidQueryParameterValue", f"restype={restype!r}, comp={comp!r} on a {level}.")
