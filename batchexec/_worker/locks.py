"""Locks between the tasks of a node, by flock: the system takes them back when their holder dies, however it does."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

_MAKE = os.O_RDWR | os.O_CREAT


class Lock:
    """A locked file, whose content and times are the holder's to use. It stays locked until `release`, or for as long
    as this process and its forks live."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self.descriptor = descriptor

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def touch(self) -> None:
        """Its file was used just now."""
        os.utime(self.descriptor)

    def remove(self) -> None:
        """The file goes, of a lock held exclusively. Who waits for it sees that and makes another."""
        os.unlink(self._path)

    def release(self) -> None:
        os.close(self.descriptor)


def take(path: str, *, shared: bool = False) -> Lock:
    """The lock, when those have let it go who hold it."""
    lock = _take(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    assert lock is not None
    return lock


def take_now(path: str, *, shared: bool = False) -> Lock | None:
    """The lock, unless somebody holds it so that it cannot be had now."""
    return _take(path, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def take_part(path: str) -> Lock:
    """The lock of a file that is to be written, made if it is not there, once nobody else has it. The descriptor only
    reads: a file that is open to be written to cannot be executed."""
    lock = _take(path, fcntl.LOCK_EX, os.O_RDONLY | os.O_CREAT)
    assert lock is not None
    return lock


def take_itself(path: str) -> Lock | None:
    """The lock of a file that is there; None where it is not, or somebody holds it."""
    try:
        return _take(path, fcntl.LOCK_EX | fcntl.LOCK_NB, os.O_RDONLY)
    except FileNotFoundError:
        return None


def take_beside(path: str) -> Lock | None:
    """As `take_now`, where the directory of the lock is there; None where it is not."""
    try:
        return _take(path, fcntl.LOCK_EX | fcntl.LOCK_NB, _MAKE, directories=False)
    except FileNotFoundError:
        return None


def hold(descriptor: int) -> None:
    """Have an open file locked, shared, for as long as it is open: here, in forks, or by a memory map."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def _take(path: str, how: int, flags: int = _MAKE, *, directories: bool = True) -> Lock | None:
    while True:
        descriptor = _open(path, flags, directories)
        try:
            fcntl.flock(descriptor, how)
            if _is_at(path, descriptor):
                return Lock(path, descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was removed when we got it: lock the one that is there now


def _open(path: str, flags: int, directories: bool) -> int:
    """What another task has put there instead of a file is an OSError: it leads nowhere, and nobody waits for it."""
    while True:
        try:
            # Of a pipe, the end that is opened to be read would wait for the other.
            descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except FileNotFoundError:
            if not (directories and flags & os.O_CREAT):
                raise
            os.makedirs(os.path.dirname(path), exist_ok=True)
            continue
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise OSError(errno.EINVAL, "this is no file to lock", path)


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
