"""Operations on the blocks of a blob: stage, commit, list."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from . import xml as blob_xml
from .call import Call, decode_md5, stamp
from .conditions import check_read
from .errors import BlobError
from .files import Piece, read, stream
from .objects import commit, content_properties, copy_source, written
from .reads import parse_range

PUT_BLOCK_LIMIT = 4000 * 1024 * 1024
_LIST_LIMIT = 16 * 1024 * 1024  # bytes of a block list document: 50,000 long ids fit
_COMMITTED_LIMIT: Final = 50_000
_STAGED_LIMIT: Final = 100_000


async def put_block(call: Call) -> web.StreamResponse:
    """Put Block. Write permission is needed even where the blob is new: create is not enough."""
    call.access.need("w", "o")
    block = _block_id(call.query.get("blockid", ""))
    call.container()
    if "x-ms-copy-source" in call.headers:
        piece, digest = await _copied(call), None
    else:
        piece, digest = await call.receive(PUT_BLOCK_LIMIT, md5=False)
    if not piece.size:
        raise BlobError("InvalidHeaderValue", "A block cannot be empty.")
    container = call.container()
    staged = container.staged.get(call.blob_name, {})
    if len(next(iter(staged), block)) != len(block):
        raise BlobError("InvalidBlobOrBlock", "All block ids of a blob have the same length.")
    if len(staged) >= _STAGED_LIMIT and block not in staged:
        raise BlobError("BlockCountExceedsLimit")
    container.stage(call.blob_name, block, piece)
    container.staged_at[call.blob_name] = call.now
    call.store.drop_stale(call.now)
    if digest is not None:
        call.reply["Content-MD5"] = base64.b64encode(digest).decode()
    return call.respond(201, {"x-ms-request-server-encrypted": "true"})


async def _copied(call: Call) -> Piece:
    """Put Block From URL, within the account. The source has to be signed for: the caller's own rights do not reach it.

    https://learn.microsoft.com/rest/api/storageservices/put-block-from-url
    """
    for header in ("x-ms-copy-source-authorization", "x-ms-source-content-crc64", "x-ms-source-encryption-key"):
        if header in call.headers:
            raise BlobError("NotImplemented", header)
    if call.body_size(PUT_BLOCK_LIMIT):
        raise BlobError("InvalidHeaderValue", "Content-Length: a block that is copied has no body.")
    if "sig=" not in call.headers["x-ms-copy-source"]:
        raise BlobError("CannotVerifyCopySource", "The source needs a shared access signature.")
    source = copy_source(call)
    conditions = {name[len("x-ms-source-") :]: value for name, value in call.headers.items() if _is_condition(name)}
    try:
        check_read(CIMultiDict(conditions), source)
    except BlobError as error:
        raise BlobError("SourceConditionNotMet") from error
    asked = call.headers.get("x-ms-source-range")
    start, stop = (asked and parse_range(asked, source.size)) or (0, source.size)
    if stop - start > PUT_BLOCK_LIMIT:
        raise BlobError("RequestBodyTooLarge", f"The limit is {PUT_BLOCK_LIMIT} bytes.")
    given = call.headers.get("x-ms-source-content-md5")
    piece, digest = await call.files.receive(_Slices(stream(source.pieces, start, stop)), stop - start, md5=bool(given))
    if given and decode_md5(given) != digest:
        raise BlobError("Md5Mismatch")
    return piece


def _is_condition(name: str) -> bool:
    return name.lower().startswith("x-ms-source-if-")


class _Slices:
    """Stored bytes as a body to read."""

    def __init__(self, slices: AsyncIterator[bytes]) -> None:
        self._slices = slices

    async def readany(self) -> bytes:
        return await anext(self._slices, b"")


async def put_block_list(call: Call) -> web.StreamResponse:
    call.access.need("w", "o")
    metadata, extra = call.metadata(), call.tier()
    call.check_put(call.container().blobs.get(call.blob_name))
    document, digest = await call.receive(_LIST_LIMIT, md5=False)
    data = read((document,), 0, document.size)
    if data is None:
        data = document.path.read_bytes() if document.path else b""
    entries = blob_xml.parse_block_list(data)
    if len(entries) > _COMMITTED_LIMIT:
        raise BlobError("BlockListTooLong")
    blocks = _resolve(call, entries)
    content = content_properties(call.headers)
    if md5 := call.headers.get("x-ms-blob-content-md5"):
        decode_md5(md5)
        content["Content-MD5"] = md5  # kept as given: the service does not check it here either
    if digest is not None:
        call.reply["Content-MD5"] = base64.b64encode(digest).decode()
    return written(call, commit(call, tuple(piece for _, piece in blocks), content, metadata, blocks, extra))


async def get_block_list(call: Call) -> web.StreamResponse:
    call.access.need("r", "o")
    container = call.container()
    blob, staged = container.blobs.get(call.blob_name), container.staged.get(call.blob_name)
    if blob is None and staged is None:
        raise BlobError("BlobNotFound")
    kind = call.query.get("blocklisttype", "committed").lower()
    if kind not in ("committed", "uncommitted", "all"):
        raise BlobError("InvalidQueryParameterValue", "blocklisttype")
    if blob is not None:
        call.reply.update(stamp(blob))
    call.reply["x-ms-blob-content-length"] = str(blob.size if blob else 0)
    committed = None if kind == "uncommitted" else (blob.blocks if blob else ())
    uncommitted = None if kind == "committed" else (staged or {})
    return call.respond_xml(blob_xml.block_list(committed, uncommitted))


def _resolve(call: Call, entries: list[tuple[str, str]]) -> tuple[tuple[str, Piece], ...]:
    """The pieces the list names. A block found nowhere refuses the whole list."""
    container = call.container()
    blob = container.blobs.get(call.blob_name)
    staged = container.staged.get(call.blob_name, {})
    committed = dict(blob.blocks) if blob else {}
    places = {"Committed": (committed,), "Uncommitted": (staged,), "Latest": (staged, committed)}
    blocks: list[tuple[str, Piece]] = []
    for tag, block in entries:
        piece = next((place[block] for place in places[tag] if block in place), None)
        if piece is None:
            raise BlobError("InvalidBlockList", f"Block {block!r} is not there.")
        blocks.append((block, piece))
    return tuple(blocks)


def _block_id(text: str) -> str:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not 0 < len(decoded) <= 64:
        raise BlobError("InvalidQueryParameterValue", "blockid must be the Base64 of 1 to 64 bytes.")
    return text
