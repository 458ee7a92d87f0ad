"""Directories that the tasks of a node share: made once, whole or not there, staying while a task uses them."""

from __future__ import annotations

import contextlib
import os
from typing import Callable

from . import locks

KEPT, LOCKS = "kept", "locks"
"""Directories of a job's cache: what is described here, and locks."""
PART = ".part"  # at the end of names of what is not whole; unless it is locked, nobody is at work on it


class SharedTrees:
    """Those of one job on this node, as one task uses them."""

    def __init__(self, cache: str) -> None:
        self.cache = cache
        self._held: dict[str, locks.Lock] = {}

    def path(self, name: str) -> str:
        return os.path.join(self.cache, KEPT, name)

    def have(self, name: str, fill: Callable[[str], object]) -> str:
        """The directory of that name, held as by `hold`. Where it is not there, `fill` gets a new one to put all into.

        Raises OSError (to be met by `disk.room.trying`) and what `fill` raises.
        """
        if not self.hold(name):
            with self.making(name):
                if not os.path.isdir(self.path(name)):
                    self.make(name, fill)
        return self.path(name)

    def hold(self, name: str) -> bool:
        """Whether it is there. If so, or once it is, it stays until `let_go`."""
        if name not in self._held:
            self._held[name] = locks.take(use_lock(self.cache, name), shared=True)
        try:
            os.utime(self.path(name))  # what was used longest ago goes first
        except FileNotFoundError:
            return False
        except PermissionError:  # another user's, in a container
            pass
        return True

    def making(self, name: str) -> locks.Lock:
        """The lock of the only task that makes it, or mends it."""
        return locks.take(os.path.join(self.cache, LOCKS, f"make-{name}"))

    def make(self, name: str, fill: Callable[[str], object]) -> None:
        """As `have`, under the lock of `making`: nobody sees it before all is in it."""
        from . import trees

        scratch = self.path(name) + PART
        trees.remove(scratch)  # of a task that was killed
        try:
            os.makedirs(scratch)
            fill(scratch)
            os.rename(scratch, self.path(name))
        except BaseException:
            trees.remove(scratch)
            raise

    def let_go(self) -> None:
        """The task is over. Forks of its process that it left running hold them on."""
        while self._held:
            with contextlib.suppress(OSError):  # user code may close what it has not opened
                self._held.popitem()[1].release()


def use_lock(cache: str, name: str) -> str:
    """The lock that is shared by those who use the directory."""
    return os.path.join(cache, LOCKS, f"use-{name}")
