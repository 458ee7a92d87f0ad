"""SHA-256 of files, read again only when they have changed."""

from __future__ import annotations

import hashlib
import os
import time

from batchexec.errors import FilesError

_BLOCK = 1024 * 1024
_MOST = 200_000  # remembered hashes
_SETTLED_NS = 1_000_000_000  # a file may change once more within its clock's tick: what is this young is not remembered

_known: dict[tuple[str, int, int, int], str] = {}


def of_file(path: str, state: os.stat_result) -> str:
    """The hash of the file `path`, whose `os.stat` is `state`. Raises FilesError when it cannot be read."""
    key = (path, state.st_mtime_ns, state.st_size, state.st_ino)
    digest = _known.get(key)
    if digest is None:
        digest = _read(path)
        if time.time_ns() - state.st_mtime_ns > _SETTLED_NS:
            if len(_known) >= _MOST:
                _known.clear()
            _known[key] = digest
    return digest


def _read(path: str) -> str:
    hashed = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                hashed.update(block)
    except OSError as error:
        raise unreadable(path, error) from error
    return hashed.hexdigest()


def unreadable(path: str, error: OSError) -> FilesError:
    return FilesError(f"{path!r} cannot be read: {error.strerror or error}")
