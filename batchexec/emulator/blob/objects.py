"""Operations that change one blob: put, copy, delete, metadata, properties, tier."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from aiohttp import web

from batchexec.emulator.clock import http_date

from .auth import Signed, parse_query
from .call import Call, decode_md5, split_path, stamp
from .conditions import check_combination, check_write
from .errors import BlobError
from .files import Piece
from .store import Blob

PUT_BLOB_LIMIT = 5000 * 1024 * 1024
# Header of a write → property kept with the blob and sent with each read.
_CONTENT_HEADERS = {
    "x-ms-blob-content-encoding": "Content-Encoding",
    "x-ms-blob-content-language": "Content-Language",
    "x-ms-blob-content-disposition": "Content-Disposition",
    "x-ms-blob-cache-control": "Cache-Control",
}


async def put_blob(call: Call) -> web.StreamResponse:
    """Put Blob, block blobs only. The blob appears when its whole body is there, and only if the conditions
    still hold then: of two conditional writes at the same time one wins."""
    if "x-ms-copy-source" in call.headers:
        return await copy_blob(call)
    call.access.need("cw", "o")
    kind = call.headers.get("x-ms-blob-type")
    if kind is None:
        raise BlobError("MissingRequiredHeader", "x-ms-blob-type")
    if kind != "BlockBlob":
        raise BlobError("NotImplemented", "Only block blobs are.")
    metadata, extra = call.metadata(), call.tier()
    call.check_put(call.container().blobs.get(call.blob_name))
    given = call.headers.get("x-ms-blob-content-md5")
    piece, digest = await call.receive(PUT_BLOB_LIMIT, md5=True)
    assert digest is not None
    if given and decode_md5(given) != digest:
        raise BlobError("Md5Mismatch")
    content = content_properties(call.headers, call.headers.get("Content-Type"))
    content["Content-MD5"] = base64.b64encode(digest).decode()
    blob = commit(call, (piece,) if piece.size else (), content, metadata, extra=extra)
    call.reply["Content-MD5"] = content["Content-MD5"]
    return written(call, blob)


async def copy_blob(call: Call) -> web.StreamResponse:
    """Copy Blob and Put Blob From URL, within the account. The copy shares the bytes: it is done at once."""
    call.access.need("cw", "o")
    metadata, extra = call.metadata(), call.tier()
    source = copy_source(call)
    put = "x-ms-blob-type" in call.headers  # Put Blob From URL
    content = source.content | (content_properties(call.headers, source.content["Content-Type"]) if put else {})
    copied = {} if put else _copied(call, source.size)
    blob = commit(call, source.pieces, content, metadata or source.metadata, source.blocks, extra | copied)
    if put:
        return written(call, blob)
    call.reply |= {name: copied[name] for name in ("x-ms-copy-id", "x-ms-copy-status")}
    return call.respond(202, stamp(blob))


def _copied(call: Call, size: int) -> dict[str, str]:
    """What a blob says of the copy that made it."""
    return {
        "x-ms-copy-id": call.reply["x-ms-request-id"],
        "x-ms-copy-source": call.headers["x-ms-copy-source"].partition("?")[0],  # without its signature
        "x-ms-copy-status": "success",
        "x-ms-copy-progress": f"{size}/{size}",
        "x-ms-copy-completion-time": http_date(call.now),
    }


def copy_source(call: Call) -> Blob:
    """The blob that x-ms-copy-source names, if the caller may read it."""
    try:
        url = urlsplit(call.headers["x-ms-copy-source"])
    except ValueError:
        raise BlobError("InvalidHeaderValue", "x-ms-copy-source") from None
    if not call.headers["x-ms-copy-source"].isascii():  # it is sent back with each read of the copy
        raise BlobError("InvalidHeaderValue", "x-ms-copy-source: a URL is percent-encoded.")
    account, container, name = split_path(url.path)
    if account != call.signed.account or not name:
        raise BlobError("CannotVerifyCopySource", "Only blobs of this account can be copied.")
    query = parse_query(url.query)
    asked = Signed("GET", url.path, query, {}, account, container, name, url.scheme, call.signed.remote)
    access = call.access
    if "sig" in query or access.permissions is not None:
        access = call.authority.check(asked, call.now)
    access.need("r", "o")
    return call.store.container(container).get(name)


def commit(
    call: Call,
    pieces: tuple[Piece, ...],
    content: dict[str, str],
    metadata: dict[str, str],
    blocks: tuple[tuple[str, Piece], ...] = (),
    extra: dict[str, str] | None = None,
) -> Blob:
    """Make the pieces the blob of that name, if that is still allowed."""
    container = call.container()
    before = container.blobs.get(call.blob_name)
    call.check_put(before)
    blob = Blob(
        pieces=pieces,
        size=sum(piece.size for piece in pieces),
        etag=call.store.new_etag(),
        modified=call.now,
        created=before.created if before else call.now,
        content=content,
        metadata=metadata,
        blocks=blocks,
        extra=extra or {},
    )
    container.put(call.blob_name, blob)
    return blob


def content_properties(headers: Mapping[str, str], default_type: str | None = None) -> dict[str, str]:
    """The content headers of a write, as they are stored with the blob."""
    stored = {"Content-Type": headers.get("x-ms-blob-content-type") or default_type or "application/octet-stream"}
    for header, name in _CONTENT_HEADERS.items():
        value = headers.get(header) or headers.get(name)
        if value:
            stored[name] = value
    if not all(map(str.isascii, stored.values())):
        raise BlobError("InvalidHeaderValue", "A content property is not ASCII.")
    return stored


def written(call: Call, blob: Blob, status: int = 201) -> web.Response:
    call.reply["x-ms-request-server-encrypted"] = "true"
    return call.respond(status, stamp(blob))


async def set_metadata(call: Call) -> web.StreamResponse:
    call.access.need("w", "o")
    return written(call, _changed(call, metadata=call.metadata()), 200)


async def set_properties(call: Call) -> web.StreamResponse:
    """Set Blob Properties: content headers that are not sent are cleared, as in the service."""
    call.access.need("w", "o")
    custom = {name: value for name, value in call.headers.items() if name.lower().startswith("x-ms-blob-")}
    content = content_properties({name.lower(): value for name, value in custom.items()})
    if md5 := call.headers.get("x-ms-blob-content-md5"):
        decode_md5(md5)
        content["Content-MD5"] = md5
    return call.respond(200, stamp(_changed(call, content=content)))


def _changed(call: Call, *, metadata: dict[str, str] | None = None, content: dict[str, str] | None = None) -> Blob:
    """The blob with other metadata or properties put in its place; the staged blocks stay."""
    check_combination(call.headers)
    container = call.container()
    old = container.get(call.blob_name)
    check_write(call.headers, old)
    extra = old.extra
    if content is not None:  # from then on the service no longer tells that the blob is a copy
        extra = {name: value for name, value in extra.items() if not name.startswith("x-ms-copy-")}
    new = Blob(
        pieces=old.pieces,
        size=old.size,
        etag=call.store.new_etag(),
        modified=call.now,
        created=old.created,
        content=old.content if content is None else content,
        metadata=old.metadata if metadata is None else metadata,
        blocks=old.blocks,
        extra=extra,
    )
    container.replace(call.blob_name, new)
    return new


async def delete_blob(call: Call) -> web.StreamResponse:
    call.access.need("d", "o")
    check_combination(call.headers)
    container = call.container()
    check_write(call.headers, container.get(call.blob_name))
    if call.headers.get("x-ms-delete-snapshots") != "only":  # of which there are none
        container.delete(call.blob_name)
    return call.respond(202, {"x-ms-delete-type-permanent": "true"})


async def set_tier(call: Call) -> web.StreamResponse:
    """Set Blob Tier, done at once: neither ETag nor date of the blob change."""
    call.access.need("w", "o")
    tier = call.tier()
    if not tier:
        raise BlobError("MissingRequiredHeader", "x-ms-access-tier")
    container = call.container()
    blob = container.get(call.blob_name)
    container.replace(call.blob_name, replace(blob, extra=blob.extra | tier))
    return call.respond(200)


async def abort_copy(call: Call) -> web.StreamResponse:
    """Abort Copy Blob comes too late: copies are done at once."""
    call.access.need("w", "o")
    call.container().get(call.blob_name)
    raise BlobError("NoPendingCopyOperation")
