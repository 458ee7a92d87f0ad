"""What is shown while work is under way, and to whom."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers_service import scrubbed

from batchexec._report.progress import Progress

_WAITING = """
import sys
from functools import partial
import helpers_work as work
from batchexec import BatchExecutor
with BatchExecutor(max_workers=2) as executor:
    futures = [executor.submit(work.touch_and_wait_for, folder, "runs") for folder in sys.argv[1:]]
    for future in futures:
        future.result()
"""
_SLOW = """
import time
from batchexec import BatchExecutor
with BatchExecutor(max_workers=1) as executor:
    executor.submit(time.sleep, 2.2).result()
"""


def test_a_terminal_is_told_where_the_work_goes_and_how_far_it_is(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", _WAITING, *map(str, folders)]
    env = scrubbed(PYTHONPATH=str(Path(__file__).parent))
    text = ""
    with subprocess.Popen(command, stderr=follower, env=env) as process, open(leader, "rb", buffering=0) as terminal:
        os.close(follower)
        try:
            for shown, done in (("0/3 items, 0:", folders[:2]), ("2/3 items, ", folders[2:])):
                while f"\rbatchexec: {shown}" not in text:
                    text += terminal.read(4096).decode()
                for folder in done:
                    (folder / "go").touch()
            with contextlib.suppress(OSError):  # how Linux tells that the other side is closed
                while piece := terminal.read(4096).decode():
                    text += piece
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, text
    assert "on this machine, 2 processes at once (no Azure account is configured)" in text
    first = re.search(r"\rbatchexec: 0/3 items, (\d):(\d\d)", text)
    assert first, text
    assert (first[1], first[2]) >= ("0", "02"), "before that nothing is told"
    assert text.rstrip(" ").endswith("\r")  # the line is wiped at the end


def test_a_file_is_told_nothing() -> None:
    """Not even after the two seconds that are too short for telling anything."""
    done = subprocess.run([sys.executable, "-c", _SLOW], capture_output=True, text=True, env=scrubbed())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Progress:
    """Of an executor on Azure at which someone looks. Its clock stands still."""
    monkeypatch.setattr("batchexec._report.progress.time", SimpleNamespace(monotonic=lambda: 1000.0))
    return Progress(show=True, echo=False, remote=True, quiet_seconds=0)


def lines(progress: Progress, capsys: pytest.CaptureFixture[str]) -> list[str]:
    progress.close()
    return [line.strip() for line in capsys.readouterr().err.split("\r") if line.strip()]


def test_starting_nodes_says_how_long_that_usually_takes(
    progress: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.items_added(5)
    progress.opening()
    progress.sent()
    progress.pool({"targetDedicatedNodes": 4}, [{"state": "starting"}])
    assert lines(progress, capsys) == ["batchexec: 0/5 items, 0:00, starting 4 nodes, 0:00 of typically 3 to 8 min"]


def test_packages_are_what_the_first_tasks_may_wait_for(progress: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    progress.items_added(5)
    progress.opening()
    progress.working(installing=True)
    progress.pool({"targetDedicatedNodes": 1}, [{"state": "running"}])  # others wait meanwhile
    assert lines(progress, capsys) == ["batchexec: 0/5 items, 0:00, nodes may be installing packages"]


def test_the_line_goes_when_all_is_done(progress: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    progress.items_added(5)
    progress.tick()
    progress.chunk_done(5)
    shown = capsys.readouterr().err
    assert shown.startswith("\rbatchexec: 0/5 items, 0:00")
    assert shown.endswith(" \r")
    progress.close()
    assert capsys.readouterr().err == ""


def test_nothing_is_explained_once_work_runs(progress: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    progress.items_added(5)
    progress.opening()
    progress.sent()
    progress.working()
    progress.pool({"targetDedicatedNodes": 4}, [{"state": "running"}])
    assert lines(progress, capsys) == ["batchexec: 0/5 items, 0:00"]
