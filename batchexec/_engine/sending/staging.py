"""Files on their way to storage: each distinct content once per job, small ones together in one blob."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from batchexec._source.files.sets import BlobTree, FileEntry, FileSet, relative
from batchexec._wire import envelope, files, names
from batchexec.errors import FilesError, ServiceError

if TYPE_CHECKING:
    from batchexec._azure.blobs import BlobStore
    from batchexec._azure.storage import FoundBlob

_BUNDLE_BYTES = 8 * 1024 * 1024
_INLINE_BYTES = 64 * 1024  # a listing up to this size that one chunk uses travels within it
_REPEATED_BYTES = 2048  # and one up to this size within each of several
_UPLOADS_AT_ONCE = 4
_FRESH_SECONDS = 5.0  # what blobs there are in storage is asked again after these


class Upload:
    """A blob of file contents, sent once. `failed`: contents that turned out not to be had any more, by hash."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: list[FileEntry] = []
        self.size = 0
        self.failed: dict[str, FilesError] = {}
        self.sent = asyncio.Event()


class Staged(NamedTuple):
    """Sets as a chunk refers to them."""

    header: dict[str, Any]
    """For the chunk's signed header."""
    listings: dict[str, bytes]
    """Listings that are blobs of their own, by hash."""
    uploads: frozenset[Upload]
    digests: frozenset[str]

    async def sent(self) -> FilesError | None:
        """Wait until all contents are in storage; what is wrong with one of them."""
        for upload in self.uploads:
            await upload.sent.wait()
            for digest in self.digests.intersection(upload.failed):
                return upload.failed[digest]
        return None


class _Listed(NamedTuple):
    """A set whose contents have their places in storage."""

    listing: files.Listing
    data: bytes
    digest: str
    uploads: frozenset[Upload]
    digests: frozenset[str]
    until: datetime
    """When its signatures end."""
    found: tuple[list[FoundBlob], ...]
    """The blobs that it refers to."""


class Staging:
    """The files of one job."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._where: dict[str, tuple[Upload, int]] = {}  # contents by hash: their blob, and where they begin in it
        self._open: Upload | None = None  # takes more small contents
        self._new: list[Upload] = []
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._used: set[str] = set()  # sets that a chunk has used
        self._listed: dict[str, _Listed] = {}  # those that several use
        self._found: dict[BlobTree, tuple[float, list[FoundBlob]]] = {}  # with the time when that was
        self._places = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    async def look_up(self, sets: Iterable[FileSet]) -> None:
        """Find the blobs that `sets` refer to. Raises FilesError when they cannot be had."""
        for one in sets:
            for tree in one.blobs:
                looked, before = self._found.get(tree, (-_FRESH_SECONDS, None))
                if time.monotonic() - looked >= _FRESH_SECONDS:
                    found = await self._blobs(tree)
                    # What is the same stays the same object, and so do the listings made of it.
                    self._found[tree] = time.monotonic(), before if before == found else found
            if one.blobs and (one.id not in self._listed or not self._current(one, self._listed[one.id])):
                self._with_blobs(one)  # are they in each other's way?

    def stage(self, place: FileSet | None, more: Iterable[FileSet]) -> Staged:
        """What a chunk that has these sets says of them. Contents that are not in storage yet come out of `take`."""
        said: dict[str, Any] = {}
        listings: dict[str, bytes] = {}
        used: list[_Listed] = []
        for one in (*([place] if place else []), *more):
            if one.id in said:
                continue
            several = one is place or one.id in self._used
            self._used.add(one.id)
            listed = self._list(one, keep=several)
            used.append(listed)
            if len(listed.data) <= (_REPEATED_BYTES if several else _INLINE_BYTES):
                said[one.id] = files.plain(listed.listing)
            else:
                said[one.id] = listed.digest
                listings[listed.digest] = listed.data
        return Staged(
            {"place": place.id if place else None, "sets": said},
            listings,
            frozenset().union(*(one.uploads for one in used)),
            frozenset().union(*(one.digests for one in used)),
        )

    def take(self) -> list[Upload]:
        """The uploads that have come together since the last time."""
        taken, self._new, self._open = self._new, [], None
        return taken

    def start(self, uploads: Iterable[Upload], spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        for upload in uploads:
            spawn(self._send(upload))

    # inside

    def _list(self, one: FileSet, *, keep: bool) -> _Listed:
        known = self._listed.get(one.id)
        if known is not None and self._current(one, known):
            return known
        until = self._store.signed_until
        sources: dict[str, int] = {}
        uploads: set[Upload] = set()
        placed: list[files.File] = []
        for entry in one.entries:
            number = start = 0
            if entry.size:
                upload, start = self._content(entry)
                uploads.add(upload)
                number = sources.setdefault(upload.name, len(sources))
            placed.append(files.File(entry.path, entry.executable, entry.size, entry.sha256, number, start))
        signed = [files.Source(name, self._store.sas(name, "r", keep=True), None) for name in sources]
        for path, container, blob in self._with_blobs(one):
            placed.append(files.File(path, False, blob.size, "", len(signed), 0))
            where = self._store.path_in(container, blob.name)
            signed.append(files.Source(where, self._store.sas_in(container, blob.name), blob.etag))
        listing = files.Listing(one.directories, signed, placed)
        data = files.dump(listing)
        digests = frozenset(entry.sha256 for entry in one.entries if entry.size)
        listed = _Listed(listing, data, envelope.sha256(data), frozenset(uploads), digests, until, self._blobs_of(one))
        if keep:
            self._listed[one.id] = listed
        return listed

    def _current(self, one: FileSet, known: _Listed) -> bool:
        now = self._blobs_of(one)
        same = all(a is b for a, b in zip(known.found, now, strict=True))
        return same and known.until == self._store.signed_until

    def _blobs_of(self, one: FileSet) -> tuple[list[FoundBlob], ...]:
        return tuple(self._found[tree][1] for tree in one.blobs)

    def _content(self, entry: FileEntry) -> tuple[Upload, int]:
        where = self._where.get(entry.sha256)
        if where is None:
            if entry.size >= files.SMALL_BYTES:
                upload = Upload(names.file_blob(entry.sha256))
                self._new.append(upload)
            else:
                if self._open is None or self._open.size + entry.size > _BUNDLE_BYTES:
                    self._open = Upload(names.bundle_blob(f"{self._token}-{next(self._numbers):06d}"))
                    self._new.append(self._open)
                upload = self._open
            where = self._where[entry.sha256] = upload, upload.size
            upload.entries.append(entry)
            upload.size += entry.size
        return where

    async def _send(self, upload: Upload) -> None:
        """Raises ServiceError."""
        async with self._places:
            if len(upload.entries) == 1:
                await self._send_one(upload, upload.entries[0])
            else:
                data = await asyncio.to_thread(_read_all, upload)
                await self._store.put(upload.name, data)
        for digest in upload.failed:
            self._where.pop(digest, None)  # should such a file come again, it is tried again
        if upload.failed:
            self._listed.clear()
        upload.sent.set()

    async def _send_one(self, upload: Upload, entry: FileEntry) -> None:
        try:
            with _Hashing(entry) as file:
                if not await self._store.put_read(upload.name, file.read, entry.size, file.unchanged):
                    upload.failed[entry.sha256] = _changed(entry)
        except OSError as error:
            upload.failed[entry.sha256] = _changed(entry, error)

    def _with_blobs(self, one: FileSet) -> list[tuple[str, str, FoundBlob]]:
        """The blobs of the set: place there, container, blob. Raises FilesError when they are in each other's way."""
        found = []
        for tree in one.blobs:
            for blob in self._found[tree][1]:
                below = blob.name[len(tree.prefix) :].strip("/")
                path = relative("/".join(part for part in (tree.path, below) if part))
                found.append((path, tree.container, blob))
        if found:
            more = (FileEntry(path, "", blob.size, False, blob.name) for path, _, blob in found)
            FileSet((*one.entries, *more), one.directories)
        return found

    async def _blobs(self, tree: BlobTree) -> list[FoundBlob]:
        where = f"{tree.container}/{tree.prefix}"
        try:
            if tree.prefix:
                single = await self._store.blob_in(tree.container, tree.prefix)
                if single is not None:
                    return [single]
            found = await self._store.blobs_in(tree.container, f"{tree.prefix}/" if tree.prefix else "")
        except ServiceError as error:
            if error.status == 404:
                raise FilesError(f"there is no container {tree.container!r} in the storage account") from error
            raise FilesError(f"the blobs of {where!r} cannot be listed: {error}") from error
        # A store with real directories shows them as empty blobs.
        parents = {blob.name.rpartition("/")[0] for blob in found}
        found = [blob for blob in found if blob.name not in parents and not blob.name.endswith("/")]
        if not found:
            raise FilesError(f"there is no blob at {where!r}, and none below it")
        return found


class _Hashing:
    """A file that hashes what is read of it."""

    def __init__(self, entry: FileEntry) -> None:
        self._wanted = entry.sha256
        self._file: IO[bytes] = open(entry.source, "rb", buffering=0)  # noqa: SIM115 - closed at the end of the block
        self._hashed = hashlib.sha256()

    def __enter__(self) -> _Hashing:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size and (more := self._file.read(size - len(data))):
            data += more
        self._hashed.update(data)
        return bytes(data)

    def unchanged(self) -> bool:
        return self._hashed.hexdigest() == self._wanted


def _read_all(upload: Upload) -> bytes:
    """A bundle's bytes. In the place of a file that has changed there are zeros, which nobody will read."""
    pieces = []
    for entry in upload.entries:
        data = b""
        try:
            with _Hashing(entry) as file:
                data = file.read(entry.size)
                if not file.unchanged():
                    upload.failed[entry.sha256] = _changed(entry)
        except OSError as error:
            upload.failed[entry.sha256] = _changed(entry, error)
        pieces.append(data if len(data) == entry.size else bytes(entry.size))
    return b"".join(pieces)


def _changed(entry: FileEntry, error: OSError | None = None) -> FilesError:
    what = f"cannot be read any more ({error.strerror or error})" if error else "was changed"
    return FilesError(
        f"{entry.source!r} {what} after it was looked at and before it was sent. Inputs of a Command are looked at by "
        "each submit or map, so call that again; files= once in an executor, so open a new one for these"
    )
