"""The client's files on a node: sets of them placed into directories, from contents that the node has once."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any, Callable, Dict, Iterable, List, Tuple

from batchexec._wire import files
from batchexec._wire.envelope import BadEnvelope
from batchexec._worker.disk import room
from batchexec._worker.refusals import Refusal
from batchexec._worker.shared_trees import SharedTrees
from batchexec._worker.store import Store

from .contents import CHECKED, Content, Contents, content, intact, mark_used, unavailable

_TRIES = 5  # of a content that goes again before it is placed: others need the room, or write to it
_CANNOT_LINK = frozenset((errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS))

_Wanted = Tuple[bytes, files.File, Content]


class NodeFiles:
    """The sets that a chunk names. `sets` are their listings, or the hashes of these, which `read` reads."""

    def __init__(self, trees: SharedTrees, store: Store, sets: Dict[str, Any], read: Callable[[str], Any]) -> None:
        self._trees = trees
        self._sets = sets
        self._read = read
        self._listings: Dict[str, files.Listing] = {}
        self._contents = Contents(trees.cache, store)

    def place(self, set_id: str, directory: str) -> None:
        """Put the set's files below `directory`: small ones as copies, large ones as read-only links. What is there
        under the same name is replaced. Raises Refusal and StoreError."""
        listing = self._listing(set_id)
        self._trying(directory, lambda: self._place(listing, os.fsencode(directory), frozen=False))

    def kept(self, set_id: str) -> str:
        """A directory on this node that holds the set for all its tasks, to be read only. It stays while the task runs.
        Raises as `place`."""
        listing, target = self._listing(set_id), self._trees.path(set_id)
        self._trying(target, lambda: self._keep(set_id, listing, target))
        return target

    def _keep(self, set_id: str, listing: files.Listing, target: str) -> None:
        self._trees.hold(set_id)
        if not self._whole(listing, os.fsencode(target)):
            with self._trees.making(set_id):
                if not os.path.isdir(target):
                    self._trees.make(set_id, lambda new: self._place(listing, os.fsencode(new), frozen=True))
                elif not self._whole(listing, os.fsencode(target)):
                    self._place(listing, os.fsencode(target), frozen=True)  # each by a rename: others may be reading

    def _trying(self, directory: str, work: Callable[[], None]) -> None:
        try:
            room.trying(self._trees.cache, work)
        except OSError as error:
            raise unavailable(f"files cannot be placed in {directory!r}: {error}") from error

    def _listing(self, set_id: str) -> files.Listing:
        if set_id not in self._listings:
            said = self._sets[set_id]
            try:
                self._listings[set_id] = files.load(self._read(said) if isinstance(said, str) else said)
            except BadEnvelope as error:
                raise Refusal("tampered", str(error)) from error
        return self._listings[set_id]

    def _place(self, listing: files.Listing, top: bytes, *, frozen: bool) -> None:
        left = _wanted(listing, top)
        folders = {_below(top, path) for path in listing.directories}
        folders.update(os.path.dirname(target) for target, _, _ in left)
        for folder in sorted(folders):
            os.makedirs(folder, exist_ok=True)
        for _ in range(_TRIES):
            self._contents.fetch(listing.sources, (one for _, file, one in left if file.size))
            left = [wanted for wanted in left if not self._put(wanted, frozen)]
            if not left:
                return
        raise unavailable(f"{left[0][1].path!r} is not kept on the node for long enough: the disk is too small for it")

    def _whole(self, listing: files.Listing, top: bytes) -> bool:
        """Whether the kept set is there, and as we left it."""
        try:
            for target, file, one in _wanted(listing, top):
                mode = 0o555 if file.executable else 0o444
                if not intact(one._replace(mode=mode), os.lstat(target)):
                    return False
        except OSError:
            return False
        return all(os.path.isdir(_below(top, path)) for path in ("", *listing.directories))

    def _put(self, wanted: _Wanted, frozen: bool) -> bool:
        """Whether the file is in its place now; False when its content has gone from the cache meanwhile."""
        target, file, one = wanted
        source = self._contents.path(one)
        scratch = os.path.join(os.path.dirname(target), b".batchexec-%d.part" % os.getpid())
        _unlink(scratch)  # of a task that was killed and runs again
        try:
            if not file.size:
                _write(scratch, [b""], file.executable, frozen)
            elif file.size < files.SMALL_BYTES or not _link(one, source, scratch):
                with open(source, "rb", buffering=0) as content:
                    if not intact(one, os.fstat(content.fileno())):
                        return False
                    mark_used(content.fileno(), one)
                    _write(scratch, iter(lambda: content.read(files.SMALL_BYTES), b""), file.executable, frozen)
                    if not intact(one, os.fstat(content.fileno())):
                        return False
            os.rename(scratch, target)
            return True
        except FileNotFoundError:
            return False
        finally:
            _unlink(scratch)  # also where the name was renamed onto another link of the same file, which does nothing


def _wanted(listing: files.Listing, top: bytes) -> List[_Wanted]:
    return [(_below(top, file.path), file, content(listing, file)) for file in listing.files]


def _below(top: bytes, path: str) -> bytes:
    """Names travel as the client's file system had them, whatever this process takes for its encoding."""
    return os.path.join(top, path.encode("utf-8", "surrogateescape")) if path else top


def _link(one: Content, source: str, target: bytes) -> bool:
    """Whether the content could be linked. Raises FileNotFoundError when it is not there, or not as it was."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _CANNOT_LINK:
            return False
        raise
    if not intact(one, os.lstat(target)):
        raise FileNotFoundError(source)
    return True


def _write(path: bytes, pieces: Iterable[bytes], executable: bool, frozen: bool) -> None:
    """A new file; `frozen`: as `intact` expects it, for all to read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o777 if executable else 0o666)
    with open(descriptor, "wb", buffering=0) as file:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[file.write(rest) :]
        if frozen:
            os.fchmod(descriptor, 0o555 if executable else 0o444)
            os.utime(descriptor, (CHECKED, CHECKED))


def _unlink(path: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
