"""Directories that go with all that programs have left in them."""

from __future__ import annotations

import os
import shutil
import sys


def remove(directory: str) -> None:
    """The directory, if it is there, whatever a program did to the modes of what is below. Of a link in its place, the
    link alone."""
    if os.path.islink(directory):
        os.unlink(directory)
        return
    if not os.path.isdir(directory):
        return
    try:
        shutil.rmtree(directory)
    except PermissionError:  # programs leave directories that nobody may write to
        _open_all(directory)
        shutil.rmtree(directory)


def empty(directory: str) -> None:
    """What is in the directory. What cannot be removed goes with the task, and is named on standard error."""
    with os.scandir(directory) as found:
        entries = list(found)
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                remove(entry.path)
            else:
                os.unlink(entry.path)
        except FileNotFoundError:
            pass  # something else was faster
        except OSError as error:
            print(f"batchexec worker: {entry.name!r} stays on the node: {error.strerror}", file=sys.stderr)


def _open_all(directory: str) -> None:
    os.chmod(directory, 0o700)  # each before it is looked into
    for parent, directories, _ in os.walk(directory):
        for name in directories:
            below = os.path.join(parent, name)
            if not os.path.islink(below):
                os.chmod(below, 0o700)
