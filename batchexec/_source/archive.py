"""The archive of local modules: the same content gives the same bytes, and so the same name."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field

from batchexec._source.layout import Entry, data_beside, unreadable
from batchexec._source.reach import local_closure
from batchexec.errors import SourceError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip archive can tell


@dataclass(frozen=True)
class Archive:
    """A zip archive of local modules, to be unpacked into a directory on `sys.path`.

    `names` are the top-level modules in it, `size` the bytes it takes unpacked.
    """

    sha256: str
    data: bytes = field(repr=False)
    names: tuple[str, ...]
    size: int


def bundle(local: Iterable[str], *, limit_bytes: int) -> Archive | None:
    """Archive the local top-level modules `local` and those that they import; None when there are none.

    Raises SourceError when they are larger than `limit_bytes` unpacked, unreadable, or in each other's way.
    """
    modules = local_closure(local)
    if not modules:
        return None
    files: dict[str, Entry] = {}
    for entry in (e for group in modules.values() for e in group):
        files[entry.name] = entry
    for entry in data_beside(list(files.values())):
        other = files.setdefault(entry.name, entry)
        if other.path != entry.path:
            raise SourceError(
                f"{other.path} and {entry.path} would both be {entry.name!r} beside your modules "
                "on the worker: rename one, or put one of the modules into a package"
            )
    chosen = tuple(files[name] for name in sorted(files))
    _check_size(chosen, limit_bytes)
    return _zipped(chosen, tuple(sorted(modules)))


def _check_size(files: tuple[Entry, ...], limit_bytes: int) -> None:
    total = sum(entry.size for entry in files)
    if total > limit_bytes:
        largest = sorted(files, key=lambda entry: (-entry.size, entry.name))[:5]
        raise SourceError(
            f"your own modules take {_megabytes(total)} in {len(files)} files, more than the limit of "
            f"{_megabytes(limit_bytes)} (setting source_limit_mb). The largest files:"
            + "".join(f"\n  {_megabytes(entry.size):>10}  {entry.path}" for entry in largest)
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


@functools.lru_cache(maxsize=2)  # files that have not changed are not compressed again
def _zipped(files: tuple[Entry, ...], names: tuple[str, ...]) -> Archive:
    out = io.BytesIO()
    size = 0
    with zipfile.ZipFile(out, "w") as archive:
        for entry in files:
            try:
                with open(entry.path, "rb") as file:
                    content = file.read()
            except OSError as exc:
                raise unreadable(entry.path, exc) from exc
            info = zipfile.ZipInfo(entry.name, _EPOCH)
            info.create_system = 3  # Unix, wherever this runs: part of the bytes
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content, compresslevel=1)
            size += len(content)
    data = out.getvalue()
    return Archive(hashlib.sha256(data).hexdigest(), data, names, size)
