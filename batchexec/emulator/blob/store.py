"""Containers and blobs as plain objects. Every change is one synchronous step: seen whole or not at all."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from batchexec.emulator.clock import http_date

from .errors import BlobError
from .files import Piece

_STALE = timedelta(days=7)
_LOOK = timedelta(hours=1)


class Changes(Protocol):
    """Who writes down what changes, where there is a data directory. Each call names what is other than it was."""

    def container(self, name: str) -> None: ...

    def container_gone(self, name: str) -> None: ...

    def blob(self, container: str, name: str) -> None: ...

    def block(self, container: str, blob: str, block: str) -> None: ...

    def blocks_gone(self, container: str, blob: str) -> None: ...


@dataclass(slots=True)
class Blob:
    """A committed block blob. Content never changes in place: a write makes a new object."""

    pieces: tuple[Piece, ...]
    size: int
    etag: str
    modified: datetime
    created: datetime
    content: dict[str, str]  # Content-Type, Content-Encoding, ... as stored with the blob
    metadata: dict[str, str]
    blocks: tuple[tuple[str, Piece], ...] = ()  # (block id, piece), empty after Put Blob
    extra: dict[str, str] = field(default_factory=dict)  # x-ms-copy-* of a copy, x-ms-access-tier* where set
    modified_text: str = ""
    created_text: str = ""

    def __post_init__(self) -> None:
        self.modified_text = http_date(self.modified)
        self.created_text = self.modified_text if self.created == self.modified else http_date(self.created)


@dataclass(slots=True)
class Container:
    name: str
    etag: str
    modified: datetime
    metadata: dict[str, str]
    blobs: dict[str, Blob] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)  # the keys of `blobs`, sorted: listing bisects it
    staged: dict[str, dict[str, Piece]] = field(default_factory=dict)  # blob name → block id → piece
    staged_at: dict[str, datetime] = field(default_factory=dict)  # blob name → when its last block came
    changes: Changes | None = None

    @property
    def modified_text(self) -> str:
        return http_date(self.modified)

    def get(self, name: str) -> Blob:
        blob = self.blobs.get(name)
        if blob is None:
            raise BlobError("BlobNotFound")
        return blob

    def put(self, name: str, blob: Blob) -> None:
        """Make `blob` the content of `name`; its staged blocks are gone, as in the service."""
        if name not in self.blobs:
            insort(self.names, name)
        self.replace(name, blob)
        self._unstage(name)

    def replace(self, name: str, blob: Blob) -> None:
        """Describe the blob of that name anew; its staged blocks stay."""
        self.blobs[name] = blob
        if self.changes is not None:
            self.changes.blob(self.name, name)

    def delete(self, name: str) -> None:
        self.get(name)
        del self.blobs[name]
        del self.names[bisect_left(self.names, name)]
        if self.changes is not None:
            self.changes.blob(self.name, name)
        self._unstage(name)

    def stage(self, name: str, block: str, piece: Piece) -> None:
        """Have an uncommitted block."""
        self.staged.setdefault(name, {})[block] = piece
        if self.changes is not None:
            self.changes.block(self.name, name, block)

    def drop_stale(self, now: datetime) -> None:
        """Forget the blocks of blobs of which nothing came for a week, as the service does."""
        for name in list(self.staged):
            if now - self.staged_at.setdefault(name, now) > _STALE:
                self._unstage(name)

    def _unstage(self, name: str) -> None:
        self.staged_at.pop(name, None)
        if self.staged.pop(name, None) is not None and self.changes is not None:
            self.changes.blocks_gone(self.name, name)

    def changed(self) -> None:
        """To be called when what describes the container is other than it was."""
        if self.changes is not None:
            self.changes.container(self.name)

    def names_from(self, prefix: str, start: str, *, staged: bool) -> Iterator[str]:
        """Names with `prefix`, not before `start`, in order; with `staged` also those of blobs that have
        uncommitted blocks only."""
        names = self.names
        if staged and self.staged:
            names = sorted({*names, *self.staged})
        for index in range(bisect_left(names, max(prefix, start)), len(names)):
            name = names[index]
            if not name.startswith(prefix):
                return
            yield name


class Store:
    """The containers of one account."""

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.changes: Changes | None = None
        self.etags = 0  # how many there were
        self._looked: datetime | None = None

    def drop_stale(self, now: datetime) -> None:
        """Forget the blocks of uploads that were given up; looks for them once an hour."""
        if self._looked is None or now - self._looked > _LOOK:
            self._looked = now
            for container in self.containers.values():
                container.drop_stale(now)

    def new_etag(self) -> str:
        self.etags += 1
        return f'"0x{0x8DE0000000000000 + self.etags:X}"'

    def container(self, name: str) -> Container:
        container = self.containers.get(name)
        if container is None:
            raise BlobError("ContainerNotFound")
        return container

    def create_container(self, name: str, metadata: dict[str, str], now: datetime) -> Container:
        if name in self.containers:
            raise BlobError("ContainerAlreadyExists")
        container = self.containers[name] = Container(name, self.new_etag(), now, metadata, changes=self.changes)
        container.changed()
        return container

    def delete_container(self, name: str) -> None:
        self.container(name)
        del self.containers[name]
        if self.changes is not None:
            self.changes.container_gone(name)
