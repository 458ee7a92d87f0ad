"""Chunks as bytes: signed envelopes, several to a pack, and the blobs that they refer to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from batchexec._source import Archive, bundle
from batchexec._wire import envelope, names, payload

from .packages import Packages
from .work import Chunk, Part

if TYPE_CHECKING:
    from batchexec._azure.blobs import BlobStore

    from .staging import Staged, Staging, Upload

PACK_BYTES = 4 * 1024 * 1024
_BUFFER_BLOB_BYTES = 1024 * 1024  # out-of-band buffers from this size on are blobs of their own


class Packed:
    """A chunk ready to go: its envelope, and the blobs it refers to (name by content hash)."""

    def __init__(self, chunk: Chunk, data: bytes, blobs: dict[str, str], files: Staged | None) -> None:
        self.chunk = chunk
        self.data = data
        self.blobs = blobs
        self.files = files


class Packer:
    """Packs the chunks of one job. `new_blobs` collects what has to be uploaded before tasks may refer to it."""

    def __init__(
        self, job: str, key: bytes, store: BlobStore, source_limit_mb: float, packages: Packages | None = None
    ) -> None:
        self._job = job
        self._store = store
        self._staging: Staging | None = None
        self._packages = packages
        self._key = key
        self._source_limit = int(source_limit_mb * 1e6)
        self._known: set[str] = set()  # names of blobs handed out for upload
        self._archives: dict[frozenset[str], Archive | None] = {}
        self.new_blobs: dict[str, bytes | memoryview] = {}

    @property
    def staging(self) -> Staging:
        """The job's files; loaded when there are some."""
        if self._staging is None:
            from .staging import Staging

            self._staging = Staging(self._store)
        return self._staging

    def take_uploads(self) -> list[Upload]:
        """Contents of files that have to be uploaded for the chunks packed since the last time."""
        return self._staging.take() if self._staging else []

    def pack(self, chunk: Chunk) -> Packed:
        """Raises PayloadError when the user's modules cannot be shipped, or the packages cannot be had on nodes."""
        assert chunk.items is not None
        reached = chunk.reached
        blobs: dict[str, str] = {}
        parts: dict[str, Any] = {}
        frames: list[payload.Frame] = []
        if chunk.call.init is not None:
            parts["init"] = self._part(chunk.call.init, frames, blobs)
        parts["code"] = self._part(chunk.call.code, frames, blobs)
        parts["items"] = len(chunk.items.frames)
        frames += chunk.items.frames
        external: dict[str, str] = {}
        for index, frame in enumerate(frames):
            if isinstance(frame, memoryview) and frame.nbytes >= _BUFFER_BLOB_BYTES:
                digest = envelope.sha256(frame)
                self._blob(names.data_blob(digest), digest, frame, blobs)
                external[str(index)] = digest
                frames[index] = b""
        environment = self._packages.environment(reached, id(chunk.call)) if self._packages else None
        if environment is not None:
            chunk.environment = environment
            for digest, data in environment.blobs.items():
                self._blob(names.data_blob(digest), digest, data, blobs)
        archive = self._archive(reached.local)
        if archive is not None:
            self._blob(names.source_blob(archive.sha256), archive.sha256, archive.data, blobs)
        for part in chunk.parts:
            for handle in part.shared:
                self._blob(names.code_blob(handle.digest), handle.digest, handle.data, blobs)
        header = {
            "parts": parts,
            "external": external,
            "source": archive.sha256 if archive else None,
            "modules": (*reached.third_party, *chunk.call.preloads),
            "numbers": [chunk.first_item + i for i in range(chunk.size) if i not in chunk.failed],
            "seed": chunk.call.seed,
            "environment": environment.digest if environment else None,
        }
        files = None
        if chunk.call.needs.files or chunk.filesets:
            files = self.staging.stage(chunk.call.needs.files, chunk.filesets)
            header["files"] = files.header
            for digest, data in files.listings.items():
                self._blob(names.listing_blob(digest), digest, data, blobs)
        if chunk.call.attaches:
            header["outputs"] = chunk.call.needs.outputs
        about = envelope.context("chunk", self._job, chunk.number, chunk.generation)
        return Packed(chunk, envelope.seal(self._key, about, header, frames), blobs, files)

    def must_look_up(self, chunks: Iterable[Chunk]) -> bool:
        """Whether packing them begins with finding out which packages they need: that may take seconds."""
        return self._packages is not None and any(self._packages.pending(chunk.reached) for chunk in chunks)

    def index(self, pack: int, chunks: Iterable[Packed]) -> bytes:
        """A pack's first envelope: what it holds, so that a job can be read again from its storage alone."""
        entries = []
        start = 0
        for packed in chunks:
            chunk = packed.chunk
            entry: dict[str, Any] = {"chunk": chunk.number, "generation": chunk.generation, "items": chunk.size}
            entry |= {"call": chunk.call.name, "map": chunk.is_map, "offset": chunk.offset, "first": chunk.first_item}
            if chunk.failed:
                entry["failed"] = sorted(chunk.failed)
            if chunk.call.finish is not None:
                entry["command"] = True  # its items tell what they were asked for
            entries.append({**entry, "at": start})
            start += len(packed.data)
        about = envelope.context("index", self._job, pack)
        return envelope.seal(self._key, about, {"chunks": entries})

    def manifest(self, call_number: int, chunks: list[Chunk]) -> bytes:
        """One `map`: the callable's hash, how many items, and which chunk holds which."""
        call = chunks[0].call
        about = envelope.context("manifest", self._job, call_number)
        code = call.code.blob[0]
        header = {
            "callable": call.name,
            "code": code,
            "items": sum(chunk.size for chunk in chunks),
            "chunks": [[chunk.number, chunk.offset, chunk.size] for chunk in chunks],
        }
        return envelope.seal(self._key, about, header)

    def _part(self, part: Part, frames: list[payload.Frame], blobs: dict[str, str]) -> int | str:
        if part.inline:
            frames += part.frames
            return len(part.frames)
        digest, data = part.blob
        self._blob(names.code_blob(digest), digest, data, blobs)
        return digest

    def _blob(self, name: str, digest: str, data: bytes | memoryview, blobs: dict[str, str]) -> None:
        blobs[digest] = name
        if name not in self._known:
            self._known.add(name)
            self.new_blobs[name] = data

    def _archive(self, local: frozenset[str]) -> Archive | None:
        if local not in self._archives:
            self._archives[local] = bundle(local, limit_bytes=self._source_limit)
        return self._archives[local]


def task_spec(packed: Packed, pack: int, start: int, sas: Any) -> str:
    """The task's own setting: where its chunk is, and SAS for each blob it may touch. `sas(name, permission, keep)`."""
    chunk = packed.chunk
    result = names.result_blob(chunk.number, chunk.generation)
    spec = {
        "chunk": chunk.number,
        "gen": chunk.generation,
        "pack": pack,
        "range": [start, start + len(packed.data)],
        "in": sas(names.pack_blob(pack), "r", keep=True),
        "out": sas(result, "rc"),
        "log": sas(names.log_blob(chunk.number, chunk.generation), "cw"),
        "blobs": {digest: sas(name, "r", keep=True) for digest, name in packed.blobs.items()},
    }
    return json.dumps(spec, separators=(",", ":"))
