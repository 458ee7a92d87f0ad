"""Directories that tasks of several jobs share on a node: only those that no other user of the node can replace.

Tasks of a pool run as one user, but a container may run as another.
"""

from __future__ import annotations

import os
import stat
from typing import List


def places(parent: str, name: str) -> List[str]:
    """Where this user's directory of that name may be, below `parent`: the first that is its own."""
    return [os.path.join(parent, top, name) for top in ("batchexec", f"batchexec-{os.getuid()}")]


def is_own(path: str) -> bool:
    """Whether the directory is there and this user's, and so is the one above it, whose owner could put another in its
    place. A link is not."""
    try:
        states = [os.lstat(path), os.lstat(os.path.dirname(path))]
    except OSError:
        return False
    return all(stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() for state in states)
