"""Operations that read one blob: its content, its properties, its metadata."""

from __future__ import annotations

import base64
import hashlib

from aiohttp import web

from . import files as blob_files
from .call import Call, stamp
from .errors import BlobError
from .store import Blob

_RANGE_MD5_LIMIT = 4 * 1024 * 1024
_OVERRIDES = {
    "rscc": "Cache-Control",
    "rscd": "Content-Disposition",
    "rsce": "Content-Encoding",
    "rscl": "Content-Language",
    "rsct": "Content-Type",
}


async def get_blob(call: Call) -> web.StreamResponse:
    blob = call.readable()
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
    try:
        await response.prepare(call.request)
        async for data in blob_files.stream(blob.pieces, start, stop):
            await response.write(data)
        await response.write_eof()
    except ConnectionError:
        # The client is gone. Nobody is left to be told, and aiohttp would keep the error, and with it the file of
        # this blob, in a cycle that is collected late.
        pass
    return response


async def head_blob(call: Call) -> web.StreamResponse:
    blob = call.readable()
    reply = _properties(call, blob)
    tier = {name: value for name, value in blob.extra.items() if name.startswith("x-ms-access-tier")}
    reply.update(tier or {"x-ms-access-tier": "Hot", "x-ms-access-tier-inferred": "true"})
    reply["Content-Length"] = str(blob.size)
    return web.Response(headers=reply)


async def get_metadata(call: Call) -> web.StreamResponse:
    blob = call.readable()
    call.reply.update({f"x-ms-meta-{name}": value for name, value in blob.metadata.items()})
    return call.respond(200, stamp(blob))


def _properties(call: Call, blob: Blob) -> dict[str, str]:
    reply = call.reply
    reply.update(stamp(blob))
    reply["x-ms-creation-time"] = blob.created_text
    reply["x-ms-blob-type"] = "BlockBlob"
    reply["x-ms-lease-status"] = "unlocked"
    reply["x-ms-lease-state"] = "available"
    reply["x-ms-server-encrypted"] = "true"
    reply["Accept-Ranges"] = "bytes"
    reply.update(blob.content)
    if blob.extra:
        reply.update({name: value for name, value in blob.extra.items() if name.startswith("x-ms-copy-")})
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
