"""What a job's cache consists of, and how each part goes: never one that a running task uses.

HASH         a blob; locked (shared) by those who have it mapped
files/NAME   contents of files; what is linked from a working directory or a kept set is in use
kept/NAME    directories, of which each has a lock (shared_trees)
*.part       what is being written, locked by its writer; unlocked it is what a killed task left, and goes first
             (files/NAME.LOCK.part by that lock, as there may be ten thousand of them)
locks/*      locks; a file that nobody holds goes when the cache is looked through

What a program has put there instead stays, and no link is followed: the cache may be that of another job.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Iterator, List, NamedTuple

from batchexec._worker import locks, trees
from batchexec._worker.shared_trees import KEPT, LOCKS, PART, use_lock

FILES = "files"
ROOM_LOCK = "room"  # of who looks through the cache
_BEGUN = 0.0  # when that was used which is not whole


class Unit(NamedTuple):
    """What can go by itself."""

    used: float
    size: int
    path: str
    cache: str


def cost(size: int, least: int) -> int:
    """Bytes of the disk that a file of so many bytes takes, of which each takes `least`."""
    return max(least, -(-size // 4096) * 4096)


def total(cache: str, least: int) -> int:
    """Bytes that all of it takes."""
    there = [*_files(cache), *_files(os.path.join(cache, FILES))]
    return sum(cost(state.st_size, least) for _, state in there) + _tree_cost(os.path.join(cache, KEPT), least)


def free(caches: List[str], excess: float, least: int) -> int:
    """Let go what was used longest ago until `excess` bytes are gone, or nothing more can; how many are. Only by who
    has the lock ROOM_LOCK of each."""
    gone = 0
    # Contents that a kept set links to are free to go only once that has gone.
    for _ in range(2):
        for unit in sorted(unit for cache in caches for unit in _units(cache, least)):
            if gone >= excess:
                break
            if _drop(unit):
                gone += unit.size
    for cache in caches:
        _drop_locks(cache)
    return gone


def _units(cache: str, least: int) -> List[Unit]:
    """What can go if nobody uses it. A file that is linked from elsewhere is in use, and would free nothing."""
    units = []
    for path, state in [*_files(cache), *_files(os.path.join(cache, FILES))]:
        if state.st_nlink == 1:
            used = _BEGUN if path.endswith(PART) else state.st_ctime
            units.append(Unit(used, cost(state.st_size, least), path, cache))
    kept = os.path.join(cache, KEPT)
    for name in names(kept):
        path = os.path.join(kept, name)
        with contextlib.suppress(FileNotFoundError):
            used = _BEGUN if name.endswith(PART) else os.lstat(path).st_mtime
            units.append(Unit(used, _tree_cost(path, least), path, cache))
    return units


def _drop(unit: Unit) -> bool:
    """Whether it has gone."""
    try:
        return _dropped(unit)
    except OSError:  # something else is there by now, or its directory was closed to us
        return False


def _dropped(unit: Unit) -> bool:
    folder, name = os.path.split(unit.path)
    if os.path.basename(folder) == KEPT:
        return _drop_tree(unit.cache, folder, name[: -len(PART)] if name.endswith(PART) else name)
    if os.path.basename(folder) != FILES:
        lock = locks.take_itself(unit.path)
    elif name.endswith(PART):
        lock = locks.take_beside(os.path.join(unit.cache, LOCKS, name[: -len(PART)].rpartition(".")[2]))
    else:
        return _unlink(unit.path)
    if lock is None:
        return False
    with lock:
        return _unlink(unit.path)


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _drop_tree(cache: str, folder: str, name: str) -> bool:
    """Remove a directory, whole or begun, unless a task uses it or makes it."""
    lock = locks.take_beside(use_lock(cache, name))  # the cache may be going, with its job
    if lock is None:
        return False
    whole = os.path.join(folder, name)
    begun = whole + PART
    with lock:
        try:
            trees.remove(begun)
            if os.path.isdir(whole):
                os.rename(whole, begun)  # before anything of it goes
                trees.remove(begun)
        except OSError:  # a program has left what is not ours to remove, or still writes to it: later, perhaps
            return False
    return True


def _drop_locks(cache: str) -> None:
    for name in names(os.path.join(cache, LOCKS)):
        with contextlib.suppress(OSError):
            lock = locks.take_itself(os.path.join(cache, LOCKS, name)) if name != ROOM_LOCK else None
            if lock is not None:
                with lock:
                    lock.remove()


def _tree_cost(path: str, least: int) -> int:
    """Bytes that a directory takes with all below, but for files that are elsewhere too."""
    if os.path.islink(path):
        return least
    size = 0
    for folder, directories, found in os.walk(path):
        size += least
        for name in (*found, *(one for one in directories if os.path.islink(os.path.join(folder, one)))):
            with contextlib.suppress(FileNotFoundError):
                state = os.lstat(os.path.join(folder, name))
                if state.st_nlink == 1:
                    size += cost(state.st_size, least)
    return size


def _files(directory: str) -> Iterator["tuple[str, os.stat_result]"]:
    for name in names(directory):
        path = os.path.join(directory, name)
        with contextlib.suppress(FileNotFoundError):
            state = os.lstat(path)
            if stat.S_ISREG(state.st_mode):
                yield path, state


def names(directory: str) -> List[str]:
    """What is in it; nothing where it is no directory itself, or is closed to us."""
    try:
        return [] if os.path.islink(directory) else os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
