"""Operations on one blob: put, get, head, delete, metadata."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import web

from batchexec.emulator import blob_files
from batchexec.emulator.blob_auth import Signed, parse_query
from batchexec.emulator.blob_call import Call, decode_md5, split_path
from batchexec.emulator.blob_errors import BlobError
from batchexec.emulator.blob_files import Piece
from batchexec.emulator.blob_store import Blob

PUT_BLOB_LIMIT = 5000 * 1024 * 1024
_RANGE_MD5_LIMIT = 4 * 1024 * 1024
# Header of a write → property kept with the blob and sent with each read.
_CONTENT_HEADERS = {
    "x-ms-blob-content-encoding": "Content-Encoding",
    "x-ms-blob-content-language": "Content-Language",
    "x-ms-blob-content-disposition": "Content-Disposition",
    "x-ms-blob-cache-control": "Cache-Control",
}
_OVERRIDES = {
    "rscc": "Cache-Control",
    "rscd": "Content-Disposition",
    "rsce": "Content-Encoding",
    "rscl": "Content-Language",
    "rsct": "Content-Type",
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
    call.check_write(call.container().blobs.get(call.blob_name))
    given = call.headers.get("x-ms-blob-content-md5")
    piece, digest = await call.receive(PUT_BLOB_LIMIT, md5=True)
    assert digest is not None
    if given and decode_md5(given) != digest:
        raise BlobError("Md5Mismatch")
    content = content_properties(call.headers, call.headers.get("Content-Type"))
    content["Content-MD5"] = base64.b64encode(digest).decode()
    blob = commit(call, (piece,) if piece.size else (), content)
    call.reply["Content-MD5"] = content["Content-MD5"]
    return written(call, blob)


async def copy_blob(call: Call) -> web.StreamResponse:
    """Copy Blob and Put Blob From URL, within the account. The copy shares the bytes: it is done at once."""
    call.access.need("cw", "o")
    source = _copy_source(call)
    put = "x-ms-blob-type" in call.headers  # Put Blob From URL
    content = source.content | (
        content_properties(call.headers, source.content["Content-Type"]) if put else {}
    )
    blob = commit(call, source.pieces, content, source.blocks, call.metadata() or source.metadata)
    if not put:
        call.reply |= {"x-ms-copy-id": call.reply["x-ms-request-id"], "x-ms-copy-status": "success"}
    return written(call, blob, 201 if put else 202)


def _copy_source(call: Call) -> Blob:
    try:
        url = urlsplit(call.headers["x-ms-copy-source"])
    except ValueError:
        raise BlobError("InvalidHeaderValue", "x-ms-copy-source") from None
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
    blocks: tuple[tuple[str, Piece], ...] = (),
    metadata: dict[str, str] | None = None,
) -> Blob:
    """Make the pieces the blob of that name, if that is still allowed."""
    container = call.container()
    before = container.blobs.get(call.blob_name)
    call.check_write(before)
    blob = Blob(
        pieces=pieces,
        size=sum(piece.size for piece in pieces),
        etag=call.store.new_etag(),
        modified=call.now,
        created=before.created if before else call.now,
        content=content,
        metadata=call.metadata() if metadata is None else metadata,
        blocks=blocks,
    )
    container.put(call.blob_name, blob)
    return blob


def content_properties(headers: Mapping[str, str], default_type: str | None = None) -> dict[str, str]:
    """The content headers of a write, as they are stored with the blob."""
    stored = {
        "Content-Type": headers.get("x-ms-blob-content-type") or default_type or "application/octet-stream"
    }
    for header, name in _CONTENT_HEADERS.items():
        value = headers.get(header) or headers.get(name)
        if value:
            stored[name] = value
    if not all(map(str.isascii, stored.values())):
        raise BlobError("InvalidHeaderValue", "A content property is not ASCII.")
    return stored


def written(call: Call, blob: Blob, status: int = 201) -> web.Response:
    call.reply["ETag"] = blob.etag
    call.reply["Last-Modified"] = blob.modified_text
    call.reply["x-ms-request-server-encrypted"] = "true"
    return call.respond(status)


async def get_blob(call: Call) -> web.StreamResponse:
    call.access.need("r", "o")
    blob = call.container().get(call.blob_name)
    call.check_conditions(blob, reading=True)
    reply = _properties(call, blob)
    asked = call.headers.get("x-ms-range") or call.headers.get("Range")
    span = parse_range(asked, blob.size) if asked else None
    if span is None:
        start, stop, status = 0, blob.size, 200
    else:
        start, stop, status = *span, 206
        reply["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
        if md5 := reply.pop("Content-MD5", None):
            reply["x-ms-blob-content-md5"] = md5
        if call.headers.get("x-ms-range-get-content-md5", "").lower() == "true":
            if stop - start > _RANGE_MD5_LIMIT:
                raise BlobError("OutOfRangeInput", "The MD5 of a range is for at most 4 MiB.")
            digest = hashlib.md5(usedforsecurity=False)
            async for data in blob_files.stream(blob.pieces, start, stop):
                digest.update(data)
            reply["Content-MD5"] = base64.b64encode(digest.digest()).decode()
    body = blob_files.read(blob.pieces, start, stop)
    if body is not None:
        return web.Response(status=status, headers=reply, body=body)
    response = web.StreamResponse(status=status, headers=reply)
    response.content_length = stop - start
    await response.prepare(call.request)
    async for data in blob_files.stream(blob.pieces, start, stop):
        await response.write(data)
    await response.write_eof()
    return response


async def head_blob(call: Call) -> web.StreamResponse:
    call.access.need("r", "o")
    blob = call.container().get(call.blob_name)
    call.check_conditions(blob, reading=True)
    reply = _properties(call, blob)
    reply["Content-Length"] = str(blob.size)
    return web.Response(headers=reply)


async def get_metadata(call: Call) -> web.StreamResponse:
    call.access.need("r", "o")
    blob = call.container().get(call.blob_name)
    call.check_conditions(blob, reading=True)
    call.reply.update({f"x-ms-meta-{name}": value for name, value in blob.metadata.items()})
    return call.respond(200, {"ETag": blob.etag, "Last-Modified": blob.modified_text})


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
    return written(call, _changed(call, content=content), 200)


def _changed(
    call: Call, *, metadata: dict[str, str] | None = None, content: dict[str, str] | None = None
) -> Blob:
    """The blob with other metadata or properties put in its place; the staged blocks stay."""
    container = call.container()
    old = container.get(call.blob_name)
    call.check_conditions(old)
    new = Blob(
        pieces=old.pieces,
        size=old.size,
        etag=call.store.new_etag(),
        modified=call.now,
        created=old.created,
        content=old.content if content is None else content,
        metadata=old.metadata if metadata is None else metadata,
        blocks=old.blocks,
    )
    container.blobs[call.blob_name] = new
    return new


async def delete_blob(call: Call) -> web.StreamResponse:
    call.access.need("d", "o")
    container = call.container()
    call.check_conditions(container.get(call.blob_name))
    if call.headers.get("x-ms-delete-snapshots") != "only":  # of which there are none
        container.delete(call.blob_name)
    return call.respond(202, {"x-ms-delete-type-permanent": "true"})


def _properties(call: Call, blob: Blob) -> dict[str, str]:
    reply = call.reply
    reply["ETag"] = blob.etag
    reply["Last-Modified"] = blob.modified_text
    reply["x-ms-creation-time"] = blob.created_text
    reply["x-ms-blob-type"] = "BlockBlob"
    reply["x-ms-lease-status"] = "unlocked"
    reply["x-ms-lease-state"] = "available"
    reply["x-ms-server-encrypted"] = "true"
    reply["Accept-Ranges"] = "bytes"
    reply.update(blob.content)
    for name, value in blob.metadata.items():
        reply[f"x-ms-meta-{name}"] = value
    if "sig" in call.query:
        for parameter, header in _OVERRIDES.items():
            if parameter in call.query:
                reply[header] = value = call.query[parameter]
                if not (value.isascii() and value.isprintable()):
                    raise BlobError("InvalidQueryParameterValue", parameter)
    return reply


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """`bytes=first-[last]` as (start, stop), None where the service sends the whole blob.

    Raises BlobError InvalidRange when the range begins behind the end: for an empty blob any does.
    """
    first, dash, last = text.removeprefix("bytes=").partition("-")
    if len(text) > 50:
        return None
    if not (text.startswith("bytes=") and dash and first.isdecimal() and (last.isdecimal() or not last)):
        return None
    start, stop = int(first), int(last) + 1 if last else size
    if start >= size or stop <= start:
        raise BlobError("InvalidRange", headers={"Content-Range": f"bytes */{size}"})
    return start, min(stop, size)
