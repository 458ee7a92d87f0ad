"""Blobs shared by a job's tasks, kept once per node: callables, large buffers, the user's own modules."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import zipfile

from batchexec._wire import names
from batchexec._wire.envelope import BadEnvelope, sha256

from .store import Store


class NodeCache:
    """A directory of the job on this node; it goes with the job's preparation task. Every file in it is named by its
    hash, checked when it was fetched, and appears whole by a rename."""

    def __init__(self, directory: str, store: Store, sas: dict[str, str]) -> None:
        self._directory = directory
        self._store = store
        self._sas = sas

    def data(self, digest: str) -> memoryview:
        """A buffer, memory-mapped read-only."""
        return self._mapped(names.data_blob(digest), digest)

    def code(self, digest: str) -> memoryview:
        return self._mapped(names.code_blob(digest), digest)

    def source(self, digest: str) -> str:
        """The directory that holds the unpacked archive."""
        target = os.path.join(self._directory, f"source-{digest}")
        if not os.path.isdir(target):
            data = self._fetch(names.source_blob(digest), digest)
            os.makedirs(self._directory, exist_ok=True)
            scratch = tempfile.mkdtemp(dir=self._directory)
            with open(os.path.join(scratch, "archive.zip"), "wb") as file:
                file.write(data)
            with zipfile.ZipFile(os.path.join(scratch, "archive.zip")) as archive:
                archive.extractall(os.path.join(scratch, "tree"))
            _appear(os.path.join(scratch, "tree"), target)
            shutil.rmtree(scratch)
        return target

    def _mapped(self, name: str, digest: str) -> memoryview:
        target = os.path.join(self._directory, digest)
        if not os.path.exists(target):
            data = self._fetch(name, digest)
            os.makedirs(self._directory, exist_ok=True)
            descriptor, scratch = tempfile.mkstemp(dir=self._directory)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            _appear(scratch, target)
        with open(target, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _fetch(self, name: str, digest: str) -> bytes:
        data = self._store.get(name, self._sas[digest])
        if sha256(data) != digest:
            raise BadEnvelope(f"{name} does not have the content its name promises")
        return data


def is_source(path: str) -> bool:
    """Whether it is a directory as `NodeCache.source` makes them."""
    return os.path.basename(path).startswith("source-")


def _appear(scratch: str, target: str) -> None:
    """Rename into place; a sibling that was faster has put the same content there."""
    try:
        os.rename(scratch, target)
    except OSError:
        if not os.path.exists(target):
            raise
        if os.path.isdir(scratch):
            shutil.rmtree(scratch)
        else:
            os.unlink(scratch)
