"""worker.pyz: the worker, what it shares with the client, and cloudpickle, from the installed packages."""

from __future__ import annotations

import functools
import importlib.util
import io
import marshal
import re
import zipfile
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

import cloudpickle

from batchexec._wire import envelope

# The worker, and the face with what it imports: user modules import batchexec on a node too, and make commands.
_ROOMS = ("_calls", "_report", "_settings", "_wire", "_worker")
_ALSO = tuple(f"_command/{name}.py" for name in ("__init__", "checks", "templates", "values"))
_NOT = ("testing.py",)
# Of these the source is there too: a worker of another minor has to get so far as to say so.
_BEFORE_USER_CODE = (
    *("__init__", "cache", "chunk", "context", "crash", "forked", "items", "kept_archive", "locks", "logs", "main"),
    *("refusals", "running", "shared_trees", "store", "surroundings", "task"),
)
_READABLE = re.compile(
    rf"batchexec/(__init__|_version|_wire/.*|_worker/({'|'.join(_BEFORE_USER_CODE)}))\.py|cloudpickle/.*"
)
_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNCHECKED = (1).to_bytes(4, "little")  # flags of a hash-based .pyc that is taken as it is, whatever its hash
_HASH_BYTES = 8


@functools.cache
def build(*, compressed: bool = True) -> tuple[str, bytes]:
    """SHA-256 and bytes of the zipapp, the same throughout this process. On one machine it is not worth compressing."""
    file = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w") as archive:
        for name, path in sorted(_modules()):
            if _READABLE.fullmatch(name):
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), path.read_bytes(), method, 1)
            # Compiling would cost a task more than everything else that it does before user code.
            code = _byte_code(name[:-3].replace("/", "."), path)
            archive.writestr(zipfile.ZipInfo(name + "c", _EPOCH), code, method, 1)
    data = file.getvalue()
    return envelope.sha256(data), data


def _modules() -> Iterator[tuple[str, Path]]:
    package = Path(__file__).parent.parent.parent
    rooms = [path for room in _ROOMS for path in (package / room).rglob("*.py")]
    for path in (*package.glob("*.py"), *rooms, *(package / name for name in _ALSO)):
        if path.name not in _NOT:
            yield path.relative_to(package.parent).as_posix(), path
    pickler = Path(cloudpickle.__file__).parent
    for path in pickler.glob("*.py"):
        yield f"cloudpickle/{path.name}", path


def _byte_code(name: str, path: Path) -> bytes:
    """The module's .pyc. As importing it would, this takes it from the cache or leaves it there."""
    marshalled = _cached(path)
    if marshalled is None:
        code = SourceFileLoader(name, str(path)).get_code(name)
        assert code is not None  # a source file always has code
        marshalled = _cached(path) or marshal.dumps(code)
    return importlib.util.MAGIC_NUMBER + _UNCHECKED + bytes(_HASH_BYTES) + marshalled


def _cached(path: Path) -> bytes | None:
    """The code in the module's .pyc, where that was made of the source as it is now. (Python's own loader would read
    it into objects, to be written again, which took a fifth of the time here.)"""
    try:
        data = Path(importlib.util.cache_from_source(path)).read_bytes()
    except (OSError, NotImplementedError):
        return None
    stat = path.stat()
    stamp = b"".join((number & 0xFFFFFFFF).to_bytes(4, "little") for number in (0, int(stat.st_mtime), stat.st_size))
    head = importlib.util.MAGIC_NUMBER + stamp
    return data[len(head) :] if data.startswith(head) else None
