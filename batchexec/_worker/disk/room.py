"""Room on the node's disk: caches of jobs are kept within bounds, and what was used longest ago goes first."""

from __future__ import annotations

import errno
import os
from typing import Callable, List, NamedTuple, TypeVar

from batchexec._worker import locks
from batchexec._worker.refusals import Refusal
from batchexec._worker.shared_trees import LOCKS

from . import neighbours, units

_SHARE = 0.5  # of the disk, that one job's cache may take
_MARGIN = 0.02  # of the disk, to be left free
_MARGIN_MOST = 256 * 1024 * 1024
_SLACK = 0.9  # of its bounds that is filled after something had to go, so that it is not looked through at every file
_STEP = 1024 * 1024  # bytes that are asked for at once of what comes bit by bit
_BLOCK = 4096  # bytes that a file takes at least

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))

T = TypeVar("T")


class NoRoom(Refusal):
    """The disk cannot hold what is wanted, even with nothing else in the cache."""

    def __init__(self, why: str) -> None:
        super().__init__("files", f"the node's disk is full: {why}")


class _Disk(NamedTuple):
    """Bytes of a file system. One that has only so many files has used a part of its bytes with each of them."""

    total: int
    free: int
    least: int  # that a file takes

    @property
    def most(self) -> float:
        """That one job may take."""
        return self.total * _SHARE

    @property
    def margin(self) -> float:
        """That are to be left free."""
        return min(self.total * _MARGIN, _MARGIN_MOST)

    @classmethod
    def of(cls, directory: str) -> _Disk:
        found = os.statvfs(directory)
        total, free = found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail
        if not found.f_files:
            return cls(total, free, _BLOCK)
        a_file = total // found.f_files
        return cls(total, min(free, a_file * found.f_favail), max(_BLOCK, a_file))


def make(cache: str, sizes: List[int]) -> None:
    """Have room on the disk of `cache` for new files of so many bytes each: within the job's own bound, and where the
    disk is nearly full, at the expense of what other jobs of the node do not use. Raises NoRoom."""
    with locks.take(os.path.join(cache, LOCKS, units.ROOM_LOCK)) as lock:
        disk = _Disk.of(cache)
        wanted = sum(units.cost(size, disk.least) for size in sizes)
        known = os.pread(lock.descriptor, 32, 0)
        if not known:
            neighbours.join(cache)
        # What is no number was written there by something else: all is counted.
        used = wanted + (int(known or b"0") if (known.strip() or b"0").isdigit() else disk.total)
        if used > disk.most or disk.free - wanted < disk.margin:
            if wanted < disk.total:  # else it would be for nothing
                _let_go(cache, wanted, disk)
            used = units.total(cache, disk.least) + wanted
            free = _Disk.of(cache).free
            if free < wanted:
                raise NoRoom(
                    f"{wanted / 1e6:,.1f} MB are needed, and {free / 1e6:,.1f} of {disk.total / 1e6:,.1f} MB are free"
                )
        os.pwrite(lock.descriptor, b"%-32d" % used, 0)


def _let_go(cache: str, wanted: int, disk: _Disk) -> None:
    """What was used longest ago, of this job, of all jobs, and of packages: as far as need be."""
    excess = units.total(cache, disk.least) + wanted - disk.most * _SLACK
    if excess > 0:
        units.free([cache], excess, disk.least)
    missing = wanted + disk.margin / _SLACK - _Disk.of(cache).free
    if missing > 0:
        with neighbours.others(cache) as others:
            units.free([cache, *others], missing, disk.least)
    if _Disk.of(cache).free < wanted:
        neighbours.drop_packages()


class Claim:
    """Room for files that come one after the other, without a look at the disk for each."""

    def __init__(self, cache: str) -> None:
        self._cache = cache
        self._least = _Disk.of(cache).least
        self._left = 0

    def take(self, size: int) -> None:
        """For one more file of so many bytes. Raises NoRoom."""
        cost = units.cost(size, self._least)
        if cost > self._left:
            step = max(cost, _STEP)
            make(self._cache, [step])
            self._left += step
        self._left -= cost


def trying(cache: str, work: Callable[[], T]) -> T:
    """What `work` returns, which writes to the disk of `cache`. Where that turns out to be full, it is done once more
    when everything has gone that no task uses. Raises NoRoom where it is full then, too."""
    try:
        return work()
    except OSError as error:
        if error.errno not in _FULL:
            raise
    empty(cache)
    try:
        return work()
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise NoRoom(str(error)) from error


def empty(cache: str) -> int:
    """Let everything go that no running task holds, of other jobs of the node too. How many bytes have gone."""
    with locks.take(os.path.join(cache, LOCKS, units.ROOM_LOCK)), neighbours.others(cache) as others:
        return units.free([cache, *others], float("inf"), _BLOCK)
