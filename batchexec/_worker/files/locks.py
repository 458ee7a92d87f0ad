"""Locks between the tasks of a node, by flock: the system takes them back when their holder dies, however it does."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Iterator, Optional


def take(path: str, *, shared: bool = False, wait: bool = True) -> Optional[int]:
    """Take the lock; a descriptor that holds it until it is closed. None when `wait` is False and others hold it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            break
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def held(path: str) -> Iterator[int]:
    """The lock, for a block; its descriptor, whose file's content is the holder's to use."""
    descriptor = take(path)
    assert descriptor is not None
    try:
        yield descriptor
    finally:
        os.close(descriptor)
