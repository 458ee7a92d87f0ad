"""The listing of a set of files: where each one goes, what its content is, and which blob holds it.

A listing's own hash, or the listing itself, stands in a signed chunk. It carries the read signatures (SAS) of its
blobs, so that a task's environment does not grow with their number.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Optional, Sequence

SMALL_BYTES = 1024 * 1024  # contents below this are stored together in one blob; on a node, copied instead of linked


class Source(NamedTuple):
    """A blob to read from. `name` as in `names`; with a slash at its beginning it is a path in the storage account."""

    name: str
    sas: str
    etag: Optional[str]
    """Of a blob that is not ours, which must not have changed since; None for ours, whose contents have hashes."""


class File(NamedTuple):
    """`path` is relative to where the set is placed; `digest` is its SHA-256, or "" in a source with an etag."""

    path: str
    executable: bool
    size: int
    digest: str
    source: int
    start: int
    """Where in its source the content begins."""


class Listing(NamedTuple):
    directories: Sequence[str]
    sources: Sequence[Source]
    files: Sequence[File]


def plain(listing: Listing) -> "list[Any]":
    """As JSON takes it."""
    return [list(listing.directories), list(listing.sources), list(listing.files)]


def dump(listing: Listing) -> bytes:
    return json.dumps(plain(listing), separators=(",", ":")).encode()


def load(data: Any) -> Listing:
    """From bytes, or from what `plain` gave."""
    directories, sources, files = data if isinstance(data, list) else json.loads(bytes(data))
    return Listing(directories, [Source(*one) for one in sources], [File(*one) for one in files])
