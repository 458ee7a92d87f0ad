"""Frames (a JSON header and byte strings in one blob) and the signed envelope around them.

    frames    = header length (4 bytes, big-endian) | header | frame | frame ...
    envelope  = b"BXE1" | HMAC-SHA256 over context and frames (32 bytes) | frames

The header is a JSON object; its "frames" lists the frames' lengths. The context names what the envelope is (kind, job,
chunk, generation), so that none can be put in another's place.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from typing import Any

MAGIC = b"BXE1"
_MAC_BYTES = 32
_MOST_BYTES = 1 << 40  # more than any blob of ours; what says so is not asked for
HEAD_BYTES = len(MAGIC) + _MAC_BYTES


class BadEnvelope(Exception):
    """The bytes are not an envelope signed under this key for this context."""


def context(kind: str, job: str, chunk: int = -1, generation: int = -1) -> bytes:
    return f"{kind}|{job}|{chunk}|{generation}".encode()


def join_frames(header: dict[str, Any], frames: Iterable[Any] = ()) -> bytes:
    """Header and frames (bytes-like, contiguous) as one byte string."""
    parts = [memoryview(frame).cast("B") for frame in frames]
    head = json.dumps({**header, "frames": [len(part) for part in parts]}, separators=(",", ":")).encode()
    return b"".join([len(head).to_bytes(4, "big"), head, *parts])


def split_frames(data: memoryview) -> tuple[dict[str, Any], list[memoryview]]:
    """The header and views of the frames. Raises ValueError when lengths do not fit the data."""
    start = 4 + int.from_bytes(data[:4], "big")
    header = json.loads(bytes(data[4:start]))
    frames = []
    for length in header["frames"]:
        frames.append(data[start : start + length])
        start += length
    if start > len(data):
        raise ValueError("truncated")
    return header, frames


def seal(key: bytes, about: bytes, header: dict[str, Any], frames: Iterable[Any] = ()) -> bytes:
    body = join_frames(header, frames)
    return b"".join([MAGIC, _mac(key, about, body), body])


def unseal(key: bytes, about: bytes, data: bytes | memoryview) -> tuple[dict[str, Any], list[memoryview]]:
    """Header and frames of an envelope. Raises BadEnvelope before anything in it is looked at."""
    view = memoryview(data)
    if len(view) < HEAD_BYTES or view[: len(MAGIC)] != MAGIC:
        raise BadEnvelope("not an envelope")
    body = view[HEAD_BYTES:]
    if not hmac.compare_digest(_mac(key, about, body), bytes(view[len(MAGIC) : HEAD_BYTES])):
        raise BadEnvelope("signature does not match")
    return split_frames(body)


def headed_length(data: bytes | memoryview) -> int:
    """The length of an envelope without frames at the beginning of `data`."""
    return HEAD_BYTES + 4 + int.from_bytes(data[HEAD_BYTES : HEAD_BYTES + 4], "big")


def length(data: bytes | memoryview) -> int | None:
    """The length of the envelope at the beginning of `data`, as it says itself; None where `data` is too short to tell.

    Nothing is believed by that: its signature covers all of that length. Raises BadEnvelope for no envelope at all.
    """
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise BadEnvelope("not an envelope")
    start = HEAD_BYTES + 4
    stop = headed_length(data)
    if len(data) < max(stop, start):
        return None
    try:
        frames = [int(frame) for frame in json.loads(bytes(data[start:stop]))["frames"]]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:  # whatever somebody wrote there
        raise BadEnvelope("not an envelope") from error
    if min(frames, default=0) < 0 or sum(frames) > _MOST_BYTES:
        raise BadEnvelope("not an envelope")
    return stop + sum(frames)


def sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _mac(key: bytes, about: bytes, body: bytes | memoryview) -> bytes:
    signer = hmac.new(key, about + b"\0", hashlib.sha256)
    signer.update(body)
    return signer.digest()
