"""Locks between the tasks of a node, by flock: the system takes them back when their holder dies, however it does."""

from __future__ import annotations

import fcntl
import os


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


def _take(path: str, how: int) -> Lock | None:
    while True:
        descriptor = _open(path)
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


def _open(path: str) -> int:
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
