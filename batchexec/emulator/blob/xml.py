"""The XML documents of the Blob service: lists of containers, blobs and blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from .errors import BlobError
from .files import Piece
from .store import Blob, Container

_HEAD = '<?xml version="1.0" encoding="utf-8"?>'
_LEASE = "<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState>"
# What else is kept with a blob, by the name of its header → element of a list
_TIER = {"x-ms-access-tier": "AccessTier", "x-ms-access-tier-change-time": "AccessTierChangeTime"}
_COPY = {
    "x-ms-copy-id": "CopyId",
    "x-ms-copy-source": "CopySource",
    "x-ms-copy-status": "CopyStatus",
    "x-ms-copy-progress": "CopyProgress",
    "x-ms-copy-completion-time": "CopyCompletionTime",
}


def listing(
    kind: str, attributes: Mapping[str, str], echo: Mapping[str, str], items: Iterable[str], marker: str
) -> bytes:
    """An EnumerationResults document; `kind` is Containers or Blobs, `echo` the parameters repeated."""
    start = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())
    repeated = "".join(f"<{name}>{_text(value)}</{name}>" for name, value in echo.items() if value)
    return (
        f"{_HEAD}<EnumerationResults{start}>{repeated}<{kind}>{''.join(items)}</{kind}>"
        f"<NextMarker>{marker}</NextMarker></EnumerationResults>"
    ).encode()


def container_item(container: Container, *, metadata: bool) -> str:
    return (
        f"<Container><Name>{container.name}</Name><Properties>"
        f"<Last-Modified>{container.modified_text}</Last-Modified><Etag>{escape(container.etag)}</Etag>"
        f"{_LEASE}<HasImmutabilityPolicy>false</HasImmutabilityPolicy><HasLegalHold>false</HasLegalHold>"
        f"</Properties>{_metadata(container.metadata) if metadata else ''}</Container>"
    )


def blob_item(name: str, blob: Blob, *, metadata: bool, copy: bool) -> str:
    content = blob.content
    tier = "<AccessTier>Hot</AccessTier><AccessTierInferred>true</AccessTierInferred>"
    if blob.extra:
        extra = blob.extra
        tier = "".join(f"<{key}>{escape(extra[name])}</{key}>" for name, key in _TIER.items() if name in extra) or tier
        if copy:
            tier += "".join(f"<{key}>{escape(extra[name])}</{key}>" for name, key in _COPY.items() if name in extra)
    properties = "".join([f"<{key}>{escape(value)}</{key}>" for key, value in content.items()])
    return (
        f"<Blob>{_name(name)}<Properties><Creation-Time>{blob.created_text}</Creation-Time>"
        f"<Last-Modified>{blob.modified_text}</Last-Modified><Etag>{blob.etag}</Etag>"
        f"<Content-Length>{blob.size}</Content-Length>{properties}<BlobType>BlockBlob</BlobType>"
        f"{tier}{_LEASE}"
        f"<ServerEncrypted>true</ServerEncrypted></Properties>"
        f"{_metadata(blob.metadata) if metadata else ''}<OrMetadata /></Blob>"
    )


def uncommitted_item(name: str) -> str:
    """A blob of which only uncommitted blocks exist: it has no ETag and no time."""
    return (
        f"<Blob>{_name(name)}<Properties><Content-Length>0</Content-Length>"
        f"<BlobType>BlockBlob</BlobType></Properties></Blob>"
    )


def prefix_item(name: str) -> str:
    return f"<BlobPrefix>{_name(name)}</BlobPrefix>"


def block_list(committed: Iterable[tuple[str, Piece]] | None, staged: Mapping[str, Piece] | None) -> bytes:
    parts = [_HEAD, "<BlockList>"]
    if committed is not None:
        parts += ("<CommittedBlocks>", *map(_block, committed), "</CommittedBlocks>")
    if staged is not None:
        parts += ("<UncommittedBlocks>", *map(_block, staged.items()), "</UncommittedBlocks>")
    return "".join([*parts, "</BlockList>"]).encode()


def parse_block_list(document: bytes) -> list[tuple[str, str]]:
    """The (Committed | Uncommitted | Latest, block id) pairs of a Put Block List body, in order."""
    if b"<!DOCTYPE" in document:
        raise BlobError("InvalidXmlDocument")  # entities are no part of the protocol and can explode
    try:
        root = ElementTree.fromstring(document)
    except (ElementTree.ParseError, ValueError, LookupError):  # the latter for encodings it does not have
        raise BlobError("InvalidXmlDocument") from None
    entries = [(element.tag, (element.text or "").strip()) for element in root]
    if root.tag != "BlockList" or not {tag for tag, _ in entries} <= {"Committed", "Uncommitted", "Latest"}:
        raise BlobError("InvalidXmlDocument", "A BlockList of Committed, Uncommitted and Latest is expected.")
    return entries


def service_properties() -> bytes:
    """The properties of a new account: nothing logged, nothing kept after deletion."""
    off = "<Enabled>false</Enabled><RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>"
    return (
        f"{_HEAD}<StorageServiceProperties><Logging><Version>1.0</Version><Delete>false</Delete>"
        "<Read>false</Read><Write>false</Write><RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>"
        f"</Logging><HourMetrics><Version>1.0</Version>{off}</HourMetrics>"
        f"<MinuteMetrics><Version>1.0</Version>{off}</MinuteMetrics><Cors />"
        "<DeleteRetentionPolicy><Enabled>false</Enabled></DeleteRetentionPolicy>"
        "<StaticWebsite><Enabled>false</Enabled></StaticWebsite></StorageServiceProperties>"
    ).encode()


def _block(block: tuple[str, Piece]) -> str:
    return f"<Block><Name>{escape(block[0])}</Name><Size>{block[1].size}</Size></Block>"


def _metadata(metadata: Mapping[str, str]) -> str:
    return f"<Metadata>{''.join(f'<{k}>{_text(v)}</{k}>' for k, v in metadata.items())}</Metadata>"


def _name(name: str) -> str:
    if name.isprintable():
        return f"<Name>{escape(name)}</Name>"
    # Characters XML cannot hold: percent-encoded and marked so, since version 2021-02-12.
    return f'<Name Encoded="true">{quote(name)}</Name>'


def _text(value: str) -> str:
    return escape(value) if value.isprintable() else quote(value)
