"""The temporary directory of an emulator, and those that emulators left behind which were killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path

_PREFIX = "batchexec-emulator-"
_LOCK = "in-use"


class TemporaryRoot:
    """A new directory, locked for as long as this process lives; the lock goes with the process however that ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # It gets its name once it is locked: nobody finds it without its owner.
        descriptor, unnamed = tempfile.mkstemp(dir=self.path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(unnamed, self.path / _LOCK)
        self._lock = descriptor

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_abandoned() -> threading.Thread:
    """Remove, beside the service and no longer than it lives, what is in nobody's use any more."""
    remover = threading.Thread(target=_remove_abandoned, args=(Path(tempfile.gettempdir()),), daemon=True)
    remover.start()
    return remover


def _remove_abandoned(directory: Path) -> None:
    with os.scandir(directory) as entries:
        ours = [Path(entry) for entry in entries if entry.name.startswith(_PREFIX) and _is_ours(entry)]
    for path in ours:
        # Where it is in use, another emulator removes it too, or something is in the way. A later one will try again.
        with contextlib.suppress(OSError):
            _remove_unless_locked(path)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _remove_unless_locked(path: Path) -> None:
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != _LOCK:
                entry.unlink()
        # Last: a directory without it is looked at no more.
        (path / _LOCK).unlink()
        path.rmdir()
    finally:
        os.close(lock)
