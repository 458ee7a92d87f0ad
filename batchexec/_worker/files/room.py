"""Room on the node's disk: the job's cache is kept within bounds, and what was used longest ago goes first."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from typing import Iterator, List, NamedTuple

from batchexec._worker import locks

_SHARE = 0.5  # of the disk, that one job's cache may take
_MARGIN = 0.02  # of the disk, to be left free
_MARGIN_MOST = 256 * 1024 * 1024
_SLACK = 0.9  # of its bounds that is filled after something had to go, so that it is not looked through at every file

_STALE_SECONDS = 3600.0  # without a change after which what was begun is taken to be left by a task that was killed
PART = ".part"  # at the end of names of files that are being written

FILES, KEPT, LOCKS = "files", "kept", "locks"
"""Directories of the cache: contents by hash, placed sets, locks."""


class NoRoom(Exception):
    """The disk cannot hold what is wanted, even with nothing else in the cache."""


class _Unit(NamedTuple):
    """What can go by itself."""

    used: float
    size: int
    path: str


def make(cache: str, wanted: int) -> None:
    """Have `wanted` bytes free on the disk of `cache`. Raises NoRoom."""
    with locks.take(os.path.join(cache, LOCKS, "room")) as lock:
        disk = os.statvfs(cache)
        total, free = disk.f_frsize * disk.f_blocks, disk.f_frsize * disk.f_bavail
        most, margin = total * _SHARE, min(total * _MARGIN, _MARGIN_MOST)
        used = int(os.pread(lock.descriptor, 32, 0) or b"0") + wanted
        if used > most or free - wanted < margin:
            before = _size(cache)
            excess = max(before + wanted - most * _SLACK, wanted + margin / _SLACK - free)
            used = before - _free(cache, excess) + wanted
            disk = os.statvfs(cache)
            free = disk.f_frsize * disk.f_bavail
            if free < wanted:
                raise NoRoom(
                    f"{wanted / 1e6:,.1f} MB are needed, and {free / 1e6:,.1f} of {total / 1e6:,.1f} MB are free"
                )
        os.pwrite(lock.descriptor, b"%-32d" % used, 0)


def mark_used(descriptor: int, mode: int) -> None:
    """Note that a file of the cache, whose mode this is, is used now.

    That is its time of status change: links set it anyhow, the time of the last reading is not kept on every disk, and
    that of the last writing tells whether the file is whole.
    """
    with contextlib.suppress(PermissionError):  # of another user's, in a container
        os.fchmod(descriptor, mode)


def empty(cache: str) -> None:
    """Let everything go that no running task holds."""
    with locks.take(os.path.join(cache, LOCKS, "room")):
        _free(cache, float("inf"))


def _free(cache: str, excess: float) -> int:
    """Let go what was used longest ago until `excess` bytes are gone, or nothing more can; how many are."""
    gone = 0
    # Contents that a kept set links to are free to go only once that has gone.
    for _ in range(2):
        for unit in sorted(_units(cache)):
            if gone >= excess:
                return gone
            if os.path.isdir(unit.path):
                gone += _drop_kept(cache, unit)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(unit.path)
                    gone += unit.size
    return gone


def _drop_kept(cache: str, unit: _Unit) -> int:
    """Remove a placed set, unless a task uses it."""
    lock = locks.take_now(use_lock(cache, os.path.basename(unit.path)))
    if lock is None:
        return 0
    try:
        trash = tempfile.mkdtemp(dir=os.path.join(cache, KEPT), prefix=".")
        os.rename(unit.path, os.path.join(trash, "set"))
        shutil.rmtree(trash)
    finally:
        lock.release()
    return unit.size


def use_lock(cache: str, set_id: str) -> str:
    """The lock that is shared by those who use a placed set; its time says when that was last."""
    return os.path.join(cache, LOCKS, f"use-{set_id}")


def _units(cache: str) -> List[_Unit]:
    """What can go. A file that is linked from elsewhere is in use, and would free nothing."""
    stale = time.time() - _STALE_SECONDS
    units = []
    for path, state in [*_files(cache), *_files(os.path.join(cache, FILES))]:
        begun = path.endswith(PART) or not _is_hash(os.path.basename(path))
        if state.st_nlink == 1 and (not begun or state.st_mtime < stale):
            units.append(_Unit(state.st_ctime, state.st_size, path))
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(os.path.join(cache, KEPT)):
            path = os.path.join(cache, KEPT, name)
            with contextlib.suppress(FileNotFoundError):
                begun = not _is_hash(name)
                used = os.stat(path if begun else use_lock(cache, name)).st_mtime
                if not begun or used < stale:
                    units.append(_Unit(used, _tree_size(path), path))
    return units


def _is_hash(name: str) -> bool:
    return len(name.partition("x")[0]) == 64


def _size(cache: str) -> int:
    there = [*_files(cache), *_files(os.path.join(cache, FILES))]
    return sum(state.st_size for _, state in there) + _tree_size(os.path.join(cache, KEPT))


def _tree_size(path: str) -> int:
    """Bytes of the files below that are nowhere else."""
    return sum(state.st_size for folder, _, _ in os.walk(path) for _, state in _files(folder) if state.st_nlink == 1)


def _files(directory: str) -> Iterator["tuple[str, os.stat_result]"]:
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            with contextlib.suppress(FileNotFoundError):
                state = os.lstat(path)
                if stat.S_ISREG(state.st_mode):
                    yield path, state
