"""What else is on the node's disk: caches of other jobs, and packages. What nobody uses of them makes room too."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from typing import Iterator, List

from batchexec._worker import locks
from batchexec._worker.shared_trees import LOCKS

from . import units

_PLACE = os.path.join("batchexec", "caches")  # in the node's shared directory: a link to each job's cache


def join(cache: str) -> None:
    """Have other jobs know of this cache."""
    folder = _folder()
    if folder:
        target = os.path.realpath(cache)
        name = hashlib.sha256(os.fsencode(target)).hexdigest()[:32]
        # Where it cannot be made, as the directory is another user's, each job keeps to its own cache.
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            # Relative: in a container the node's directories may be elsewhere.
            os.symlink(os.path.relpath(target, os.path.realpath(folder)), os.path.join(folder, name))


@contextlib.contextmanager
def others(cache: str) -> Iterator[List[str]]:
    """The caches of other jobs that are on this disk, without those through which somebody looks right now."""
    with contextlib.ExitStack() as held:
        found = []
        for path in _known(_folder()):
            if _is_ours(path, cache):
                lock = locks.take_itself(os.path.join(path, LOCKS, units.ROOM_LOCK))
                if lock is not None:
                    held.enter_context(lock)
                    found.append(path)
        yield found


def drop_packages() -> None:
    """Remove the environments of the node that no task uses."""
    from batchexec._worker.packages.node_environments import NodeEnvironments

    for name in ("batchexec", f"batchexec-{os.getuid()}"):  # as `packages.environment` makes them
        root = os.path.join(_shared(), name, "environments")
        if _shared() and os.path.isdir(root) and os.access(root, os.W_OK):
            NodeEnvironments(root, "", lambda line: print(f"batchexec: {line}", file=sys.stderr)).make_room()


def _shared() -> str:
    return os.environ.get("AZ_BATCH_NODE_SHARED_DIR", "")


def _folder() -> str:
    return os.path.join(_shared(), _PLACE) if _shared() else ""


def _known(folder: str) -> Iterator[str]:
    """What is linked to; links to what went with its job go."""
    for name in units.names(folder):
        link = os.path.join(folder, name)
        if os.path.isdir(link):
            yield os.path.realpath(link)
        else:
            with contextlib.suppress(OSError):
                os.unlink(link)


def _is_ours(path: str, cache: str) -> bool:
    """Whether it is a cache of this user's on the disk of `cache`, and another one."""
    try:
        there, here = os.stat(os.path.join(path, LOCKS, units.ROOM_LOCK)), os.stat(cache)
        return there.st_uid == os.getuid() and there.st_dev == here.st_dev and not os.path.samefile(path, cache)
    except OSError:  # it has just gone with its job
        return False
