"""A lock file that names its holder; the system takes the lock back when its holder ends, however it does."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from batchexec.errors import OutputError


class Lock:
    """Held from its making to `release`."""

    def __init__(self, path: Path, what: str) -> None:
        """Raises OutputError, which names `what` and the process that has it."""
        self._path = path
        while True:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            if not _try_lock(self._descriptor):
                os.close(self._descriptor)
                raise OutputError(
                    f"{what} is being written by {_holder(path)}: wait for it, or choose another directory"
                )
            try:
                same = os.path.samestat(os.fstat(self._descriptor), os.stat(path))
            except FileNotFoundError:
                same = False
            if same:
                break
            os.close(self._descriptor)  # its holder removed it just now
        os.truncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, f"{os.getpid()} {platform.node()}\n".encode())

    def release(self) -> None:
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            os.unlink(self._path)
        except OSError:
            pass  # it can be taken all the same (on Windows, no open file can be removed)
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ModuleNotFoundError:
        return _try_lock_on_windows(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_on_windows(descriptor: int) -> bool:
    import msvcrt

    try:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # behind the text, which others may read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    return True


def _holder(path: Path) -> str:
    try:
        pid, _, host = path.read_text("utf-8", "replace").strip().partition(" ")
    except OSError:
        return "another process"
    return f"process {pid} on {host}" if pid else "another process"
