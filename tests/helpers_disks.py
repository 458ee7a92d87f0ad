"""Disks that are soon full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str, files: int = 300) -> Iterator[None]:
    """A disk of this size, and of so many files, at `folder`. Where nobody may mount one, the test is skipped; where
    all checks must run, it fails."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={files}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("this user may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
