"""Blobs shared by a job's tasks, kept once per node: callables, large buffers, the user's own modules."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import zipfile
from typing import BinaryIO

from batchexec._wire import names
from batchexec._wire.envelope import BadEnvelope, sha256

from . import locks
from .shared_trees import KEPT, PART, SharedTrees
from .store import Store

_SOURCE = "source-"


class NodeCache:
    """A directory of the job on this node; it goes with the job's preparation task. Every file in it is named by its
    hash, checked when it was fetched, and appears whole by a rename. It is kept within bounds (`disk.room`)."""

    def __init__(self, directory: str, store: Store, sas: dict[str, str]) -> None:
        self.directory = directory
        self.trees = SharedTrees(directory)
        self._store = store
        self._sas = sas

    def data(self, digest: str) -> memoryview:
        """A buffer, memory-mapped read-only."""
        return self._mapped(names.data_blob(digest), digest)

    def code(self, digest: str) -> memoryview:
        return self._mapped(names.code_blob(digest), digest)

    def source(self, digest: str) -> str:
        """The directory that holds the unpacked archive. It stays until `close`."""
        name = f"{_SOURCE}{digest}"
        try:
            if self.trees.hold(name):
                return self.trees.path(name)
        except OSError:
            pass  # on a disk without room for a lock: below, once there is some
        from .disk import room

        return room.trying(self.directory, lambda: self.trees.have(name, lambda new: self._unpack(digest, new)))

    def listing(self, digest: str) -> memoryview:
        return self._mapped(names.listing_blob(digest), digest)

    def close(self) -> None:
        """The task is over."""
        self.trees.let_go()

    def _mapped(self, name: str, digest: str) -> memoryview:
        target = os.path.join(self.directory, digest)
        try:
            file: BinaryIO = open(target, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            file = self._fetch_to(target, name, digest)
        with file:
            locks.hold(file.fileno())  # in use for as long as the map is there, which keeps the file open
            with contextlib.suppress(PermissionError):  # another user's, in a container
                os.utime(file.fileno())
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _fetch_to(self, target: str, name: str, digest: str) -> BinaryIO:
        """The blob as a file, open. One task of this node fetches it, and its siblings wait."""
        from .disk import room

        return room.trying(self.directory, lambda: self._fetch_alone(target, name, digest))

    def _fetch_alone(self, target: str, name: str, digest: str) -> BinaryIO:
        from .disk import room

        with locks.take_part(target + PART) as part:
            with contextlib.suppress(FileNotFoundError):
                found = open(target, "rb")  # noqa: SIM115 - for the caller
                part.remove()
                return found
            try:
                data = self._fetch(name, digest)
                room.make(self.directory, [len(data)])
                os.fchmod(part.descriptor, 0o600)
                with open(target + PART, "wb") as file:
                    file.write(data)
                os.rename(target + PART, target)
            except BaseException:
                part.remove()
                raise
            return open(target, "rb")

    def _unpack(self, digest: str, target: str) -> None:
        from .disk import room

        with zipfile.ZipFile(io.BytesIO(self._fetch(names.source_blob(digest), digest))) as archive:
            room.make(self.directory, [info.file_size for info in archive.infolist()])
            archive.extractall(target)

    def _fetch(self, name: str, digest: str) -> bytes:
        data = self._store.get(name, self._sas[digest])
        if sha256(data) != digest:
            raise BadEnvelope(f"{name} does not have the content its name promises")
        return data


def is_source(path: str) -> bool:
    """Whether it is a directory as `NodeCache.source` makes them."""
    folder, name = os.path.split(path)
    return name.startswith(_SOURCE) and os.path.basename(folder) == KEPT
