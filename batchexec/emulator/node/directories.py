"""Directories and files that the service makes among those of tasks, which may have put links and pipes there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import struct
import sys
from pathlib import Path

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS of 64-bit Linux
_TOP_OF_HIERARCHIES = 0x20000  # FS_TOPDIR_FL, `chattr +T`


def make_directory(path: Path | str) -> None:
    """One directory, whose parent is there."""
    try:
        os.mkdir(path)
    except FileExistsError:
        pass


def passes_link(root: Path, path: Path | str) -> bool:
    """Whether a name between `root` and a path below it is a symbolic link, which leads to anywhere.

    A container that sees its node's directory can put one there. The service itself must not go where it cannot.
    """
    way = str(root)
    for part in str(path)[len(way) + 1 :].split(os.sep):
        way = f"{way}{os.sep}{part}"
        if os.path.islink(way):
            return True
    return False


def refuse_links(root: Path, path: Path | str) -> None:
    """Raise OSError where such a link stands in the way."""
    if passes_link(root, path):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def remove_tree(root: Path, path: Path) -> None:
    """Remove what there is of a directory below `root`, and nothing that a link leads to."""
    if passes_link(root, path.parent):
        return
    if path.is_symlink():
        path.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def open_to_append(path: Path) -> int:
    """Open a file of the service's own, in place of what else a task may have put there: a link of either kind, or a
    pipe that would be waited for. The caller closes it."""
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.unlink(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    return os.open(path, flags, 0o666)


def make_top(path: Path) -> bool:
    """A directory whose subdirectories have nothing to do with each other; True where the file system was told.

    ext4 then puts each of them into a region of its own. Otherwise a new node's files go where those of earlier nodes
    were, and creating a file passes over every one deleted there in the last minutes: milliseconds for each task.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)  # what tasks write is for their owner alone
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return False
    import fcntl

    directory = os.open(path, os.O_RDONLY)
    try:
        (flags,) = struct.unpack("l", fcntl.ioctl(directory, _GET_FLAGS, bytes(8)))
        fcntl.ioctl(directory, _SET_FLAGS, struct.pack("l", flags | _TOP_OF_HIERARCHIES))
    except OSError:  # a file system without such flags
        return False
    finally:
        os.close(directory)
    return True
