"""Making directories where a file system is quick with what is in them."""

from __future__ import annotations

import os
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


def make_top(path: Path) -> bool:
    """A directory whose subdirectories have nothing to do with each other; True where the file system was told.

    ext4 then puts each of them into a region of its own. Otherwise a new node's files go where those of earlier nodes
    were, and creating a file passes over every one deleted there in the last minutes: milliseconds for each task.
    """
    path.mkdir(parents=True, exist_ok=True)
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
