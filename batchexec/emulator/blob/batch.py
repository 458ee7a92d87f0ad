"""Blob Batch: many deletes in one multipart request, each with its own authorization and answer."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDict

from .call import Call
from .errors import BlobError
from .files import read

_BODY_LIMIT = 4 * 1024 * 1024
_MOST_PARTS = 256
_BOUNDARY = re.compile(r'^multipart/mixed;\s*boundary="?([^";]+)"?', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    content_id: str
    method: str
    target: str  # path and query, percent-encoded
    headers: CIMultiDict[str]


async def run_batch(call: Call, perform: Callable[[Part], Awaitable[web.Response]]) -> web.Response:
    """Do each part in turn; the reply is 202 even where parts are refused."""
    found = _BOUNDARY.match(call.headers.get("Content-Type", ""))
    if found is None:
        raise BlobError("InvalidHeaderValue", "Content-Type: multipart/mixed with a boundary is expected.")
    piece, _ = await call.receive(_BODY_LIMIT, md5=False)
    data = read((piece,), 0, piece.size)
    if data is None:
        assert piece.path is not None
        data = piece.path.read_bytes()
    parts = list(_parse(data, found[1].encode()))
    if not 0 < len(parts) <= _MOST_PARTS:
        raise BlobError("InvalidInput", f"A batch has 1 to {_MOST_PARTS} parts.")
    boundary = f"batchresponse_{call.reply['x-ms-request-id']}"
    lines: list[bytes] = []
    for part in parts:
        response = await perform(part)
        head = [
            f"--{boundary}",
            "Content-Type: application/http",
            f"Content-ID: {part.content_id}",
            "",
            f"HTTP/1.1 {response.status} {response.reason}",
            *(f"{name}: {value}" for name, value in response.headers.items()),
            "",
            "",
        ]
        body = response.body
        lines.append("\r\n".join(head).encode() + (body if isinstance(body, bytes) else b"") + b"\r\n")
    lines.append(f"--{boundary}--\r\n".encode())
    call.reply["Content-Type"] = f"multipart/mixed; boundary={boundary}"
    return web.Response(status=202, headers=call.reply, body=b"".join(lines))


def _parse(body: bytes, boundary: bytes) -> Iterator[Part]:
    """The parts of the body: MIME headers, a blank line, then a request with its headers."""
    for section in body.split(b"--" + boundary)[1:]:
        if section.startswith(b"--"):
            return
        mime, _, request = section.replace(b"\r\n", b"\n").partition(b"\n\n")
        first, *rest = request.split(b"\n\n", 1)[0].decode("utf-8", "replace").split("\n")
        words = first.split(" ")
        if len(words) != 3:
            raise BlobError("InvalidInput", f"{first!r} is not the first line of a request.")
        content_id = _headers(mime.decode("utf-8", "replace").split("\n")).get("Content-ID", "")
        yield Part(content_id, words[0], words[1], _headers(rest))
    raise BlobError("InvalidInput", "The closing boundary is missing.")


def _headers(lines: list[str]) -> CIMultiDict[str]:
    pairs = (line.partition(":") for line in lines if ":" in line)
    return CIMultiDict((name.strip(), value.strip()) for name, _, value in pairs)
