"""Locks between the tasks of a node whose files can be removed, so that they do not become more and more."""

from __future__ import annotations

import os
import time

from batchexec._worker.files import locks

_PAUSE = 0.1  # seconds between two looks at a lock


class Lock:
    """A locked file. A process that dies lets go of it, whatever it dies of."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def taken(cls, path: str, *, shared: bool = False) -> Lock | None:
        """The lock, unless somebody holds it so that it cannot be had now."""
        while True:
            descriptor = locks.take(path, shared=shared, wait=False)
            if descriptor is None:
                return None
            try:
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return cls(path, descriptor)
            except FileNotFoundError:
                pass
            os.close(descriptor)  # it was removed when we got it: lock the one that is there now

    @classmethod
    def waited_for(cls, path: str, *, shared: bool = False) -> Lock:
        while True:
            lock = cls.taken(path, shared=shared)
            if lock is not None:
                return lock
            time.sleep(_PAUSE)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def touch(self) -> None:
        """Its file was used just now."""
        os.utime(self._descriptor)

    def remove(self) -> None:
        """The file goes, of a lock held exclusively. Who waits for it sees that and makes another."""
        os.unlink(self._path)

    def release(self) -> None:
        os.close(self._descriptor)
