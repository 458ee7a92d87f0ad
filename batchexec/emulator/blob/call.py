"""One request to the Blob service: what was asked, by whom, and the headers of the reply."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from aiohttp import web

from batchexec.emulator.clock import http_date

from . import conditions as blob_conditions
from .auth import Access, Authority, Signed
from .errors import BlobError
from .files import Piece, PieceFiles
from .store import Blob, Container, Store

_MAX_NAME = 1024  # characters of a blob name
_TIERS = ("Hot", "Cool", "Cold")
# They change what is stored: to ignore them would be to store something else than asked for.
_NOT_IMPLEMENTED = ("x-ms-structured-body", "x-ms-tags", "x-ms-encryption-key", "x-ms-encryption-scope")


@dataclass(slots=True)
class Call:
    """A request that has been believed; `access` says what it may do."""

    request: web.Request
    signed: Signed
    access: Access
    authority: Authority
    store: Store
    files: PieceFiles
    now: datetime
    reply: dict[str, str]  # headers every reply carries

    @property
    def headers(self) -> Mapping[str, str]:
        return self.signed.headers

    @property
    def query(self) -> Mapping[str, str]:
        return self.signed.query

    @property
    def blob_name(self) -> str:
        return self.signed.blob

    def container(self) -> Container:
        return self.store.container(self.signed.container)

    def metadata(self) -> dict[str, str]:
        """The x-ms-meta-* headers, names in the case they were sent in."""
        found: dict[str, str] = {}
        for name, value in self.headers.items():
            if name[:10].lower() == "x-ms-meta-":
                key = name[10:]
                if not key:
                    raise BlobError("EmptyMetadataKey")
                if not (key.isidentifier() and key.isascii() and value.isascii()):
                    raise BlobError("InvalidMetadata")
                found[key] = value
        return found

    def tier(self) -> dict[str, str]:
        """The access tier that the request sets, as the headers kept with the blob; empty where it sets none."""
        tier = self.headers.get("x-ms-access-tier")
        if tier is None:
            return {}
        if tier == "Archive":  # from which a blob comes back within hours
            raise BlobError("NotImplemented", "x-ms-access-tier: Archive")
        if tier not in _TIERS:
            raise BlobError("InvalidHeaderValue", f"x-ms-access-tier is none of {', '.join(_TIERS)}.")
        return {"x-ms-access-tier": tier, "x-ms-access-tier-change-time": http_date(self.now)}

    def body_size(self, limit: int) -> int:
        size = self.request.content_length
        if size is None:
            raise BlobError("MissingContentLengthHeader")
        if size > limit:
            raise BlobError("RequestBodyTooLarge", f"The limit is {limit} bytes.")
        return size

    async def receive(self, limit: int, *, md5: bool) -> tuple[Piece, bytes | None]:
        """The body as a piece, checked against Content-MD5; with `md5` its digest in any case."""
        size = self.body_size(limit)
        for header in _NOT_IMPLEMENTED:
            if header in self.headers:
                raise BlobError("NotImplemented", header)
        given = self.headers.get("Content-MD5")
        expected = decode_md5(given) if given else None
        try:
            piece, digest = await self.files.receive(self.request.content, size, md5=md5 or bool(given))
        except (EOFError, ConnectionError, web.RequestPayloadError):
            raise BlobError("IncompleteBody") from None
        if expected is not None and expected != digest:
            raise BlobError("Md5Mismatch")
        return piece, digest

    def respond(self, status: int, headers: Mapping[str, str] | None = None) -> web.Response:
        if headers:
            self.reply.update(headers)
        return web.Response(status=status, headers=self.reply)

    def respond_xml(self, body: bytes) -> web.Response:
        self.reply["Content-Type"] = "application/xml"
        return web.Response(status=200, headers=self.reply, body=body)

    def check_put(self, blob: Blob | None) -> None:
        """Whether `blob`, now under the name, may be replaced: by the caller and by the conditions."""
        if blob is not None and not self.access.has("w"):
            raise BlobError("UnauthorizedBlobOverwrite")
        blob_conditions.check_write(self.headers, blob, puts=True)

    def readable(self) -> Blob:
        """The blob asked for, if the caller may read it and the conditions hold."""
        self.access.need("r", "o")
        blob_conditions.check_satisfiable(self.headers)
        blob = self.container().get(self.blob_name)
        blob_conditions.check_read(self.headers, blob)
        return blob


Operation = Callable[[Call], Awaitable[web.StreamResponse]]


def split_path(raw_path: str) -> tuple[str, str, str]:
    """`/account/container/blob/with/slashes`, percent-encoded, as its three names; "" where absent."""
    parts = [*raw_path.split("/", 3)[1:], "", "", ""]
    try:
        account, container, blob = (unquote(part, errors="strict") if "%" in part else part for part in parts[:3])
    except UnicodeDecodeError:
        raise BlobError("InvalidUri") from None
    if len(blob) > _MAX_NAME:
        raise BlobError("InvalidResourceName", f"A blob name has at most {_MAX_NAME} characters.")
    return account, container, blob


def stamp(thing: Blob | Container) -> dict[str, str]:
    """The headers that tell one state of a blob or container from another."""
    return {"ETag": thing.etag, "Last-Modified": thing.modified_text}


def decode_md5(text: str) -> bytes:
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 16:
        raise BlobError("InvalidMd5")
    return digest
