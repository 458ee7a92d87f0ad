"""Where Azurite 3.35.0 and the embedded server differ, and on what grounds ours is as it is.

"Documented": https://learn.microsoft.com/rest/api/storageservices/ , the page of the operation. "Unknown": no source
tells what the service does; ours is then the less convenient of the two.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from blob_ops import SMALL
from blob_sides import Op


class _Some:
    """Equal to any value but None."""

    def __eq__(self, other: object) -> bool:
        return other is not None

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "something"


SOME = _Some()


@dataclass(frozen=True)
class Departure:
    """`key` differs between the replies: `ours` against `theirs`. The last of `shown` shows it, after the beginning."""

    name: str
    key: str
    ours: Any
    theirs: Any
    why: str
    shown: tuple[Op, ...]
    comp: str | None = None  # only of this operation
    method: str | None = None
    also: tuple[str, ...] = ()  # what else differs for the same reason
    where: Callable[[Op, Any, Any], bool] = lambda op, ours, theirs: True

    def explains(self, op: Op, key: str, ours: Any, theirs: Any) -> bool:
        if self.comp not in (None, op.asks("comp") or "") or self.method not in (None, op.method):
            return False
        key = key.partition("@")[0]  # without the item of the list
        same = key == self.key and (self.ours, self.theirs) == (ours, theirs) and self.where(op, ours, theirs)
        return key in self.also or same


def unexplained(op: Op, found: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The differences that no departure explains."""
    return {
        key: pair
        for key, pair in found.items()
        if not any(departure.explains(op, key, *pair) for departure in DEPARTURES)
    }


_TYPE = ("x-ms-blob-type", "BlockBlob")
_NO_CACHE = ("x-ms-blob-cache-control", "no-cache")
_CONTAINER = ("restype", "container")
_LIST = (_CONTAINER, ("comp", "list"))
_BLOCKS = b'<?xml version="1.0"?><BlockList><Latest>MQ==</Latest></BlockList>'
_NO_BLOCKS = b'<?xml version="1.0"?><BlockList></BlockList>'
_WRONG = "AAAAAAAAAAAAAAAAAAAAAA=="
_RIGHT = base64.b64encode(hashlib.md5(SMALL).digest()).decode()
_OLD = "Sat, 01 Jan 2000 00:00:00 GMT"
_FUTURE = "Fri, 01 Jan 2100 00:00:00 GMT"
_WHOLE = (
    *("Accept-Ranges", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language"),
    *("Content-Length", "Content-MD5", "Content-Type", "body", "x-ms-blob-content-md5", "x-ms-copy-status"),
    *("x-ms-creation-time", "x-ms-lease-state", "x-ms-lease-status", "x-ms-server-encrypted"),
)


def _put(*headers: tuple[str, str], blob: str = "b", container: str = "one") -> Op:
    return Op("PUT", container, blob, (), (_TYPE, *headers), SMALL)


def _get(*headers: tuple[str, str], blob: str = "a", method: str = "GET") -> Op:
    return Op(method, "one", blob, (), headers)


def _block(*headers: tuple[str, str], body: bytes = SMALL) -> Op:
    return Op("PUT", "one", "n", (("comp", "block"), ("blockid", "MQ==")), headers, body)


def _copy(source: str = "one/a", *headers: tuple[str, str]) -> Op:
    return Op("PUT", "one", "c", (), (("x-ms-copy-source", f"{{url:{source}}}"), *headers))


def _commit(body: bytes, *headers: tuple[str, str]) -> Op:
    return Op("PUT", "one", "n", (("comp", "blocklist"),), headers, body)


_DELETE = Op("DELETE", "one", "n", sas=("container", "d"))
_DELETED = {(b"202", b"202"), (b"403", b"403"), (b"404", b"404"), (b"404", b"202")}
_ASTERISK = "Documented: Specifying conditional headers, with the asterisk the operation fails where the blob exists."
_NO_MORE = "Documented: Get Blob Metadata answers with the metadata, ETag and date alone."
_ORDER = "Unknown which of two faults is told first. Ours looks at the headers before it looks for what they are about."

DEPARTURES = (
    # refusals
    Departure(
        "a wrong MD5 is an invalid operation",
        "status",
        (400, "Md5Mismatch"),
        (400, "InvalidOperation"),
        "Documented: Common REST API error codes, Md5Mismatch.",
        (_put(("Content-MD5", _WRONG)),),
    ),
    Departure(
        "what is no MD5 is an invalid operation",
        "status",
        (400, "InvalidMd5"),
        (400, "InvalidOperation"),
        "Documented: Common REST API error codes, InvalidMd5.",
        (_put(("Content-MD5", "bm9uc2Vuc2U=")),),
    ),
    Departure(
        "an empty block is stored",
        "status",
        (400, "InvalidHeaderValue"),
        (201, None),
        "Documented: Put Block, Content-Length must be above 0.",
        (_block(body=b""),),
        comp="block",
    ),
    Departure(
        "reading what is missing fails on If-Match",
        "status",
        (404, "BlobNotFound"),
        (412, "ConditionNotMet"),
        "Seen in the service for reads: github.com/Azure/Azurite/issues/2751. Of deletes and changes it is unknown.",
        (_put(), _put(), Op("DELETE", "one", "b"), _get(("If-Match", "{etag}"), blob="b")),
    ),
    Departure(
        "If-Match with an asterisk makes a new blob",
        "status",
        (412, "ConditionNotMet"),
        (201, None),
        "Seen in the service: github.com/Azure/Azurite/issues/2589.",
        (_put(("If-Match", "*")),),
    ),
    Departure(
        "an overwrite with the right to create is a plain mismatch",
        "status",
        (403, "UnauthorizedBlobOverwrite"),
        (403, "AuthorizationPermissionMismatch"),
        "Documented: Blob service error codes, UnauthorizedBlobOverwrite.",
        (Op("PUT", "one", "a", (), (_TYPE,), SMALL, ("container", "c")),),
    ),
    Departure(
        "bad metadata of a wrong body",
        "status",
        (400, "InvalidMetadata"),
        (400, "InvalidOperation"),
        _ORDER,
        (_put(("x-ms-meta-a-b", "1"), ("Content-MD5", _WRONG)),),
    ),
    Departure(
        "bad metadata for a missing container",
        "status",
        (400, "InvalidMetadata"),
        (404, "ContainerNotFound"),
        _ORDER,
        (_put(("x-ms-meta-a-b", "1"), container="gone"),),
    ),
    Departure(
        "bad metadata where the right is missing as well",
        "status",
        (400, "InvalidMetadata"),
        (403, "AuthorizationPermissionMismatch"),
        _ORDER,
        (Op("PUT", "one", "a", (), (_TYPE, ("x-ms-meta-a-b", "1")), SMALL, ("container", "c")),),
    ),
    Departure(
        "too many conditions on a wrong body",
        "status",
        (400, "MultipleConditionHeadersNotSupported"),
        (400, "InvalidOperation"),
        _ORDER,
        (_put(("If-Match", "*"), ("If-Modified-Since", _OLD), ("Content-MD5", _WRONG)),),
    ),
    Departure(
        "a condition that fails on a wrong body",
        "status",
        (412, "ConditionNotMet"),
        (400, "InvalidOperation"),
        _ORDER,
        (_put(("If-Match", "{stale}"), ("Content-MD5", _WRONG), blob="a"),),
    ),
    Departure(
        "a block needs no id",
        "status",
        (400, "InvalidQueryParameterValue"),
        (201, None),
        "Documented: Put Block, blockid is required, of at most 64 bytes before it is encoded.",
        (Op("PUT", "one", "n", (("comp", "block"), ("blockid", "")), (), SMALL),),
        comp="block",
    ),
    Departure(
        "a block without id in a missing container",
        "status",
        (400, "InvalidQueryParameterValue"),
        (404, "ContainerNotFound"),
        _ORDER,
        (Op("PUT", "gone", "n", (("comp", "block"), ("blockid", "")), (), SMALL),),
        comp="block",
    ),
    Departure(
        "a block list takes anything for an MD5",
        "status",
        (400, "InvalidMd5"),
        (201, None),
        "Documented: Common REST API error codes, InvalidMd5. That the service looks at it here is unknown.",
        (_commit(_NO_BLOCKS, ("x-ms-blob-content-md5", "bm9uc2Vuc2U=")),),
        comp="blocklist",
    ),
    Departure(
        "a container is changed with a signature for its blobs",
        "status",
        (403, "AuthorizationFailure"),
        (403, "AuthorizationPermissionMismatch"),
        "Unknown which code; documented is that no service SAS allows it (Create a service SAS, table of permissions).",
        (Op("DELETE", "one", "", (_CONTAINER,), sas=("container", "w")),),
    ),
    Departure(
        "an unknown tier of a copy of nothing",
        "status",
        (400, "InvalidHeaderValue"),
        (404, "BlobNotFound"),
        _ORDER,
        (_copy("one/gone", ("x-ms-access-tier", "Warm")),),
    ),
    Departure(
        "an unknown tier in a missing container",
        "status",
        (400, "InvalidHeaderValue"),
        (404, "ContainerNotFound"),
        _ORDER,
        (_put(("x-ms-access-tier", "Warm"), container="gone"),),
    ),
    Departure(
        "a blob that is there already and a wrong body",
        "status",
        (409, "BlobAlreadyExists"),
        (400, "InvalidOperation"),
        _ORDER,
        (_put(("If-None-Match", "*"), ("Content-MD5", _WRONG), blob="a"),),
    ),
    Departure(
        "a block without id and with a wrong body",
        "status",
        (400, "InvalidQueryParameterValue"),
        (400, "InvalidOperation"),
        _ORDER,
        (Op("PUT", "one", "n", (("comp", "block"), ("blockid", "")), (("Content-MD5", _WRONG),), SMALL),),
    ),
    Departure(
        "an unknown tier and a wrong body",
        "status",
        (400, "InvalidHeaderValue"),
        (400, "InvalidOperation"),
        _ORDER,
        (_put(("x-ms-access-tier", "Warm"), ("Content-MD5", _WRONG)),),
    ),
    Departure(
        "too many conditions in a missing container",
        "status",
        (400, "MultipleConditionHeadersNotSupported"),
        (404, "ContainerNotFound"),
        _ORDER,
        (Op("PUT", "gone", "a", (("comp", "metadata"),), (("If-Match", "*"), ("If-Modified-Since", _OLD))),),
    ),
    Departure(
        "a range that begins at the end is one of no bytes",
        "status",
        (416, "InvalidRange"),
        (206, None),
        "RFC 9110, 14.1.2: a first byte not below the length is not satisfiable. Documented: InvalidRange.",
        (_get(("Range", "bytes=10-")),),
    ),
    Departure(
        "an unknown tier where the right is missing as well",
        "status",
        (400, "InvalidHeaderValue"),
        (403, "AuthorizationPermissionMismatch"),
        _ORDER,
        (Op("PUT", "one", "a", (), (_TYPE, ("x-ms-access-tier", "Warm")), SMALL, ("container", "c")),),
    ),
    Departure(
        "an unknown tier is one of another type of blob",
        "status",
        (400, "InvalidHeaderValue"),
        (400, "AccessTierNotSupportedForBlobType"),
        "Unknown. Documented: Set Blob Tier, 400 for a header that is not valid.",
        (Op("PUT", "one", "a", (("comp", "tier"),), (("x-ms-access-tier", "Warm"),)),),
    ),
    Departure(
        "a condition that none can meet in a missing container",
        "status",
        (400, "UnsatisfiableCondition"),
        (404, "ContainerNotFound"),
        _ORDER,
        (Op("GET", "gone", "a", (), (("If-None-Match", "*"),)),),
    ),
    Departure(
        "what must not be there is deleted",
        "status",
        (412, "ConditionNotMet"),
        (202, None),
        _ASTERISK,
        (Op("DELETE", "one", "a", (), (("If-None-Match", "*"),)),),
    ),
    Departure(
        "what must not be there is changed",
        "status",
        (412, "ConditionNotMet"),
        (200, None),
        _ASTERISK,
        (Op("PUT", "one", "a", (("comp", "metadata"),), (("If-None-Match", "*"),)),),
    ),
    Departure(
        "a condition that none can meet and one that is not met",
        "status",
        (400, "UnsatisfiableCondition"),
        (412, "ConditionNotMet"),
        _ORDER,
        (_get(("If-None-Match", "*"), ("If-Match", '"0x123"'), blob="b"),),
    ),
    Departure(
        "no tier to set, but no code either",
        "status",
        (400, "MissingRequiredHeader"),
        (400, None),
        "Documented: every error has a code (Status and error codes).",
        (Op("PUT", "one", "a", (("comp", "tier"),)),),
    ),
    Departure(
        "a range that is none is a range",
        "status",
        (200, None),
        (206, None),
        "Documented: Specifying the range header, first byte and optional last; anything else is ignored.",
        (_get(("Range", "bytes=-4")),),
    ),
    Departure(
        "a range that ends before it begins is ignored",
        "status",
        (416, "InvalidRange"),
        (200, None),
        "Unknown.",
        (_get(("Range", "bytes=5-3")),),
    ),
    Departure(
        "blocks never committed can be deleted",
        "status",
        (404, "BlobNotFound"),
        (202, None),
        "Documented: Put Block, what is never committed goes after a week; Delete Blob is for what is there.",
        (_block(), Op("DELETE", "one", "n")),
    ),
    Departure(
        "blocks never committed can be deleted by a batch",
        "parts",
        SOME,
        SOME,
        "As one by one.",
        (_block(), Op("POST", "one", "", (_CONTAINER, ("comp", "batch")), parts=(_DELETE,))),
        where=lambda op, ours, theirs: all(pair in _DELETED for pair in zip(ours, theirs, strict=True)),
    ),
    Departure(
        "staged blocks outlive a Put Blob",
        "UncommittedBlocks",
        [],
        SOME,
        "Documented: Put Blob and Put Block List discard the uncommitted blocks (Put Block).",
        (_block(), _put(blob="n"), Op("GET", "one", "n", (("comp", "blocklist"), ("blocklisttype", "all")))),
    ),
    # headers of replies
    Departure(
        "a whole blob comes with its MD5 twice",
        "x-ms-blob-content-md5",
        None,
        SOME,
        "Documented: Get Blob, the header is sent where a range was asked for.",
        (_get(),),
        comp="",
        method="GET",
    ),
    Departure(
        "not modified, but as what",
        "ETag",
        "same",
        None,
        "RFC 9110, 15.4.5: a 304 has the ETag that a 200 would have.",
        (_get(("If-Modified-Since", _FUTURE)),),
        also=("Content-Type",),
    ),
    Departure(
        "metadata come with the whole blob",
        "x-ms-blob-type",
        None,
        "BlockBlob",
        _NO_MORE,
        (Op("GET", "one", "a", (("comp", "metadata"),)),),
        comp="metadata",
        method="GET",
        also=_WHOLE,
    ),
    Departure(
        "metadata come with the length of the blob",
        "Content-Length",
        None,
        SOME,
        _NO_MORE,
        (Op("HEAD", "one", "a", (("comp", "metadata"),)),),
        comp="metadata",
        method="HEAD",
    ),
    Departure(
        "a block's MD5 is not sent back",
        "Content-MD5",
        SOME,
        None,
        "Documented: Put Block, since version 2019-02-02 it is returned when the request has it.",
        (_block(("Content-MD5", _RIGHT)),),
        comp="block",
    ),
    Departure(
        "a block list's MD5 is always sent back",
        "Content-MD5",
        None,
        SOME,
        "Documented: Put Block List, since version 2019-02-02 it is returned when the request has it.",
        (_commit(_NO_BLOCKS),),
        comp="blocklist",
        method="PUT",
    ),
    Departure(
        "committed blocks get an MD5",
        "Content-MD5",
        None,
        SOME,
        "Documented: Put Block List does not compute one; the blob has that of x-ms-blob-content-md5.",
        (_commit(_NO_BLOCKS), _get(blob="n")),
        comp="",
        method="GET",
    ),
    Departure(
        "uncommitted blocks have an ETag",
        "ETag",
        None,
        "new",
        "Documented: Get Block List, ETag and date are sent where the blob has committed blocks.",
        (_block(), Op("GET", "one", "n", (("comp", "blocklist"), ("blocklisttype", "all")))),
        comp="blocklist",
        method="GET",
        also=("Last-Modified",),
    ),
    # lists
    Departure(
        "the page size is told where none was asked",
        "MaxResults",
        "",
        "5000",
        "Documented: List Blobs, MaxResults repeats the parameter.",
        (Op("GET", "one", "", _LIST),),
    ),
    Departure(
        "the tier changed when the blob was written",
        "listed AccessTierChangeTime",
        None,
        "now",
        "Documented: List Blobs, where the tier was set.",
        (Op("GET", "one", "", _LIST),),
    ),
    Departure(
        "a tier of committed blocks was set at no time",
        "listed AccessTierChangeTime",
        "now",
        None,
        "Documented: List Blobs, where the tier was set.",
        (_commit(_NO_BLOCKS, ("x-ms-access-tier", "Cool")), Op("GET", "one", "", _LIST)),
    ),
    Departure(
        "copies are told where it was not asked",
        "listed CopyStatus",
        None,
        "success",
        "Documented: List Blobs, with include=copy.",
        (_copy(), Op("GET", "one", "", _LIST)),
        comp="list",
        also=("listed CopyId", "listed CopySource", "listed CopyProgress", "listed CopyCompletionTime"),
    ),
    Departure(
        "a copy is not incremental",
        "listed IncrementalCopy",
        None,
        "false",
        "Documented: List Blobs, of incremental copies of page blobs.",
        (_copy(), Op("GET", "one", "", _LIST)),
    ),
    Departure(
        "committed blocks and copies are not encrypted",
        "listed ServerEncrypted",
        "true",
        None,
        "Documented: Azure Storage encryption: all that is written is encrypted.",
        (_commit(_NO_BLOCKS), Op("GET", "one", "", _LIST)),
    ),
    Departure(
        "a blob not yet there has a date",
        "listed Last-Modified",
        None,
        "now",
        "Unknown. A blob of uncommitted blocks has no ETag and no date elsewhere (Get Block List).",
        (_block(), Op("GET", "one", "", (*_LIST, ("include", "uncommittedblobs")))),
        also=("listed Creation-Time", "listed Etag", "listed LeaseState", "listed LeaseStatus"),
    ),
    Departure(
        "a copy with a tier of its own has inferred it",
        "listed AccessTierInferred",
        None,
        "true",
        "Documented: List Blobs, AccessTierInferred where no tier was set.",
        (_copy("one/a", ("x-ms-access-tier", "Cool")), Op("GET", "one", "", _LIST)),
        also=("x-ms-access-tier-inferred",),
    ),
    Departure(
        "properties without type leave the blob without type",
        "listed Content-Type",
        "application/octet-stream",
        None,
        "Unknown. Documented: Put Blob, application/octet-stream is the default.",
        (Op("PUT", "one", "a", (("comp", "properties"),), (_NO_CACHE,)), Op("GET", "one", "", _LIST)),
    ),
    Departure(
        "prefixes come before blobs",
        "listed",
        SOME,
        SOME,
        "Documented: List Blobs, in the order of the alphabet.",
        (Op("GET", "one", "", (*_LIST, ("delimiter", "/"))),),
        where=lambda op, ours, theirs: op.asks("delimiter") is not None,
    ),
)
