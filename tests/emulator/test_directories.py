"""The directory of the nodes: told to the file system as one of unrelated trees, where it can be told."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from batchexec.emulator.node.directories import make_top


def test_the_top_of_unrelated_trees_is_marked_or_left_as_it_is(tmp_path: Path) -> None:
    top = tmp_path / "a" / "nodes"
    told = make_top(top)
    os.mkdir(top / "node")
    if not told:
        pytest.skip("this file system has no such mark")
    listed = subprocess.run(["lsattr", "-d", top, top / "node"], capture_output=True, text=True, check=True).stdout
    marks = [line.split()[0] for line in listed.splitlines()]
    assert ["T" in mark for mark in marks] == [True, False]


def test_a_directory_that_is_there_already_is_kept(tmp_path: Path) -> None:
    make_top(tmp_path / "nodes")
    (tmp_path / "nodes" / "kept").touch()
    make_top(tmp_path / "nodes")
    assert (tmp_path / "nodes" / "kept").exists()


def test_a_file_system_without_marks_is_no_error() -> None:
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        pytest.skip("no /dev/shm here")
    with tempfile.TemporaryDirectory(dir=shared) as directory:
        make_top(Path(directory, "top"))
        assert Path(directory, "top").is_dir()
