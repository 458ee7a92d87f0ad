"""Contents of files in the node's cache: each is fetched by one task, checked against its hash, and used by all."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
from typing import BinaryIO, Dict, Iterable, Iterator, List, NamedTuple, Sequence

from batchexec._wire import files
from batchexec._worker import locks
from batchexec._worker.disk import room, units
from batchexec._worker.refusals import Refusal
from batchexec._worker.shared_trees import LOCKS, PART
from batchexec._worker.store import Store, StoreError

# The time of change that a checked file gets: when it has another one, a task has written to it.
CHECKED = 1_000_000_000
CHECKED_NS = CHECKED * 1_000_000_000


class Content(NamedTuple):
    """What a file of a listing holds. A large one that is executable is another one, as links share their modes."""

    name: str
    size: int
    mode: int
    digest: str
    source: int
    start: int


def unavailable(why: str) -> Refusal:
    """Of files that cannot be had on this node."""
    return Refusal("files", why)


def content(listing: files.Listing, file: files.File) -> Content:
    if not file.size:
        return Content("", 0, 0o444, file.digest, -1, 0)
    linked = file.size >= files.SMALL_BYTES
    source = listing.sources[file.source]
    name = file.digest or hashlib.sha256(f"{source.name}\n{source.etag}".encode("utf-8", "surrogateescape")).hexdigest()
    executable = linked and file.executable
    mode = 0o555 if executable else 0o444
    return Content(name + ("x" if executable else ""), file.size, mode, file.digest, file.source, file.start)


def intact(one: Content, state: os.stat_result) -> bool:
    """Whether a file of this state is the content, as it was when it was checked."""
    return (
        state.st_mtime_ns == CHECKED_NS
        and state.st_size == one.size
        and stat.S_IMODE(state.st_mode) == one.mode
        and stat.S_ISREG(state.st_mode)
    )


def mark_used(descriptor: int, one: Content) -> None:
    """Note that the open file of the content is used now.

    That is its time of status change: links set it anyhow, the time of the last reading is not kept on every disk, and
    that of the last writing tells whether the file is whole.
    """
    with contextlib.suppress(PermissionError):  # of another user's, in a container
        os.fchmod(descriptor, one.mode)


class Contents:
    """The cache's directory of contents."""

    def __init__(self, cache: str, store: Store) -> None:
        self._cache = cache
        self._directory = os.path.join(cache, units.FILES)
        self._store = store
        os.makedirs(self._directory, exist_ok=True)

    def path(self, one: Content) -> str:
        return os.path.join(self._directory, one.name)

    def fetch(self, sources: Sequence[files.Source], wanted: Iterable[Content]) -> None:
        """Have the contents here. Raises Refusal and StoreError."""
        missing: Dict[int, Dict[str, Content]] = {}
        for one in wanted:
            if not self._there(one):
                missing.setdefault(one.source, {})[one.name] = one
        for number, contents in missing.items():
            source = sources[number]
            with locks.take(os.path.join(self._cache, LOCKS, _lock_of(source))):
                still = [one for one in contents.values() if not self._there(one)]  # a sibling may have been faster
                if still:
                    room.trying(self._cache, functools.partial(self._read, source, still))

    def _there(self, one: Content) -> bool:
        try:
            return intact(one, os.lstat(self.path(one)))
        except FileNotFoundError:
            return False

    def _read(self, source: files.Source, contents: List[Content]) -> None:
        try:
            room.make(self._cache, [one.size for one in contents])
            for run in _runs(contents):
                self._read_run(source, run)
        except StoreError as error:
            if error.status == 416:  # it is shorter than it was
                raise Refusal("tampered", f"{source.name} does not have the content that its client sent") from error
            if source.etag is None or error.status not in (404, 412):
                raise
            what = "was changed" if error.status == 412 else "is not there any more"
            raise unavailable(f"the blob {source.name} {what} since the work was submitted") from error

    def _read_run(self, source: files.Source, run: List[Content]) -> None:
        """Contents that follow each other in the blob, by one request."""
        stop = run[-1].start + run[-1].size
        ending = f".{_lock_of(source)}{PART}"
        pieces = self._store.pieces(source.name, source.sas, run[0].start, stop, source.etag)
        with contextlib.closing(pieces):  # type: ignore[type-var]
            rest = memoryview(b"")
            for one in run:
                part = self.path(one) + ending
                try:
                    rest = _write(part, one, rest, pieces)
                    os.rename(part, self.path(one))
                except BaseException:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(part)
                    raise


def _lock_of(source: files.Source) -> str:
    """The name of the lock of who reads from the source."""
    return hashlib.sha256(source.name.encode("utf-8", "surrogateescape")).hexdigest()


def _write(path: str, one: Content, rest: memoryview, pieces: Iterator[bytes]) -> memoryview:
    """The content from `rest` and then `pieces`, checked; what is left of the last piece."""
    hashed = hashlib.sha256()
    left = one.size
    with _opened(path) as file:
        while left:
            if not rest:
                rest = memoryview(next(pieces))
            part, rest = rest[:left], rest[left:]
            hashed.update(part)
            left -= len(part)
            while part:
                part = part[file.write(part) :]
    if one.digest and hashed.hexdigest() != one.digest:
        raise Refusal("tampered", f"the content of a file ({one.digest[:12]}...) is not what its client sent")
    os.chmod(path, one.mode)
    os.utime(path, (CHECKED, CHECKED))
    return rest


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "wb", buffering=0)
    except PermissionError:  # a task that was killed had done with it
        os.unlink(path)
        return open(path, "wb", buffering=0)


def _runs(contents: List[Content]) -> Iterator[List[Content]]:
    """Contents by where they lie, as long as they follow each other without a gap."""
    run: List[Content] = []
    for one in sorted(contents, key=lambda content: content.start):
        if run and one.start != run[-1].start + run[-1].size:
            yield run
            run = []
        run.append(one)
    if run:
        yield run
