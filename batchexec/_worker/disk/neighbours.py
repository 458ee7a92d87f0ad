"""What else is on the node's disk: caches of other jobs, and packages. What nobody uses of them makes room too."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from typing import Iterator, List

from batchexec._worker import locks, own_directories
from batchexec._worker.shared_trees import LOCKS

from . import units

_FOLDER = "caches"  # in the node's shared directory: a link to each job's cache


def join(cache: str) -> None:
    """Have other jobs know of this cache."""
    for folder in _folders():
        # Where none can be made that is this user's own, each job keeps to its own cache.
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
        if own_directories.is_own(folder):
            target = os.path.realpath(cache)
            name = hashlib.sha256(os.fsencode(target)).hexdigest()[:32]
            with contextlib.suppress(OSError):
                # Relative: in a container the node's directories may be elsewhere.
                os.symlink(os.path.relpath(target, os.path.realpath(folder)), os.path.join(folder, name))
            return


@contextlib.contextmanager
def others(cache: str) -> Iterator[List[str]]:
    """The caches of other jobs that are on this disk, without those through which somebody looks right now."""
    with contextlib.ExitStack() as held:
        found = []
        for path in filter(lambda path: _is_ours(path, cache), _known()):
            with contextlib.suppress(OSError):  # it has just become something else
                lock = locks.take_itself(os.path.join(path, LOCKS, units.ROOM_LOCK))
                if lock is not None:
                    held.enter_context(lock)
                    found.append(path)
        yield found


def drop_packages() -> None:
    """Remove the environments of the node that no task uses."""
    from batchexec._worker.packages.node_environments import NodeEnvironments

    for root in _places("environments"):  # as `packages.environment` makes them
        if own_directories.is_own(root):
            NodeEnvironments(root, "", lambda line: print(f"batchexec: {line}", file=sys.stderr)).make_room()


def _places(name: str) -> List[str]:
    shared = os.environ.get("AZ_BATCH_NODE_SHARED_DIR")
    return own_directories.places(shared, name) if shared else []


def _folders() -> List[str]:
    return _places(_FOLDER)


def _known() -> Iterator[str]:
    """What is linked to; links to what went with its job go."""
    for folder in filter(own_directories.is_own, _folders()):
        for name in units.names(folder):
            link = os.path.join(folder, name)
            if not os.path.islink(link):
                continue
            if os.path.isdir(link):
                yield os.path.realpath(link)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(link)


def _is_ours(path: str, cache: str) -> bool:
    """Whether it is a cache of this user's on the disk of `cache`, and another one. Links make no cache: another user
    could have led us to what is not theirs."""
    try:
        there, here = os.lstat(os.path.join(path, LOCKS, units.ROOM_LOCK)), os.stat(cache)
        owned = stat.S_ISREG(there.st_mode) and there.st_uid == os.getuid()
        is_cache = owned and own_directories.is_own(os.path.join(path, LOCKS))
        return is_cache and there.st_dev == here.st_dev and not os.path.samefile(path, cache)
    except OSError:  # it has just gone with its job
        return False
