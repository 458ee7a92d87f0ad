"""Blobs shared by a job's tasks, kept once per node: callables, large buffers, the user's own modules."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import tempfile
import zipfile
from typing import BinaryIO

from batchexec._wire import names
from batchexec._wire.envelope import BadEnvelope, sha256

from . import locks
from .refusals import Refusal
from .store import Store

_LARGE = 1024 * 1024  # bytes from which on the disk is looked at first


class NodeCache:
    """A directory of the job on this node; it goes with the job's preparation task. Every file in it is named by its
    hash, checked when it was fetched, and appears whole by a rename."""

    def __init__(self, directory: str, store: Store, sas: dict[str, str]) -> None:
        self.directory = directory
        self._store = store
        self._sas = sas

    def data(self, digest: str) -> memoryview:
        """A buffer, memory-mapped read-only."""
        return self._mapped(names.data_blob(digest), digest)

    def code(self, digest: str) -> memoryview:
        return self._mapped(names.code_blob(digest), digest)

    def source(self, digest: str) -> str:
        """The directory that holds the unpacked archive."""
        target = os.path.join(self.directory, f"source-{digest}")
        if not os.path.isdir(target):
            with self._alone(digest):
                if not os.path.isdir(target):
                    self._unpack(self._fetch(names.source_blob(digest), digest), target)
        return target

    def listing(self, digest: str) -> memoryview:
        return self._mapped(names.listing_blob(digest), digest)

    def _mapped(self, name: str, digest: str) -> memoryview:
        target = os.path.join(self.directory, digest)
        try:
            file: BinaryIO = open(target, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            file = self._fetch_to(target, name, digest)
        with file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _fetch_to(self, target: str, name: str, digest: str) -> BinaryIO:
        """The blob as a file, open."""
        with self._alone(digest):
            with contextlib.suppress(FileNotFoundError):
                return open(target, "rb")
            data = self._fetch(name, digest)
            if len(data) >= _LARGE:
                self._make_room(len(data))
            descriptor, scratch = tempfile.mkstemp(dir=self.directory)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.rename(scratch, target)
            return open(target, "rb")

    def _unpack(self, data: bytes, target: str) -> None:
        scratch = tempfile.mkdtemp(dir=self.directory)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(os.path.join(scratch, "tree"))
        os.rename(os.path.join(scratch, "tree"), target)
        os.rmdir(scratch)

    def _alone(self, digest: str) -> locks.Lock:
        """One task of this node fetches it, and its siblings wait."""
        return locks.take(os.path.join(self.directory, "locks", digest))

    def _make_room(self, size: int) -> None:
        from .files import room

        try:
            room.make(self.directory, size)
        except room.NoRoom as error:
            raise Refusal("files", f"the node's disk is full: {error}") from error

    def _fetch(self, name: str, digest: str) -> bytes:
        data = self._store.get(name, self._sas[digest])
        if sha256(data) != digest:
            raise BadEnvelope(f"{name} does not have the content its name promises")
        return data


def is_source(path: str) -> bool:
    """Whether it is a directory as `NodeCache.source` makes them."""
    return os.path.basename(path).startswith("source-")
